-- Why a server is to have another version than its group has (hot, removed, removed-kept, switched).
-- NULL: it is to have the group's.
ALTER TABLE wanted ADD COLUMN own TEXT;

-- What is staged on the servers of a group and waits for its switch.
CREATE TABLE staged (
    site          TEXT NOT NULL REFERENCES sites (name) ON DELETE CASCADE,
    content_group TEXT NOT NULL,
    version       BLOB NOT NULL,
    assignment    INTEGER NOT NULL,
    run           INTEGER NOT NULL,
    expires       INTEGER NOT NULL,
    PRIMARY KEY (site, content_group)
) STRICT;

-- Whether a run shall rest.
ALTER TABLE runs ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
