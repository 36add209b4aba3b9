-- Idempotency keys: what a write of the admin API was answered, so that asking again does nothing again.
BEGIN;

-- The lock the binary holds while it migrates: psql waits for it, and it for psql.
DO $$ BEGIN PERFORM pg_advisory_xact_lock(122472946102121); END $$;
CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    bigint      PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text,
    applied_at timestamptz NOT NULL DEFAULT now()
);
DO $$
BEGIN
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 18) THEN
        RAISE EXCEPTION 'migration 18 is applied already; nothing was changed';
    ELSIF to_regclass('idempotency_keys') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "idempotency_keys" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE idempotency_keys (
    -- Who asked.
    scope        text        NOT NULL,
    key          text        NOT NULL,
    -- Of method, path and body.
    request_hash text        NOT NULL,
    -- Null: it is not answered yet.
    status       integer,
    response     text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

INSERT INTO octroi_migrations (version, name) VALUES (18, 'create_idempotency_keys');
COMMIT;
