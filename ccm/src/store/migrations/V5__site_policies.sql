-- What becomes of what servers hold and nobody published (remove, keep, fail), and for how many seconds what a
-- publish removes can still be reached.
ALTER TABLE sites ADD COLUMN extra TEXT NOT NULL DEFAULT 'remove';
ALTER TABLE sites ADD COLUMN linger_seconds INTEGER NOT NULL DEFAULT 0;
