-- Refresh tokens: rotated on every use, in families; only hashes are kept.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE refresh_tokens (
    id           TEXT PRIMARY KEY NOT NULL
        -- A random UUID (version 4).
        DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
                 '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) ||
                 '-' || hex(randomblob(6)))),
    client_id    TEXT NOT NULL REFERENCES clients (id),
    family_id    TEXT NOT NULL,
    token_hash   TEXT NOT NULL UNIQUE CHECK (length(token_hash) = 64 AND token_hash NOT GLOB '*[^0-9a-f]*'),
    -- Hex. With the presented token it makes the successor again, for a replay within the grace.
    nonce        TEXT NOT NULL,
    parent_id    TEXT,
    successor_id TEXT,
    issued_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    expires_at   TEXT NOT NULL,
    used_at      TEXT,
    revoked_at   TEXT
) STRICT;
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);

INSERT INTO octroi_migrations (version, name) VALUES (4, 'create_refresh_tokens');
COMMIT;
