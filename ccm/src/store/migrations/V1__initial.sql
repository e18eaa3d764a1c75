-- Names and texts are what the types of `common` allow; times are milliseconds since 1970 (UTC);
-- digests, keys and ids are raw bytes. Numbers that must never be reused come from `counters` or
-- from AUTOINCREMENT.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT;

CREATE TABLE sites (
    name    TEXT PRIMARY KEY,
    staging BLOB NOT NULL,
    live    TEXT NOT NULL,
    exclude TEXT NOT NULL,
    wan     TEXT NOT NULL,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE content_groups (
    site     TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    name     TEXT NOT NULL,
    selector TEXT NOT NULL,
    PRIMARY KEY (site, name)
) STRICT;

CREATE TABLE segments (
    name   TEXT PRIMARY KEY,
    key    BLOB NOT NULL CHECK (length(key) = 32),
    leader BLOB,
    epoch  INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE servers (
    id          BLOB PRIMARY KEY CHECK (length(id) = 16),
    name        TEXT NOT NULL UNIQUE,
    segment     TEXT NOT NULL REFERENCES segments (name),
    role_server INTEGER NOT NULL,
    role_leader INTEGER NOT NULL,
    control_key BLOB NOT NULL CHECK (length(control_key) = 32),
    location    TEXT NOT NULL,
    enrolled    INTEGER NOT NULL,
    last_seen   INTEGER,
    info        BLOB
) STRICT;

-- What is live, as far as the last finished run knows.
CREATE TABLE views (
    site          TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    content_group TEXT NOT NULL,
    version       BLOB NOT NULL,
    assignment    INTEGER NOT NULL,
    run           INTEGER NOT NULL,
    published     INTEGER NOT NULL,
    previous      BLOB,
    PRIMARY KEY (site, content_group)
) STRICT;

-- A server has one live tree per site, whichever group it was last published through.
CREATE TABLE wanted (
    site          TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    server        BLOB NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    content_group TEXT NOT NULL,
    version       BLOB NOT NULL,
    PRIMARY KEY (site, server)
) STRICT;

-- What was asked for. A run is one execution of it. History: outlives the site.
CREATE TABLE jobs (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    site          TEXT NOT NULL,
    content_group TEXT NOT NULL,
    kind          TEXT NOT NULL,
    request       TEXT NOT NULL,
    created       INTEGER NOT NULL
) STRICT;

CREATE TABLE runs (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    job           INTEGER NOT NULL REFERENCES jobs (number),
    site          TEXT NOT NULL,
    content_group TEXT NOT NULL,
    final         INTEGER NOT NULL,
    cancel        INTEGER NOT NULL DEFAULT 0,
    document      TEXT NOT NULL,
    resume        TEXT
) STRICT;
CREATE INDEX runs_unfinished ON runs (number) WHERE final = 0;
CREATE INDEX runs_of_site ON runs (site, number);
CREATE INDEX runs_of_job ON runs (job);

CREATE TABLE run_servers (
    run    INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    server BLOB NOT NULL,
    PRIMARY KEY (run, server)
) STRICT;

CREATE TABLE assignments (
    number  INTEGER PRIMARY KEY,
    run     INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    kind    TEXT NOT NULL,
    object  BLOB,
    length  INTEGER NOT NULL,
    ticket  BLOB,
    targets BLOB NOT NULL,
    expires INTEGER NOT NULL,
    inline  BLOB
) STRICT;
CREATE INDEX assignments_of_run ON assignments (run, number);

CREATE TABLE outcomes (
    assignment INTEGER NOT NULL REFERENCES assignments (number) ON DELETE CASCADE,
    server     BLOB NOT NULL,
    outcome    BLOB NOT NULL,
    PRIMARY KEY (assignment, server)
) STRICT;

CREATE TABLE snapshots (
    run           INTEGER PRIMARY KEY,
    site          TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    content_group TEXT NOT NULL,
    version       BLOB NOT NULL,
    assignment    INTEGER NOT NULL,
    time          INTEGER NOT NULL
) STRICT;

CREATE TABLE checkpoints (
    site          TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    name          TEXT NOT NULL,
    content_group TEXT NOT NULL,
    version       BLOB NOT NULL,
    created       INTEGER NOT NULL,
    run           INTEGER,
    PRIMARY KEY (site, name)
) STRICT;

-- Secrets are kept as digests only.
CREATE TABLE join_tokens (
    id        TEXT PRIMARY KEY,
    secret    BLOB NOT NULL CHECK (length(secret) = 32),
    segment   TEXT,
    roles     TEXT,
    uses      INTEGER NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    created   INTEGER NOT NULL,
    expires   INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    name     TEXT PRIMARY KEY,
    password TEXT NOT NULL,
    role     TEXT NOT NULL,
    created  INTEGER NOT NULL
) STRICT;

CREATE TABLE api_tokens (
    id      TEXT PRIMARY KEY,
    secret  BLOB NOT NULL CHECK (length(secret) = 32),
    label   TEXT NOT NULL,
    role    TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER
) STRICT;

CREATE TABLE sessions (
    id      TEXT PRIMARY KEY,
    secret  BLOB NOT NULL CHECK (length(secret) = 32),
    user    TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
