-- Nodes: the processes that serve, and the peppers each of them knows.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

CREATE TABLE nodes (
    -- Of a process, not of a machine: one that starts again is another.
    id              TEXT PRIMARY KEY NOT NULL,
    name            TEXT NOT NULL,
    -- Fingerprints, as in `peppers`. The previous one need not be there: while a new pepper is
    -- rolled out, processes know it before any store trusts it.
    pepper          TEXT NOT NULL,
    pepper_previous TEXT,
    started_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    -- Every few seconds. Who was not seen for half a minute is gone.
    seen_at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

INSERT INTO octroi_migrations (version, name) VALUES (10, 'create_nodes');
COMMIT;
