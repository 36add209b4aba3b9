-- What routes that observe would have refused, by the hour: beside the sums and not among them,
-- because these requests were served and are billed by their events.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 15) THEN
        RAISE EXCEPTION 'migration 15 is applied already; nothing was changed';
    ELSIF to_regclass('usage_observed') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "usage_observed" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE usage_observed (
    hour       timestamptz NOT NULL,
    -- As in `usage_hourly`: nothing is null.
    client_id  uuid        NOT NULL,
    api_key_id uuid        NOT NULL,
    route      text        NOT NULL,
    -- What the caller would have been sent.
    status     integer     NOT NULL,
    reason     text        NOT NULL,
    requests   bigint      NOT NULL,
    PRIMARY KEY (hour, client_id, api_key_id, route, status, reason)
);

INSERT INTO octroi_migrations (version, name) VALUES (15, 'create_usage_observed');
COMMIT;
