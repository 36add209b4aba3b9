-- Hourly sums of usage: what reports read. Filled in the same step as the events.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE usage_hourly (
    hour        TEXT    NOT NULL,
    -- Nothing is null, or equal rows would not meet: the nil id, 0 or '' says "none".
    client_id   TEXT    NOT NULL,
    api_key_id  TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    outcome     TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    requests    INTEGER NOT NULL,
    units       INTEGER NOT NULL,
    bytes_in    INTEGER NOT NULL,
    bytes_out   INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    PRIMARY KEY (hour, client_id, api_key_id, route, status, outcome, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_hourly_of_client ON usage_hourly (client_id, hour);

INSERT INTO octroi_migrations (version, name) VALUES (6, 'create_usage_hourly');
COMMIT;
