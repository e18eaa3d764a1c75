//! Chunk tables, and requests to a server that hands objects out.

use std::sync::Arc;

use bytes::Bytes;
use common::digest::Digest;
use common::framing;
use common::ids::ServerId;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode};
use tokio::sync::mpsc;
use transfer::chunk::ChunkTable;
use transfer::server::ChunkService;
use transfer::store::ObjectStore;
use transfer::tls::Peer;

use super::control::notification;
use super::encoded;
use crate::{Shape, Target};

const CHUNK_BYTES: u32 = 65_536;
const OBJECT_BYTES: usize = 200_000;

fn object() -> Vec<u8> {
    (0..OBJECT_BYTES).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

/// The digest that the table is held against stands in front of it.
pub(super) fn table() -> Target {
    let sample = |object: &[u8]| {
        let table = ChunkTable::of(object, object.len() as u64, CHUNK_BYTES).expect("memory is read");
        [&table.root().0[..], &table.to_bytes()].concat()
    };
    Target {
        name: "chunk-table",
        what: "chunk tables",
        bytes_max: 4_096,
        samples: vec![sample(&object()), sample(b"small"), sample(b"")],
        check: Box::new(|input| {
            let Some((digest, bytes)) = input.split_first_chunk::<32>() else { return Shape::refused(&"short") };
            match ChunkTable::from_bytes(bytes, Digest(*digest)) {
                Ok(table) => {
                    assert_eq!(table.to_bytes(), bytes, "a table has one form");
                    let last = table.chunks().checked_sub(1).and_then(|last| table.range(last));
                    assert!(last.is_none_or(|range| range.end == table.length()), "chunks cover the object");
                    assert_eq!(table.range(table.chunks()), None);
                    assert!(!table.verify_chunk(0, b"something else"), "a chunk that is none");
                    Shape::decoded(&(table.chunks(), table.chunk_bytes(), table.length() % 7))
                }
                Err(error) => Shape::refused(&error),
            }
        }),
    }
}

/// The input is a request as text: the line, header lines, an empty line, the body.
pub(super) fn requests() -> Target {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ObjectStore::open(directory.path()).expect("an empty store"));
    let held = store.put_bytes(&object()).expect("stored");
    let (notify, incoming) = mpsc::channel(1);
    // Nobody takes notifications: each is answered at once.
    drop(incoming);
    let service = ChunkService { store, may: Arc::new(|_: &Peer, _| true), notify };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let body = framing::encode(&notification()).expect("short")[4..].to_vec();
    let pieces = encoded(&vec![(0_u64, 10_u64), (70_000, 65_536), (5, 1)]);
    let samples = vec![
        format!("GET /o/{held} \n\n").into_bytes(),
        format!("GET /o/{held} \nrange: bytes=0-99\n\n").into_bytes(),
        format!("GET /o/{held} \nrange: bytes=199999-\nif-range: \"{held}\"\n\n").into_bytes(),
        format!("GET /o/{held} \nrange: bytes=-5\n\n").into_bytes(),
        format!("GET /o/{held}/table \n\n").into_bytes(),
        format!("GET /o/{} \n\n", Digest::of(b"other")).into_bytes(),
        [b"POST /notify \n\n".as_slice(), &body].concat(),
        [format!("POST /o/{held}/pieces \n\n").as_bytes(), &pieces].concat(),
    ];
    Target {
        name: "chunk-request",
        what: "requests to the chunk server",
        bytes_max: 8_192,
        samples,
        check: Box::new(move |input| {
            // Lives as long as the service.
            let _store = &directory;
            let Some(request) = request(input) else { return Shape::refused(&"not a request") };
            let is_whole = request.headers().get("range").is_none();
            let answer = runtime.block_on(async {
                let answer = service.handle(Some(Peer::Server(ServerId([2; 16]))), request).await;
                let (parts, body) = answer.into_parts();
                (parts, body.collect().await.expect("the object is on the disk").to_bytes())
            });
            let (parts, bytes) = answer;
            assert!(bytes.len() <= OBJECT_BYTES, "{} bytes of an object of {OBJECT_BYTES}", bytes.len());
            assert_ne!(parts.status, StatusCode::INTERNAL_SERVER_ERROR);
            let length = parts.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
            assert!(length.is_none_or(|length: usize| length == bytes.len()), "the length is not what was said");
            if parts.status == StatusCode::OK && bytes.len() == OBJECT_BYTES {
                assert_eq!(Digest::of(&bytes), held, "another object");
            }
            let shape = (parts.status, is_whole, parts.headers.keys().map(ToString::to_string).collect::<Vec<_>>());
            if parts.status.is_success() { Shape::decoded(&shape) } else { Shape::refused(&shape) }
        }),
    }
}

pub(super) fn request(input: &[u8]) -> Option<Request<Full<Bytes>>> {
    let end = input.windows(2).position(|two| two == b"\n\n")?;
    let head = std::str::from_utf8(&input[..end]).ok()?;
    let mut lines = head.split('\n');
    let mut words = lines.next()?.split(' ');
    let mut request = Request::builder().method(words.next()?).uri(words.next()?);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::copy_from_slice(&input[end + 2..]))).ok()
}
