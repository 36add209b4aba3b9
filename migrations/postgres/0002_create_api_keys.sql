-- Keys: many a client, known only by their hashes.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 2) THEN
        RAISE EXCEPTION 'migration 2 is applied already; nothing was changed';
    ELSIF to_regclass('api_keys') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "api_keys" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE api_keys (
    id             uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    client_id      uuid        NOT NULL REFERENCES clients (id),
    name           text        NOT NULL,
    -- HMAC-SHA-256 of the raw key: 64 lower-case hex digits, or no look-up would ever find it.
    api_key_hash   text        NOT NULL UNIQUE CHECK (api_key_hash ~ '^[0-9a-f]{64}$'),
    pepper_version integer,
    key_id         text        UNIQUE,
    -- An array and not JSON: its elements cannot be anything but text.
    scopes         text[]      NOT NULL DEFAULT '{}',
    rate           text,
    burst          bigint      CHECK (burst > 0),
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    revoked_at     timestamptz,
    last_used_at   timestamptz,
    replaced_by    uuid        REFERENCES api_keys (id)
);
CREATE INDEX api_keys_listing ON api_keys (created_at, id);
CREATE INDEX api_keys_of_client ON api_keys (client_id, created_at, id);

INSERT INTO octroi_migrations (version, name) VALUES (2, 'create_api_keys');
COMMIT;
