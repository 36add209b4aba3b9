-- Keys: from where each may be used, and how its hash was made.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 9) THEN
        RAISE EXCEPTION 'migration 9 is applied already; nothing was changed';
    END IF;
END $$;

-- Constants as defaults: no column rewrites the table.
ALTER TABLE api_keys
    -- Networks as `192.0.2.0/24`; none: from everywhere.
    ADD COLUMN allowed_addresses text[] NOT NULL DEFAULT '{}',
    -- `sha256` only for imported keys, until they are first used: the raw key, which the HMAC
    -- needs, is not known before.
    ADD COLUMN hash_kind text NOT NULL DEFAULT 'hmac' CHECK (hash_kind IN ('hmac', 'sha256')),
    -- How often the same key was hashed anew. Whoever replaces a hash so counts one more in the
    -- same update: nobody can see it from two hashes.
    ADD COLUMN rehashes integer NOT NULL DEFAULT 0;
ALTER TABLE clients ADD COLUMN api_key_rehashes integer NOT NULL DEFAULT 0;

-- As in 0007, with the new columns. Another hash is another key, but where its writer says that it
-- is the same key hashed anew.
CREATE OR REPLACE FUNCTION octroi_api_keys_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row_count bigint;
    kinds     text[];
    owners    uuid[];
    ids       uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT count(*), array_agg('key_added'::text), array_agg(client_id), array_agg(id)
        INTO row_count, kinds, owners, ids FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT count(*), array_agg('key'::text), array_agg(client_id), array_agg(id)
        INTO row_count, kinds, owners, ids FROM old_rows;
    ELSE
        SELECT count(*), array_agg(kind), array_agg(client_id), array_agg(id)
        INTO row_count, kinds, owners, ids
        FROM (
            SELECT coalesce(o.id, n.id) AS id, coalesce(o.client_id, n.client_id) AS client_id,
                   CASE WHEN (n.api_key_hash, n.hash_kind) IS DISTINCT FROM (o.api_key_hash, o.hash_kind)
                             AND n.api_key_hash IS NOT NULL
                        THEN 'key_added' ELSE 'key' END AS kind
            FROM old_rows o FULL JOIN new_rows n ON n.id = o.id
            WHERE o.id IS NULL OR n.id IS NULL
               OR (o.client_id, o.scopes, o.rate, o.burst, o.allowed_addresses, o.expires_at, o.revoked_at)
                  IS DISTINCT FROM
                  (n.client_id, n.scopes, n.rate, n.burst, n.allowed_addresses, n.expires_at, n.revoked_at)
               OR ((o.api_key_hash, o.hash_kind) IS DISTINCT FROM (n.api_key_hash, n.hash_kind)
                   AND n.rehashes <> o.rehashes + 1)
        ) AS changed;
    END IF;
    PERFORM octroi_note_changes(row_count, kinds, owners, ids);
    RETURN NULL;
END $$;

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
               OR (o.status, o.rate, o.burst, o.plan_id) IS DISTINCT FROM (n.status, n.rate, n.burst, n.plan_id)
               OR (o.api_key_hash IS DISTINCT FROM n.api_key_hash AND n.api_key_rehashes <> o.api_key_rehashes + 1)
        ) AS changed;
    END IF;
    PERFORM octroi_note_changes(row_count, kinds, ids, NULL);
    RETURN NULL;
END $$;

INSERT INTO octroi_migrations (version, name) VALUES (9, 'add_key_addresses');
COMMIT;
