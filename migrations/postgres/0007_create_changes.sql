-- Changes: what may contradict what a process remembers. Written by triggers, so that plain SQL counts.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 7) THEN
        RAISE EXCEPTION 'migration 7 is applied already; nothing was changed';
    ELSIF to_regclass('changes') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "changes" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

-- `kind` is one of
--   client       a client's status, limits or plan changed, its hash went, or it was deleted
--   client_hash  a client has a hash it did not have before
--   key          a key's revocation, expiry, scopes or limits changed, or it was deleted
--   key_added    a key, or another hash for one, was added
--   all          more than 100 rows changed at once: forget everything
CREATE TABLE changes (
    seq        bigserial   PRIMARY KEY,
    -- Numbers are handed out before commits, so `seq` alone would let a reader step over a
    -- transaction still running. Readers go by the oldest one that ran when they last looked.
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    kind       text        NOT NULL CHECK (kind IN ('client', 'client_hash', 'key', 'key_added', 'all')),
    client_id  uuid,
    api_key_id uuid,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX changes_xid ON changes (xid);
CREATE INDEX changes_changed_at ON changes (changed_at);

CREATE FUNCTION octroi_note_changes(row_count bigint, kinds text[], clients uuid[], keys uuid[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF row_count > 100 THEN
        INSERT INTO changes (kind) VALUES ('all');
    ELSIF row_count > 0 THEN
        INSERT INTO changes (kind, client_id, api_key_id) SELECT * FROM unnest(kinds, clients, keys);
    END IF;
END $$;

CREATE FUNCTION octroi_clients_changed() RETURNS trigger LANGUAGE plpgsql AS $$
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
               -- Every other hash: whether it is the same key under another pepper, nobody can see here.
               OR (o.status, o.rate, o.burst, o.plan_id, o.api_key_hash)
                  IS DISTINCT FROM (n.status, n.rate, n.burst, n.plan_id, n.api_key_hash)
        ) AS changed;
    END IF;
    PERFORM octroi_note_changes(row_count, kinds, ids, NULL);
    RETURN NULL;
END $$;

CREATE FUNCTION octroi_api_keys_changed() RETURNS trigger LANGUAGE plpgsql AS $$
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
                   CASE WHEN n.api_key_hash IS DISTINCT FROM o.api_key_hash AND n.api_key_hash IS NOT NULL
                        THEN 'key_added' ELSE 'key' END AS kind
            FROM old_rows o FULL JOIN new_rows n ON n.id = o.id
            WHERE o.id IS NULL OR n.id IS NULL
               OR (o.client_id, o.scopes, o.rate, o.burst, o.expires_at, o.revoked_at, o.api_key_hash)
                  IS DISTINCT FROM
                  (n.client_id, n.scopes, n.rate, n.burst, n.expires_at, n.revoked_at, n.api_key_hash)
        ) AS changed;
    END IF;
    PERFORM octroi_note_changes(row_count, kinds, owners, ids);
    RETURN NULL;
END $$;

CREATE FUNCTION octroi_all_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (kind) VALUES ('all');
    RETURN NULL;
END $$;

CREATE TRIGGER clients_inserted AFTER INSERT ON clients REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_clients_changed();
CREATE TRIGGER clients_updated AFTER UPDATE ON clients REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_clients_changed();
CREATE TRIGGER clients_deleted AFTER DELETE ON clients REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_clients_changed();
CREATE TRIGGER clients_truncated AFTER TRUNCATE ON clients
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_all_changed();
CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_api_keys_changed();
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_api_keys_changed();
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_api_keys_changed();
CREATE TRIGGER api_keys_truncated AFTER TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_all_changed();

INSERT INTO octroi_migrations (version, name) VALUES (7, 'create_changes');
COMMIT;
