-- Keys that work, of one client: looked at before a client changes its keys, however many are over.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE INDEX api_keys_working ON api_keys (client_id, replace(created_at, ' ', 'T'), id) WHERE revoked_at IS NULL;

INSERT INTO octroi_migrations (version, name) VALUES (19, 'index_working_keys');
COMMIT;
