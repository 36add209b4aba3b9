-- Nodes: the processes that serve, and the peppers each of them knows.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 10) THEN
        RAISE EXCEPTION 'migration 10 is applied already; nothing was changed';
    ELSIF to_regclass('nodes') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "nodes" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE nodes (
    -- Of a process, not of a machine: one that starts again is another.
    id              uuid        PRIMARY KEY,
    name            text        NOT NULL,
    -- Fingerprints, as in `peppers`. The previous one need not be there: while a new pepper is
    -- rolled out, processes know it before any store trusts it.
    pepper          text        NOT NULL,
    pepper_previous text,
    started_at      timestamptz NOT NULL DEFAULT now(),
    -- Every few seconds. Who was not seen for half a minute is gone.
    seen_at         timestamptz NOT NULL DEFAULT now()
);

INSERT INTO octroi_migrations (version, name) VALUES (10, 'create_nodes');
COMMIT;
