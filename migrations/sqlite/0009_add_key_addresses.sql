-- Keys: from where each may be used, and how its hash was made.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

-- Networks as `192.0.2.0/24`; none: from everywhere.
ALTER TABLE api_keys ADD COLUMN allowed_addresses TEXT NOT NULL DEFAULT '[]';
-- `sha256` only for imported keys, until they are first used: the raw key, which the HMAC needs,
-- is not known before.
ALTER TABLE api_keys ADD COLUMN hash_kind TEXT NOT NULL DEFAULT 'hmac' CHECK (hash_kind IN ('hmac', 'sha256'));
-- How often the same key was hashed anew. Whoever replaces a hash so counts one more in the same
-- update: nobody can see it from two hashes.
ALTER TABLE api_keys ADD COLUMN rehashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE clients ADD COLUMN api_key_rehashes INTEGER NOT NULL DEFAULT 0;

-- As in 0007, with the new columns. Another hash is another key, but where its writer says that it
-- is the same key hashed anew.
DROP TRIGGER api_keys_updated;
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys
WHEN OLD.id IS NOT NEW.id OR OLD.client_id IS NOT NEW.client_id OR OLD.scopes IS NOT NEW.scopes
     OR OLD.rate IS NOT NEW.rate OR OLD.burst IS NOT NEW.burst
     OR OLD.allowed_addresses IS NOT NEW.allowed_addresses
     OR OLD.expires_at IS NOT NEW.expires_at OR OLD.revoked_at IS NOT NEW.revoked_at
     OR ((OLD.api_key_hash IS NOT NEW.api_key_hash OR OLD.hash_kind IS NOT NEW.hash_kind)
         AND NEW.rehashes IS NOT OLD.rehashes + 1)
BEGIN
    INSERT INTO changes (kind, client_id, api_key_id)
    SELECT 'key', OLD.client_id, OLD.id WHERE OLD.id IS NOT NEW.id OR OLD.client_id IS NOT NEW.client_id;
    INSERT INTO changes (kind, client_id, api_key_id)
    SELECT CASE WHEN OLD.api_key_hash IS NOT NEW.api_key_hash OR OLD.hash_kind IS NOT NEW.hash_kind
                THEN 'key_added' ELSE 'key' END,
           NEW.client_id, NEW.id;
END;

DROP TRIGGER clients_updated;
CREATE TRIGGER clients_updated AFTER UPDATE ON clients
WHEN OLD.id IS NOT NEW.id OR OLD.status IS NOT NEW.status OR OLD.rate IS NOT NEW.rate OR OLD.burst IS NOT NEW.burst
     OR OLD.plan_id IS NOT NEW.plan_id
     OR (OLD.api_key_hash IS NOT NEW.api_key_hash AND NEW.api_key_rehashes IS NOT OLD.api_key_rehashes + 1)
BEGIN
    INSERT INTO changes (kind, client_id)
    SELECT 'client', OLD.id WHERE OLD.id IS NOT NEW.id;
    INSERT INTO changes (kind, client_id)
    SELECT CASE WHEN OLD.api_key_hash IS NOT NEW.api_key_hash AND NEW.api_key_hash IS NOT NULL
                THEN 'client_hash' ELSE 'client' END, NEW.id;
END;

INSERT INTO octroi_migrations (version, name) VALUES (9, 'add_key_addresses');
COMMIT;
