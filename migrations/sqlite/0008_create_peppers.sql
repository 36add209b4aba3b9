-- Peppers: fingerprints of the secrets that hashes were made with, trusted on first use.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE peppers (
    version     INTEGER PRIMARY KEY NOT NULL,
    fingerprint TEXT    NOT NULL UNIQUE,
    first_seen  TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    retired_at  TEXT
) STRICT;

INSERT INTO octroi_migrations (version, name) VALUES (8, 'create_peppers');
COMMIT;
