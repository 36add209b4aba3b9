-- Quota marks: who reached 80 or 100 percent of which quota, once for each window.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 13) THEN
        RAISE EXCEPTION 'migration 13 is applied already; nothing was changed';
    ELSIF to_regclass('quota_marks') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "quota_marks" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE quota_marks (
    -- No foreign key: what was reached was reached.
    client_id    uuid        NOT NULL,
    policy       text        NOT NULL,
    window_start timestamptz NOT NULL,
    percent      integer     NOT NULL,
    window_end   timestamptz NOT NULL,
    quota        bigint      NOT NULL,
    used         bigint      NOT NULL,
    mode         text        NOT NULL CHECK (mode IN ('enforce', 'shadow')),
    reached_at   timestamptz NOT NULL,
    PRIMARY KEY (client_id, policy, window_start, percent)
);
CREATE INDEX quota_marks_listing ON quota_marks (reached_at);

INSERT INTO octroi_migrations (version, name) VALUES (13, 'create_quota_marks');
COMMIT;
