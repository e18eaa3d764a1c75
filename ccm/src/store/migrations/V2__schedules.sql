-- What happens by itself. `due` is when it happens next; NULL: never again. `document` is all of it.
CREATE TABLE schedules (
    name          TEXT PRIMARY KEY,
    site          TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    due           INTEGER,
    document      TEXT NOT NULL
) STRICT;
CREATE INDEX schedules_due ON schedules (due) WHERE due IS NOT NULL;

-- Somebody went back on purpose: schedules do not publish here until it is lifted.
CREATE TABLE holds (
    site          TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    content_group TEXT NOT NULL,
    run           INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    since         INTEGER NOT NULL,
    PRIMARY KEY (site, content_group)
) STRICT;
