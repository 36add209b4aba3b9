-- Operators: who may change what, the sessions they are in, and the tokens that machines and clients
-- hold instead of a password.
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
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 16) THEN
        RAISE EXCEPTION 'migration 16 is applied already; nothing was changed';
    ELSIF to_regclass('operators') IS NOT NULL THEN
        RAISE EXCEPTION 'a table "operators" that Octroi did not make is in the way; nothing was changed'
            USING HINT = 'Rename it, or give Octroi a database or schema of its own.';
    END IF;
END $$;

CREATE TABLE operators (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name          text        NOT NULL UNIQUE CHECK (name <> ''),
    role          text        NOT NULL CHECK (role IN ('owner', 'operator', 'auditor', 'support', 'client')),
    -- The clients it is named for, where its role is confined to those.
    clients       uuid[]      NOT NULL DEFAULT '{}',
    -- argon2id, as a PHC string; null: it comes by an issuer.
    password_hash text,
    issuer        text,
    subject       text,
    disabled_at   timestamptz,
    last_login_at timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (issuer, subject)
);
CREATE INDEX operators_listing ON operators (created_at, id);

-- What a browser holds is signed and names the row. It is not in it, and cannot be made from it.
CREATE TABLE operator_sessions (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    operator_id  uuid        NOT NULL REFERENCES operators (id),
    address      text,
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz
);
CREATE INDEX operator_sessions_of_operator ON operator_sessions (operator_id);
CREATE INDEX operator_sessions_expires_at ON operator_sessions (expires_at);

CREATE TABLE admin_tokens (
    id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name         text        NOT NULL CHECK (name <> ''),
    -- The public part of its text.
    token_id     text        NOT NULL UNIQUE,
    -- SHA-256 of a text with 190 random bits: 64 lower-case hex digits.
    token_hash   text        NOT NULL UNIQUE CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    role         text        NOT NULL CHECK (role IN ('owner', 'operator', 'auditor', 'support', 'client')),
    clients      uuid[]      NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX admin_tokens_listing ON admin_tokens (created_at, id);

INSERT INTO octroi_migrations (version, name) VALUES (16, 'create_operators');
COMMIT;
