//! Moving objects between sites: chunk table, assembler, chunk server, fetcher
