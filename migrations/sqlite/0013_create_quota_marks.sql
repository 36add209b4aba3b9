-- Quota marks: who reached 80 or 100 percent of which quota, once for each window.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE quota_marks (
    -- No foreign key: what was reached was reached.
    client_id    TEXT    NOT NULL,
    policy       TEXT    NOT NULL,
    window_start TEXT    NOT NULL,
    percent      INTEGER NOT NULL,
    window_end   TEXT    NOT NULL,
    quota        INTEGER NOT NULL,
    used         INTEGER NOT NULL,
    mode         TEXT    NOT NULL CHECK (mode IN ('enforce', 'shadow')),
    reached_at   TEXT    NOT NULL,
    PRIMARY KEY (client_id, policy, window_start, percent)
) STRICT, WITHOUT ROWID;
CREATE INDEX quota_marks_listing ON quota_marks (reached_at);

INSERT INTO octroi_migrations (version, name) VALUES (13, 'create_quota_marks');
COMMIT;
