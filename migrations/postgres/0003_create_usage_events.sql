-- Usage events: what is billed. One row a request, written once, never changed.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 3) THEN
        RAISE EXCEPTION 'migration 3 is applied already; nothing was changed';
    ELSIF to_regclass('usage_events') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "usage_events" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE usage_events (
    -- UUID v7, made by the gateway. The key rises with time, so it is also the index by time;
    -- a second index would cost as much as proxying the request did.
    id          uuid        PRIMARY KEY,
    request_id  text        NOT NULL,
    -- No foreign keys: a bill outlives what it is for, and an insert must not lock a client's row.
    client_id   uuid        NOT NULL,
    api_key_id  uuid,
    token_id    uuid,
    occurred_at timestamptz NOT NULL,
    route       text        NOT NULL,
    method      text        NOT NULL,
    status      integer,
    outcome     text        NOT NULL,
    reason      text,
    duration_us bigint      NOT NULL,
    bytes_in    bigint      NOT NULL,
    bytes_out   bigint      NOT NULL,
    units       bigint      NOT NULL,
    node        text        NOT NULL,
    kind        text        NOT NULL DEFAULT 'request' CHECK (kind IN ('request', 'stream', 'adjustment', 'delegated')),
    parent_id   uuid,
    corrects    uuid
) PARTITION BY RANGE (id);

CREATE FUNCTION octroi_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on "%" refused: usage events are only ever added', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'Correct a bill by an adjustment event.';
END $$;
CREATE TRIGGER usage_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_events
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_append_only();

-- The smallest UUID v7 of a moment: 48 bits of milliseconds, then zeros.
CREATE FUNCTION octroi_uuid_at(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT rpad(lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;

-- Makes the partition of the month that begins on `month` (UTC), unless it is there. It is made
-- aside and then attached, because attaching does not wait for readers and writers of the table.
CREATE FUNCTION octroi_make_usage_partition(month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first_day date := date_trunc('month', month::timestamp)::date;
    part      text := to_char(first_day, '"usage_events_"FMYYYY"_"MM');
BEGIN
    IF to_regclass(part) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(122472946102122);
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

DO $$
BEGIN
    FOR ahead IN 0..2 LOOP
        PERFORM octroi_make_usage_partition((now() AT TIME ZONE 'UTC' + ahead * interval '1 month')::date);
    END LOOP;
END $$;

INSERT INTO octroi_migrations (version, name) VALUES (3, 'create_usage_events');
COMMIT;
