-- Hourly sums of usage: what reports read. Filled in the same step as the events.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 6) THEN
        RAISE EXCEPTION 'migration 6 is applied already; nothing was changed';
    ELSIF to_regclass('usage_hourly') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "usage_hourly" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE usage_hourly (
    hour        timestamptz NOT NULL,
    -- Nothing is null, or equal rows would not meet: the nil id, 0 or '' says "none".
    client_id   uuid        NOT NULL,
    api_key_id  uuid        NOT NULL,
    route       text        NOT NULL,
    status      integer     NOT NULL,
    outcome     text        NOT NULL,
    reason      text        NOT NULL,
    requests    bigint      NOT NULL,
    units       bigint      NOT NULL,
    bytes_in    bigint      NOT NULL,
    bytes_out   bigint      NOT NULL,
    duration_us bigint      NOT NULL,
    PRIMARY KEY (hour, client_id, api_key_id, route, status, outcome, reason)
);
CREATE INDEX usage_hourly_of_client ON usage_hourly (client_id, hour);

INSERT INTO octroi_migrations (version, name) VALUES (6, 'create_usage_hourly');
COMMIT;
