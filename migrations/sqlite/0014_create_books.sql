-- Books: what each journal still owes, how far back events go, months that are closed, and what
-- came after they were.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE journals (
    -- The uuid in the name of its folder. A process that starts again begins another.
    id          TEXT    PRIMARY KEY NOT NULL,
    node        TEXT    NOT NULL,
    -- What arrived before is in the store.
    clear_until TEXT    NOT NULL,
    -- Counts reports. Whoever finds less than it wrote knows that the store lost commits.
    beat        INTEGER NOT NULL,
    reported_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE usage_retention (
    one      INTEGER PRIMARY KEY NOT NULL DEFAULT 1 CHECK (one = 1),
    -- Events that arrived before were deleted: none is taken in again.
    before   TEXT    NOT NULL,
    -- The smallest id of that moment.
    first_id TEXT    NOT NULL,
    set_at   TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

-- The one door: what lies before the mark of retention may go, and nothing else.
DROP TRIGGER usage_events_no_delete;
CREATE TRIGGER usage_events_no_delete BEFORE DELETE ON usage_events
WHEN OLD.id >= coalesce((SELECT first_id FROM usage_retention), '')
BEGIN
    SELECT RAISE(ABORT, 'DELETE on "usage_events" refused: usage events are only ever added');
END;

CREATE TABLE closed_months (
    month     TEXT PRIMARY KEY NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]'),
    starts    TEXT NOT NULL,
    ends      TEXT NOT NULL,
    closed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    -- Journals that were not waited for.
    without   TEXT NOT NULL DEFAULT ''
) STRICT;

-- What a client used in a closed month, what was corrected in it included.
CREATE TABLE closed_month_totals (
    month       TEXT    NOT NULL REFERENCES closed_months (month),
    client_id   TEXT    NOT NULL,
    requests    INTEGER NOT NULL,
    units       INTEGER NOT NULL,
    bytes_in    INTEGER NOT NULL,
    bytes_out   INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    rejected    INTEGER NOT NULL,
    PRIMARY KEY (month, client_id)
) STRICT, WITHOUT ROWID;

-- As `usage_hourly`, for what came when the month of its hour was closed: the month in which it was
-- booked pays.
CREATE TABLE usage_adjustments (
    booked      TEXT    NOT NULL,
    corrects    TEXT    NOT NULL,
    hour        TEXT    NOT NULL,
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
    PRIMARY KEY (booked, hour, client_id, api_key_id, route, status, outcome, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_adjustments_of_hour ON usage_adjustments (hour, client_id);

INSERT INTO octroi_migrations (version, name) VALUES (14, 'create_books');
COMMIT;
