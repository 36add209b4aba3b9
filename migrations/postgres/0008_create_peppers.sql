-- Peppers: fingerprints of the secrets that hashes were made with, trusted on first use.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 8) THEN
        RAISE EXCEPTION 'migration 8 is applied already; nothing was changed';
    ELSIF to_regclass('peppers') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "peppers" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE peppers (
    version     integer     PRIMARY KEY,
    fingerprint text        NOT NULL UNIQUE,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz
);

INSERT INTO octroi_migrations (version, name) VALUES (8, 'create_peppers');
COMMIT;
