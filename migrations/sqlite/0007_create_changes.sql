-- Changes: what may contradict what a process remembers. Written by triggers, so that plain SQL counts.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

-- `kind` is one of
--   client       a client's status, limits or plan changed, its hash went, or it was deleted
--   client_hash  a client has a hash it did not have before
--   key          a key's revocation, expiry, scopes or limits changed, or it was deleted
--   key_added    a key, or another hash for one, was added
--   all          forget everything (a bulk job may write it by hand)
-- SQLite has no triggers of a statement: a bulk job writes a row each, which readers sum up.
CREATE TABLE changes (
    -- AUTOINCREMENT: a number is never used again, also when old rows are deleted.
    seq        INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('client', 'client_hash', 'key', 'key_added', 'all')),
    client_id  TEXT,
    api_key_id TEXT,
    changed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;
CREATE INDEX changes_changed_at ON changes (changed_at);

-- REPLACE deletes rows without firing a delete trigger, and so does UPDATE OR REPLACE: what is about
-- to go that way is noted before. Where nothing is replaced, this finds nothing.
CREATE TRIGGER clients_replaced BEFORE INSERT ON clients
BEGIN
    INSERT INTO changes (kind, client_id)
    SELECT 'client', id FROM clients WHERE id = NEW.id OR api_key_hash = NEW.api_key_hash;
END;
CREATE TRIGGER clients_replaced_by_update BEFORE UPDATE OF id, api_key_hash ON clients
BEGIN
    INSERT INTO changes (kind, client_id)
    SELECT 'client', id FROM clients WHERE id IS NOT OLD.id AND (id = NEW.id OR api_key_hash = NEW.api_key_hash);
END;
CREATE TRIGGER clients_inserted AFTER INSERT ON clients WHEN NEW.api_key_hash IS NOT NULL
BEGIN
    INSERT INTO changes (kind, client_id) VALUES ('client_hash', NEW.id);
END;
-- Every other hash is a change: whether it is the same key under another pepper, no trigger can see.
CREATE TRIGGER clients_updated AFTER UPDATE ON clients
WHEN OLD.id IS NOT NEW.id OR OLD.status IS NOT NEW.status OR OLD.rate IS NOT NEW.rate OR OLD.burst IS NOT NEW.burst
     OR OLD.plan_id IS NOT NEW.plan_id OR OLD.api_key_hash IS NOT NEW.api_key_hash
BEGIN
    INSERT INTO changes (kind, client_id)
    SELECT 'client', OLD.id WHERE OLD.id IS NOT NEW.id;
    INSERT INTO changes (kind, client_id)
    SELECT CASE WHEN OLD.api_key_hash IS NOT NEW.api_key_hash AND NEW.api_key_hash IS NOT NULL
                THEN 'client_hash' ELSE 'client' END, NEW.id;
END;
CREATE TRIGGER clients_deleted AFTER DELETE ON clients
BEGIN
    INSERT INTO changes (kind, client_id) VALUES ('client', OLD.id);
END;

CREATE TRIGGER api_keys_replaced BEFORE INSERT ON api_keys
BEGIN
    INSERT INTO changes (kind, client_id, api_key_id)
    SELECT 'key', client_id, id FROM api_keys WHERE id = NEW.id OR api_key_hash = NEW.api_key_hash;
END;
CREATE TRIGGER api_keys_replaced_by_update BEFORE UPDATE OF id, api_key_hash ON api_keys
BEGIN
    INSERT INTO changes (kind, client_id, api_key_id)
    SELECT 'key', client_id, id FROM api_keys
    WHERE id IS NOT OLD.id AND (id = NEW.id OR api_key_hash = NEW.api_key_hash);
END;
CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys
BEGIN
    INSERT INTO changes (kind, client_id, api_key_id) VALUES ('key_added', NEW.client_id, NEW.id);
END;
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys
WHEN OLD.id IS NOT NEW.id OR OLD.client_id IS NOT NEW.client_id OR OLD.scopes IS NOT NEW.scopes
     OR OLD.rate IS NOT NEW.rate OR OLD.burst IS NOT NEW.burst
     OR OLD.expires_at IS NOT NEW.expires_at OR OLD.revoked_at IS NOT NEW.revoked_at
     OR OLD.api_key_hash IS NOT NEW.api_key_hash
BEGIN
    INSERT INTO changes (kind, client_id, api_key_id)
    SELECT 'key', OLD.client_id, OLD.id WHERE OLD.id IS NOT NEW.id OR OLD.client_id IS NOT NEW.client_id;
    INSERT INTO changes (kind, client_id, api_key_id)
    SELECT CASE WHEN OLD.api_key_hash IS NOT NEW.api_key_hash THEN 'key_added' ELSE 'key' END,
           NEW.client_id, NEW.id;
END;
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN
    INSERT INTO changes (kind, client_id, api_key_id) VALUES ('key', OLD.client_id, OLD.id);
END;

INSERT INTO octroi_migrations (version, name) VALUES (7, 'create_changes');
COMMIT;
