-- Where a server hears what is said to it alone on its segment, as it said itself.
CREATE TABLE control_addresses (
    server  BLOB PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    address TEXT NOT NULL
) STRICT;
