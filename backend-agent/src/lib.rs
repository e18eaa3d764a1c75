//! The back-end server: content interpreter, live/temp/backup switch, member side of the LAN protocols
