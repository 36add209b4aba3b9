-- Clients: the tenants, each with keys, limits and a bill.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE clients (
    id                     TEXT    PRIMARY KEY NOT NULL
        -- A random UUID (version 4).
        DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
                 '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) ||
                 '-' || hex(randomblob(6)))),
    name                   TEXT    NOT NULL CHECK (name <> ''),
    status                 TEXT    NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    -- A hash from before `api_keys`; look-ups accept it as that client's credential.
    -- 64 lower-case hex digits, or no look-up would ever find it.
    api_key_hash           TEXT    UNIQUE CHECK (length(api_key_hash) = 64 AND api_key_hash NOT GLOB '*[^0-9a-f]*'),
    api_key_pepper_version INTEGER,
    rate                   TEXT,
    burst                  INTEGER CHECK (burst > 0),
    plan_id                TEXT,
    metadata               TEXT    NOT NULL DEFAULT '{}',
    created_at             TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    updated_at             TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;
CREATE INDEX clients_name ON clients (name);
-- `replace`: rows written with CURRENT_TIMESTAMP have a space where RFC 3339 has a `T`.
CREATE INDEX clients_listing ON clients (replace(created_at, ' ', 'T'), id);

INSERT INTO octroi_migrations (version, name) VALUES (1, 'create_clients');
COMMIT;
