-- Verification tokens: the short-lived JWTs we issued, for audit. Never the token itself.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 5) THEN
        RAISE EXCEPTION 'migration 5 is applied already; nothing was changed';
    ELSIF to_regclass('verification_tokens') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "verification_tokens" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE verification_tokens (
    jti        uuid        PRIMARY KEY,
    client_id  uuid        NOT NULL REFERENCES clients (id),
    api_key_id uuid        REFERENCES api_keys (id),
    subject    text        NOT NULL,
    scopes     text[]      NOT NULL DEFAULT '{}',
    audience   text,
    issued_at  timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);

INSERT INTO octroi_migrations (version, name) VALUES (5, 'create_verification_tokens');
COMMIT;
