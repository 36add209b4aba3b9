-- Books: what each journal still owes, how far back events go, months that are closed, and what
-- came after they were.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 14) THEN
        RAISE EXCEPTION 'migration 14 is applied already; nothing was changed';
    ELSIF to_regclass('journals') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "journals" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE journals (
    -- The uuid in the name of its folder. A process that starts again begins another.
    id          uuid        PRIMARY KEY,
    node        text        NOT NULL,
    -- What arrived before is in the store.
    clear_until timestamptz NOT NULL,
    -- Counts reports. Whoever finds less than it wrote knows that the store lost commits.
    beat        bigint      NOT NULL,
    reported_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE usage_retention (
    one      boolean     PRIMARY KEY DEFAULT true CHECK (one),
    -- Events that arrived before were deleted: none is taken in again.
    before   timestamptz NOT NULL,
    -- The smallest id of that moment.
    first_id uuid        NOT NULL,
    set_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE closed_months (
    month     text        PRIMARY KEY CHECK (month ~ '^\d{4}-\d{2}$'),
    starts    timestamptz NOT NULL,
    ends      timestamptz NOT NULL,
    closed_at timestamptz NOT NULL DEFAULT now(),
    -- Journals that were not waited for.
    without   text        NOT NULL DEFAULT ''
);

-- What a client used in a closed month, what was corrected in it included.
CREATE TABLE closed_month_totals (
    month       text   NOT NULL REFERENCES closed_months (month),
    client_id   uuid   NOT NULL,
    requests    bigint NOT NULL,
    units       bigint NOT NULL,
    bytes_in    bigint NOT NULL,
    bytes_out   bigint NOT NULL,
    duration_us bigint NOT NULL,
    rejected    bigint NOT NULL,
    PRIMARY KEY (month, client_id)
);

-- As `usage_hourly`, for what came when the month of its hour was closed: the month in which it was
-- booked pays.
CREATE TABLE usage_adjustments (
    booked      timestamptz NOT NULL,
    corrects    text        NOT NULL,
    hour        timestamptz NOT NULL,
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
    PRIMARY KEY (booked, hour, client_id, api_key_id, route, status, outcome, reason)
);
CREATE INDEX usage_adjustments_of_hour ON usage_adjustments (hour, client_id);

-- As in 0003, but whoever waited sees what was made meanwhile: only a lock on a table makes a session
-- read its catalogue anew, and without it the second of two found the partition missing and failed.
CREATE OR REPLACE FUNCTION octroi_make_usage_partition(month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first_day date := date_trunc('month', month::timestamp)::date;
    part      text := to_char(first_day, '"usage_events_"FMYYYY"_"MM');
BEGIN
    IF to_regclass(part) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(122472946102122);
    LOCK TABLE usage_events IN ACCESS SHARE MODE;
    IF to_regclass(part) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE usage_events INCLUDING ALL)', part);
    -- Triggers of a statement are not inherited: each partition refuses for itself.
    EXECUTE format(
        'CREATE TRIGGER usage_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
        'FOR EACH STATEMENT EXECUTE FUNCTION octroi_append_only()', part);
    EXECUTE format(
        'ALTER TABLE usage_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part,
        octroi_uuid_at(first_day::timestamp AT TIME ZONE 'UTC'),
        octroi_uuid_at((first_day + interval '1 month') AT TIME ZONE 'UTC'));
END $$;

INSERT INTO octroi_migrations (version, name) VALUES (14, 'create_books');
COMMIT;
