-- Keys: many a client, known only by their hashes.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE api_keys (
    id             TEXT    PRIMARY KEY NOT NULL
        -- A random UUID (version 4).
        DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
                 '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) ||
                 '-' || hex(randomblob(6)))),
    client_id      TEXT    NOT NULL REFERENCES clients (id),
    name           TEXT    NOT NULL,
    -- HMAC-SHA-256 of the raw key: 64 lower-case hex digits, or no look-up would ever find it.
    api_key_hash   TEXT    NOT NULL UNIQUE CHECK (length(api_key_hash) = 64 AND api_key_hash NOT GLOB '*[^0-9a-f]*'),
    pepper_version INTEGER,
    key_id         TEXT    UNIQUE,
    scopes         TEXT    NOT NULL DEFAULT '[]',
    rate           TEXT,
    burst          INTEGER CHECK (burst > 0),
    created_at     TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    expires_at     TEXT,
    revoked_at     TEXT,
    last_used_at   TEXT,
    replaced_by    TEXT    REFERENCES api_keys (id)
) STRICT;
-- `replace`: rows written with CURRENT_TIMESTAMP have a space where RFC 3339 has a `T`.
CREATE INDEX api_keys_listing ON api_keys (replace(created_at, ' ', 'T'), id);
CREATE INDEX api_keys_of_client ON api_keys (client_id, replace(created_at, ' ', 'T'), id);

INSERT INTO octroi_migrations (version, name) VALUES (2, 'create_api_keys');
COMMIT;
