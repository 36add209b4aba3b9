-- The audit: who changed what, written in the transaction of the change, and only ever added to.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 17) THEN
        RAISE EXCEPTION 'migration 17 is applied already; nothing was changed';
    ELSIF to_regclass('audit') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "audit" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE audit (
    -- UUID v7, made by whoever writes it: the key rises with time.
    id           uuid        PRIMARY KEY,
    occurred_at  timestamptz NOT NULL,
    actor_kind   text        NOT NULL CHECK (actor_kind IN ('operator', 'token', 'shell', 'system')),
    -- No foreign keys: the audit outlives what it is about.
    actor_id     uuid        NOT NULL,
    actor_name   text        NOT NULL,
    address      text,
    action       text        NOT NULL,
    subject_kind text        NOT NULL,
    subject_id   text        NOT NULL,
    client_id    uuid,
    -- How it looked, as a JSON object. Never a hash, never a secret.
    before       jsonb,
    after        jsonb,
    request_id   text
);
CREATE INDEX audit_of_client ON audit (client_id, id) WHERE client_id IS NOT NULL;
CREATE INDEX audit_of_subject ON audit (subject_id, id);

-- Clients that were erased, by whom is in the audit. A row lets pass that what was personal of this
-- client goes out of the audit, and nothing else.
CREATE TABLE erasures (
    client_id uuid        PRIMARY KEY,
    erased_at timestamptz NOT NULL
);

-- What is left of something that is shown when its client was erased.
CREATE FUNCTION octroi_erased(shown jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_set(jsonb_set(jsonb_set(jsonb_set(jsonb_set(shown,
        '{name}', '"[erased]"', false), '{metadata}', '{}', false), '{key_id}', 'null', false),
        '{token_id}', '"[erased]"', false), '{allowed_addresses}', '[]', false)
$$;

CREATE FUNCTION octroi_only_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on "%" refused: it is only ever added to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE FUNCTION octroi_audit_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM erasures WHERE client_id = OLD.client_id)
        AND (NEW.id, NEW.occurred_at, NEW.actor_kind, NEW.actor_id, NEW.action, NEW.subject_kind, NEW.subject_id,
             NEW.client_id, NEW.request_id)
            IS NOT DISTINCT FROM
            (OLD.id, OLD.occurred_at, OLD.actor_kind, OLD.actor_id, OLD.action, OLD.subject_kind, OLD.subject_id,
             OLD.client_id, OLD.request_id)
        AND NEW.before IS NOT DISTINCT FROM octroi_erased(OLD.before)
        AND NEW.after IS NOT DISTINCT FROM octroi_erased(OLD.after)
        -- Who holds a token of the client may be the person.
        AND (NEW.actor_name = OLD.actor_name OR OLD.actor_kind = 'token' AND NEW.actor_name = '[erased]')
        AND (NEW.address IS NOT DISTINCT FROM OLD.address OR OLD.actor_kind = 'token' AND NEW.address IS NULL)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on "%" refused: it is only ever added to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION octroi_audit_changed();
CREATE TRIGGER audit_append_only BEFORE DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_only_added();
CREATE TRIGGER erasures_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON erasures
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_only_added();

INSERT INTO octroi_migrations (version, name) VALUES (17, 'create_audit');
COMMIT;
