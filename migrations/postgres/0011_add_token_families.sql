-- Issued tokens: whose key each came from, and that ending one is a change.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 11) THEN
        RAISE EXCEPTION 'migration 11 is applied already; nothing was changed';
    END IF;
END $$;

ALTER TABLE refresh_tokens
    -- What a family was granted: every token of it comes from this key and may do no more.
    ADD COLUMN api_key_id uuid REFERENCES api_keys (id),
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{}',
    -- The audiences, with spaces between; null: the gateway's own.
    ADD COLUMN audience text;
CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);

-- The family of the refresh token that it was issued with.
ALTER TABLE verification_tokens ADD COLUMN family_id uuid;
CREATE INDEX verification_tokens_family ON verification_tokens (family_id) WHERE family_id IS NOT NULL;
CREATE INDEX verification_tokens_expires_at ON verification_tokens (expires_at);

-- A token that ends early must be forgotten as a key is. One that only became old was never
-- remembered longer, so its row goes without a word.
CREATE FUNCTION octroi_verification_tokens_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row_count bigint;
    kinds     text[];
    owners    uuid[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        SELECT count(*), array_agg('client'::text), array_agg(client_id) INTO row_count, kinds, owners
        FROM (SELECT DISTINCT client_id FROM old_rows WHERE expires_at > now()) AS ended;
    ELSE
        SELECT count(*), array_agg('client'::text), array_agg(client_id) INTO row_count, kinds, owners
        FROM (
            SELECT DISTINCT coalesce(o.client_id, n.client_id) AS client_id
            FROM old_rows o FULL JOIN new_rows n ON n.jti = o.jti
            WHERE o.jti IS NULL OR n.jti IS NULL
               OR (o.client_id, o.api_key_id, o.subject, o.scopes, o.expires_at, o.revoked_at)
                  IS DISTINCT FROM
                  (n.client_id, n.api_key_id, n.subject, n.scopes, n.expires_at, n.revoked_at)
        ) AS ended;
    END IF;
    PERFORM octroi_note_changes(row_count, kinds, owners, NULL);
    RETURN NULL;
END $$;

CREATE TRIGGER verification_tokens_updated AFTER UPDATE ON verification_tokens
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_verification_tokens_changed();
CREATE TRIGGER verification_tokens_deleted AFTER DELETE ON verification_tokens REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_verification_tokens_changed();
CREATE TRIGGER verification_tokens_truncated AFTER TRUNCATE ON verification_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION octroi_all_changed();

INSERT INTO octroi_migrations (version, name) VALUES (11, 'add_token_families');
COMMIT;
