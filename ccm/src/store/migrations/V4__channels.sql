-- The data channel of a content group: multicast address and port. NULL until it is first needed.
ALTER TABLE content_groups ADD COLUMN channel TEXT;
CREATE UNIQUE INDEX content_groups_channel ON content_groups (channel) WHERE channel IS NOT NULL;
