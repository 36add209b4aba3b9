-- Refresh tokens: rotated on every use, in families; only hashes are kept.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 4) THEN
        RAISE EXCEPTION 'migration 4 is applied already; nothing was changed';
    ELSIF to_regclass('refresh_tokens') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "refresh_tokens" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE refresh_tokens (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    client_id    uuid        NOT NULL REFERENCES clients (id),
    family_id    uuid        NOT NULL,
    token_hash   text        NOT NULL UNIQUE CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    -- Hex. With the presented token it makes the successor again, for a replay within the grace.
    nonce        text        NOT NULL,
    parent_id    uuid,
    successor_id uuid,
    issued_at    timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);

INSERT INTO octroi_migrations (version, name) VALUES (4, 'create_refresh_tokens');
COMMIT;
