-- Idempotency keys: what a write of the admin API was answered, so that asking again does nothing again.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE idempotency_keys (
    -- Who asked.
    scope        TEXT NOT NULL,
    key          TEXT NOT NULL,
    -- Of method, path and body.
    request_hash TEXT NOT NULL,
    -- Null: it is not answered yet.
    status       INTEGER,
    response     TEXT,
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

INSERT INTO octroi_migrations (version, name) VALUES (18, 'create_idempotency_keys');
COMMIT;
