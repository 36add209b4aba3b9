-- Plans: limits that many clients have in common; and quotas and concurrency of a client's own.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 12) THEN
        RAISE EXCEPTION 'migration 12 is applied already; nothing was changed';
    ELSIF to_regclass('plans') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "plans" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE plans (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text        NOT NULL UNIQUE CHECK (name <> ''),
    -- [{"name", "rate", "burst"} or {"name", "quota"}, each with "mode": "enforce" or "shadow"]
    policies    jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(policies) = 'array'),
    concurrency bigint      CHECK (concurrency > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE clients
    -- As `1000000/month`.
    ADD COLUMN quota       text,
    -- How many requests may be open at once.
    ADD COLUMN concurrency bigint CHECK (concurrency > 0);
-- What stood in `plan_id` before there were plans may name none; nothing new may.
ALTER TABLE clients ADD CONSTRAINT clients_plan FOREIGN KEY (plan_id) REFERENCES plans (id) NOT VALID;
CREATE INDEX clients_of_plan ON clients (plan_id) WHERE plan_id IS NOT NULL;

-- As in 0009, with the new columns.
CREATE OR REPLACE FUNCTION octroi_clients_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row_count bigint;
    kinds     text[];
    ids       uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT count(*), array_agg('client_hash'::text), array_agg(id) INTO row_count, kinds, ids
        FROM new_rows WHERE api_key_hash IS NOT NULL;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT count(*), array_agg('client'::text), array_agg(id) INTO row_count, kinds, ids FROM old_rows;
    ELSE
        SELECT count(*), array_agg(kind), array_agg(id) INTO row_count, kinds, ids
        FROM (
            SELECT coalesce(o.id, n.id) AS id,
                   CASE WHEN n.api_key_hash IS DISTINCT FROM o.api_key_hash AND n.api_key_hash IS NOT NULL
                        THEN 'client_hash' ELSE 'client' END AS kind
            FROM old_rows o FULL JOIN new_rows n ON n.id = o.id
            WHERE o.id IS NULL OR n.id IS NULL
               OR (o.status, o.rate, o.burst, o.plan_id, o.quota, o.concurrency)
                  IS DISTINCT FROM (n.status, n.rate, n.burst, n.plan_id, n.quota, n.concurrency)
               OR (o.api_key_hash IS DISTINCT FROM n.api_key_hash AND n.api_key_rehashes <> o.api_key_rehashes + 1)
        ) AS changed;
    END IF;
    PERFORM octroi_note_changes(row_count, kinds, ids, NULL);
    RETURN NULL;
END $$;

-- A plan's change is one of each of its clients.
CREATE FUNCTION octroi_plans_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row_count bigint;
    kinds     text[];
    ids       uuid[];
BEGIN
    SELECT count(*), array_agg('client'::text), array_agg(c.id) INTO row_count, kinds, ids
    FROM new_rows n JOIN old_rows o ON o.id = n.id JOIN clients c ON c.plan_id = n.id
    WHERE (o.name, o.policies, o.concurrency) IS DISTINCT FROM (n.name, n.policies, n.concurrency);
    PERFORM octroi_note_changes(row_count, kinds, ids, NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER plans_updated AFTER UPDATE ON plans REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_plans_changed();

INSERT INTO octroi_migrations (version, name) VALUES (12, 'create_plans');
COMMIT;
