//! A test network of namespaces: one content control manager, segments of servers, a WAN between them
