-- Keys that work, of one client: looked at before a client changes its keys, however many are over.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 19) THEN
        RAISE EXCEPTION 'migration 19 is applied already; nothing was changed';
    END IF;
END $$;

CREATE INDEX api_keys_working ON api_keys (client_id, created_at, id) WHERE revoked_at IS NULL;

INSERT INTO octroi_migrations (version, name) VALUES (19, 'index_working_keys');
COMMIT;
