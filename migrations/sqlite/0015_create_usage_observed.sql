-- What routes that observe would have refused, by the hour: beside the sums and not among them,
-- because these requests were served and are billed by their events.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE usage_observed (
    hour       TEXT    NOT NULL,
    -- As in `usage_hourly`: nothing is null.
    client_id  TEXT    NOT NULL,
    api_key_id TEXT    NOT NULL,
    route      TEXT    NOT NULL,
    -- What the caller would have been sent.
    status     INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    requests   INTEGER NOT NULL,
    PRIMARY KEY (hour, client_id, api_key_id, route, status, reason)
) STRICT, WITHOUT ROWID;

INSERT INTO octroi_migrations (version, name) VALUES (15, 'create_usage_observed');
COMMIT;
