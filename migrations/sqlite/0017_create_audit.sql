-- The audit: who changed what, written in the transaction of the change, and only ever added to.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE audit (
    -- UUID v7, made by whoever writes it: the key rises with time.
    id           TEXT PRIMARY KEY NOT NULL,
    occurred_at  TEXT NOT NULL,
    actor_kind   TEXT NOT NULL CHECK (actor_kind IN ('operator', 'token', 'shell', 'system')),
    -- No foreign keys: the audit outlives what it is about.
    actor_id     TEXT NOT NULL,
    actor_name   TEXT NOT NULL,
    address      TEXT,
    action       TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    client_id    TEXT,
    -- How it looked, as a JSON object. Never a hash, never a secret.
    before       TEXT,
    after        TEXT,
    request_id   TEXT
) STRICT;
CREATE INDEX audit_of_client ON audit (client_id, id) WHERE client_id IS NOT NULL;
CREATE INDEX audit_of_subject ON audit (subject_id, id);

-- Clients that were erased, by whom is in the audit. A row lets pass that what was personal of this
-- client goes out of the audit, and nothing else.
CREATE TABLE erasures (
    client_id TEXT PRIMARY KEY NOT NULL,
    erased_at TEXT NOT NULL
) STRICT;
CREATE TRIGGER erasures_no_replace BEFORE INSERT ON erasures
WHEN EXISTS (SELECT 1 FROM erasures WHERE client_id = NEW.client_id)
BEGIN
    SELECT RAISE(IGNORE);
END;
CREATE TRIGGER erasures_no_update BEFORE UPDATE ON erasures
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on "erasures" refused: it is only ever added to');
END;
CREATE TRIGGER erasures_no_delete BEFORE DELETE ON erasures
BEGIN
    SELECT RAISE(ABORT, 'DELETE on "erasures" refused: it is only ever added to');
END;

-- REPLACE deletes without firing triggers.
CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'INSERT on "audit" refused: this row is there already');
END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'DELETE on "audit" refused: it is only ever added to');
END;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
WHEN NOT (
    EXISTS (SELECT 1 FROM erasures WHERE client_id = OLD.client_id)
    AND NEW.id IS OLD.id AND NEW.occurred_at IS OLD.occurred_at AND NEW.actor_kind IS OLD.actor_kind
    AND NEW.actor_id IS OLD.actor_id AND NEW.action IS OLD.action AND NEW.subject_kind IS OLD.subject_kind
    AND NEW.subject_id IS OLD.subject_id AND NEW.client_id IS OLD.client_id AND NEW.request_id IS OLD.request_id
    AND NEW.before IS json_replace(OLD.before, '$.name', '[erased]', '$.metadata', json('{}'), '$.key_id', NULL,
        '$.token_id', '[erased]', '$.allowed_addresses', json('[]'))
    AND NEW.after IS json_replace(OLD.after, '$.name', '[erased]', '$.metadata', json('{}'), '$.key_id', NULL,
        '$.token_id', '[erased]', '$.allowed_addresses', json('[]'))
    -- Who holds a token of the client may be the person.
    AND (NEW.actor_name IS OLD.actor_name OR OLD.actor_kind IS 'token' AND NEW.actor_name IS '[erased]')
    AND (NEW.address IS OLD.address OR OLD.actor_kind IS 'token' AND NEW.address IS NULL))
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on "audit" refused: it is only ever added to');
END;

INSERT INTO octroi_migrations (version, name) VALUES (17, 'create_audit');
COMMIT;
