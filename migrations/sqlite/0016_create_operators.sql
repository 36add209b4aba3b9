-- Operators: who may change what, the sessions they are in, and the tokens that machines and clients
-- hold instead of a password.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE operators (
    id            TEXT PRIMARY KEY NOT NULL
        -- A random UUID (version 4).
        DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
                 '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) ||
                 '-' || hex(randomblob(6)))),
    name          TEXT NOT NULL UNIQUE CHECK (name <> ''),
    role          TEXT NOT NULL CHECK (role IN ('owner', 'operator', 'auditor', 'support', 'client')),
    -- The clients it is named for, where its role is confined to those.
    clients       TEXT NOT NULL DEFAULT '[]',
    -- argon2id, as a PHC string; null: it comes by an issuer.
    password_hash TEXT,
    issuer        TEXT,
    subject       TEXT,
    disabled_at   TEXT,
    last_login_at TEXT,
    created_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    updated_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    UNIQUE (issuer, subject)
) STRICT;
CREATE INDEX operators_listing ON operators (replace(created_at, ' ', 'T'), id);

-- What a browser holds is signed and names the row. It is not in it, and cannot be made from it.
CREATE TABLE operator_sessions (
    id           TEXT PRIMARY KEY NOT NULL
        DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
                 '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) ||
                 '-' || hex(randomblob(6)))),
    operator_id  TEXT NOT NULL REFERENCES operators (id),
    address      TEXT,
    created_at   TEXT NOT NULL,
    last_seen_at TEXT NOT NULL,
    expires_at   TEXT NOT NULL,
    revoked_at   TEXT
) STRICT;
CREATE INDEX operator_sessions_of_operator ON operator_sessions (operator_id);
CREATE INDEX operator_sessions_expires_at ON operator_sessions (expires_at);

CREATE TABLE admin_tokens (
    id           TEXT PRIMARY KEY NOT NULL
        DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
                 '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) ||
                 '-' || hex(randomblob(6)))),
    name         TEXT NOT NULL CHECK (name <> ''),
    -- The public part of its text.
    token_id     TEXT NOT NULL UNIQUE,
    -- SHA-256 of a text with 190 random bits: 64 lower-case hex digits.
    token_hash   TEXT NOT NULL UNIQUE CHECK (length(token_hash) = 64 AND token_hash NOT GLOB '*[^0-9a-f]*'),
    role         TEXT NOT NULL CHECK (role IN ('owner', 'operator', 'auditor', 'support', 'client')),
    clients      TEXT NOT NULL DEFAULT '[]',
    created_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    expires_at   TEXT,
    revoked_at   TEXT,
    last_used_at TEXT
) STRICT;
CREATE INDEX admin_tokens_listing ON admin_tokens (replace(created_at, ' ', 'T'), id);

INSERT INTO octroi_migrations (version, name) VALUES (16, 'create_operators');
COMMIT;
