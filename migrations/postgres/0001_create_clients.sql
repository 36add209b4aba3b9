-- Clients: the tenants, each with keys, limits and a bill.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 1) THEN
        RAISE EXCEPTION 'migration 1 is applied already; nothing was changed';
    ELSIF to_regclass('clients') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "clients" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE clients (
    id                     uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name                   text        NOT NULL CHECK (name <> ''),
    status                 text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    -- A hash from before `api_keys`; look-ups accept it as that client's credential.
    -- 64 lower-case hex digits, or no look-up would ever find it.
    api_key_hash           text        UNIQUE CHECK (api_key_hash ~ '^[0-9a-f]{64}$'),
    api_key_pepper_version integer,
    rate                   text,
    burst                  bigint      CHECK (burst > 0),
    plan_id                uuid,
    metadata               jsonb       NOT NULL DEFAULT '{}',
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX clients_name ON clients (name);
CREATE INDEX clients_listing ON clients (created_at, id);

INSERT INTO octroi_migrations (version, name) VALUES (1, 'create_clients');
COMMIT;
