-- Plans: limits that many clients have in common; and quotas and concurrency of a client's own.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE plans (
    id          TEXT PRIMARY KEY NOT NULL
        -- A random UUID (version 4).
        DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) ||
                 '-' || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) ||
                 '-' || hex(randomblob(6)))),
    name        TEXT NOT NULL UNIQUE CHECK (name <> ''),
    -- [{"name", "rate", "burst"} or {"name", "quota"}, each with "mode": "enforce" or "shadow"]
    policies    TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(policies) AND json_type(policies) = 'array'),
    concurrency INTEGER CHECK (concurrency > 0),
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    updated_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

-- As `1000000/month`.
ALTER TABLE clients ADD COLUMN quota TEXT;
-- How many requests may be open at once.
ALTER TABLE clients ADD COLUMN concurrency INTEGER CHECK (concurrency > 0);
CREATE INDEX clients_of_plan ON clients (plan_id) WHERE plan_id IS NOT NULL;

-- No key can be added to a table that is there: these stand for one. What stood in `plan_id` before
-- there were plans may name none; nothing new may.
CREATE TRIGGER clients_plan_inserted BEFORE INSERT ON clients
WHEN NEW.plan_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM plans WHERE id = NEW.plan_id)
BEGIN
    SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed: there is no such plan');
END;
CREATE TRIGGER clients_plan_updated BEFORE UPDATE OF plan_id ON clients
WHEN NEW.plan_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM plans WHERE id = NEW.plan_id)
BEGIN
    SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed: there is no such plan');
END;
CREATE TRIGGER plans_in_use BEFORE DELETE ON plans
WHEN EXISTS (SELECT 1 FROM clients WHERE plan_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed: a client is on the plan');
END;

-- As in 0009, with the new columns.
DROP TRIGGER clients_updated;
CREATE TRIGGER clients_updated AFTER UPDATE ON clients
WHEN OLD.id IS NOT NEW.id OR OLD.status IS NOT NEW.status OR OLD.rate IS NOT NEW.rate OR OLD.burst IS NOT NEW.burst
     OR OLD.plan_id IS NOT NEW.plan_id OR OLD.quota IS NOT NEW.quota OR OLD.concurrency IS NOT NEW.concurrency
     OR (OLD.api_key_hash IS NOT NEW.api_key_hash AND NEW.api_key_rehashes IS NOT OLD.api_key_rehashes + 1)
BEGIN
    INSERT INTO changes (kind, client_id)
    SELECT 'client', OLD.id WHERE OLD.id IS NOT NEW.id;
    INSERT INTO changes (kind, client_id)
    SELECT CASE WHEN OLD.api_key_hash IS NOT NEW.api_key_hash AND NEW.api_key_hash IS NOT NULL
                THEN 'client_hash' ELSE 'client' END, NEW.id;
END;

-- A plan's change is one of each of its clients.
CREATE TRIGGER plans_updated AFTER UPDATE ON plans
WHEN OLD.id IS NOT NEW.id OR OLD.name IS NOT NEW.name OR OLD.policies IS NOT NEW.policies
     OR OLD.concurrency IS NOT NEW.concurrency
BEGIN
    INSERT INTO changes (kind, client_id) SELECT 'client', id FROM clients WHERE plan_id IN (OLD.id, NEW.id);
END;

INSERT INTO octroi_migrations (version, name) VALUES (12, 'create_plans');
COMMIT;
