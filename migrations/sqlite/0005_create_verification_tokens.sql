-- Verification tokens: the short-lived JWTs we issued, for audit. Never the token itself.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE verification_tokens (
    jti        TEXT PRIMARY KEY NOT NULL,
    client_id  TEXT NOT NULL REFERENCES clients (id),
    api_key_id TEXT REFERENCES api_keys (id),
    subject    TEXT NOT NULL,
    scopes     TEXT NOT NULL DEFAULT '[]',
    audience   TEXT,
    issued_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    expires_at TEXT NOT NULL,
    revoked_at TEXT
) STRICT;

INSERT INTO octroi_migrations (version, name) VALUES (5, 'create_verification_tokens');
COMMIT;
