-- Usage events: what is billed. One row a request, written once, never changed.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE usage_events (
    -- UUID v7, made by the gateway. The key rises with time, so it is also the index by time;
    -- a second index would cost as much as proxying the request did.
    id          TEXT    PRIMARY KEY NOT NULL,
    request_id  TEXT    NOT NULL,
    -- No foreign keys: a bill outlives what it is for.
    client_id   TEXT    NOT NULL,
    api_key_id  TEXT,
    token_id    TEXT,
    occurred_at TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    status      INTEGER,
    outcome     TEXT    NOT NULL,
    reason      TEXT,
    duration_us INTEGER NOT NULL,
    bytes_in    INTEGER NOT NULL,
    bytes_out   INTEGER NOT NULL,
    units       INTEGER NOT NULL,
    node        TEXT    NOT NULL,
    kind        TEXT    NOT NULL DEFAULT 'request' CHECK (kind IN ('request', 'stream', 'adjustment', 'delegated')),
    parent_id   TEXT,
    corrects    TEXT
) STRICT, WITHOUT ROWID;

-- REPLACE deletes without firing triggers: a row that is there stays, whatever the insert asks for.
CREATE TRIGGER usage_events_no_replace BEFORE INSERT ON usage_events
WHEN EXISTS (SELECT 1 FROM usage_events WHERE id = NEW.id)
BEGIN
    SELECT RAISE(IGNORE);
END;
CREATE TRIGGER usage_events_no_update BEFORE UPDATE ON usage_events
BEGIN
    SELECT RAISE(ABORT, 'UPDATE on "usage_events" refused: usage events are only ever added');
END;
CREATE TRIGGER usage_events_no_delete BEFORE DELETE ON usage_events
BEGIN
    SELECT RAISE(ABORT, 'DELETE on "usage_events" refused: usage events are only ever added');
END;

INSERT INTO octroi_migrations (version, name) VALUES (3, 'create_usage_events');
COMMIT;
