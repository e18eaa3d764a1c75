use std::time::Instant;

use hyper::StatusCode;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::accept::{Limits, serve_within};
use super::*;
use crate::http::{ALPN, Connection, Response};
use crate::test_pki::{TestCa, server};
use crate::test_site::{Site, content, notification};
use crate::tls::{ClientAuth, client_config};

const CHUNK: usize = 64 << 10;

async fn connect(from: &Site, to: &Site, address: std::net::SocketAddr) -> Connection {
    Connection::open(&from.client(), address, to.peer).await.unwrap()
}

async fn body(response: Response) -> Vec<u8> {
    response.read(16 << 20).await.unwrap()
}

#[tokio::test]
async fn an_object_and_any_part_of_it_come_over_one_connection() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(20 * CHUNK + 5);
    let length = bytes.len() as u64;
    let path = object_path(there.store.put_bytes(&bytes).unwrap());
    let mut connection = connect(&here, &there, serving.address).await;
    let whole = connection.get(&path, None).await.unwrap();
    assert_eq!((whole.status(), whole.content_range()), (StatusCode::OK, None));
    assert_eq!(body(whole).await, bytes);
    for range in [0..1, 0..length, length - 1..length, 1..length - 1, 262_143..262_145, 5..262_149] {
        let part = connection.get(&path, Some(range.clone())).await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.content_range(), Some((range.clone(), length)));
        let expected = &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert_eq!(body(part).await, expected, "{range:?}");
    }
    let past_the_end = connection.get(&path, Some(length - 3..length + 100)).await.unwrap();
    assert_eq!(past_the_end.content_range(), Some((length - 3..length, length)));
    assert_eq!(body(past_the_end).await.len(), 3);
    let outside = connection.get(&path, Some(length..length + 1)).await.unwrap();
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    body(outside).await;

    let empty = object_path(there.store.put_bytes(&[]).unwrap());
    let whole = connection.get(&empty, None).await.unwrap();
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(body(whole).await, []);
    let part = connection.get(&empty, Some(0..1)).await.unwrap();
    assert_eq!(part.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn an_object_removed_while_it_is_read_still_comes_whole() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    // More than all the buffers on the way hold.
    let bytes = content(32 << 20);
    let object = there.store.put_bytes(&bytes).unwrap();
    let mut connection = connect(&here, &there, serving.address).await;
    let mut response = connection.get(&object_path(object), None).await.unwrap();
    let mut read = response.next().await.unwrap().unwrap().to_vec();
    there.store.remove(object).unwrap();
    while let Some(piece) = response.next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert!(read == bytes);
    let gone = connection.get(&object_path(object), None).await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_object_cut_while_it_is_read_breaks_the_connection() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(32 << 20);
    let object = there.store.put_bytes(&bytes).unwrap();
    let mut connection = connect(&here, &there, serving.address).await;
    let mut response = connection.get(&object_path(object), None).await.unwrap();
    response.next().await.unwrap();
    File::options().write(true).open(there.store.path(object)).unwrap().set_len(1 << 20).unwrap();
    assert!(response.read(64 << 20).await.is_err());
}

#[tokio::test]
async fn what_may_not_be_had_is_not_even_told_to_be_there() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let held = there.store.put_bytes(&content(3 * CHUNK)).unwrap();
    let lacking = Digest::of(b"not here");
    there.secret.lock().unwrap().extend([held, lacking]);
    let mut connection = connect(&here, &there, serving.address).await;
    for object in [held, lacking] {
        for path in [object_path(object), table_path(object)] {
            let response = connection.get(&path, None).await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
            body(response).await;
        }
    }
    assert!(there.asked.lock().unwrap().iter().all(|(peer, _)| *peer == server(1)));
}

#[tokio::test]
async fn those_without_a_certificate_are_told_nothing() {
    let ca = TestCa::new();
    let there = Site::with_client_auth(&ca, Peer::Ccm, ClientAuth::Optional);
    let serving = there.serve().await;
    let object = there.store.put_bytes(b"x").unwrap();
    let nobody = client_config(None, &ca.authority(), &[ALPN]).unwrap();
    let mut connection = Connection::open(&nobody, serving.address, Peer::Ccm).await.unwrap();
    for path in [object_path(object), table_path(object), object_path(Digest::of(b"not here"))] {
        let response = connection.get(&path, None).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        body(response).await;
    }
    let response = connection.post("/notify", b"junk".to_vec(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(there.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn paths_and_methods_that_mean_nothing_are_refused() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let object = object_path(there.store.put_bytes(b"x").unwrap());
    let mut connection = connect(&here, &there, serving.address).await;
    let short = &object[..object.len() - 1];
    for path in ["/", "/o/", "/o/../etc/passwd", "/o/%2e%2e", short, &format!("{object}/"), &format!("{object}0")] {
        let response = connection.get(path, None).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        body(response).await;
    }
    let response = connection.get("/notify", None).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    body(response).await;
    let response = connection.post(&object, Vec::new(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn junk_is_no_notification() {
    let ca = TestCa::new();
    let (mut there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let mut trailing = postcard::to_stdvec(&notification(b"x", &there.source(serving.address))).unwrap();
    trailing.push(0);
    let long = vec![0; NOTIFICATION_BYTES_MAX + 1];
    for (body, status) in [
        (Vec::new(), StatusCode::BAD_REQUEST),
        (b"junk".to_vec(), StatusCode::BAD_REQUEST),
        (vec![0xff; 1000], StatusCode::BAD_REQUEST),
        (trailing, StatusCode::BAD_REQUEST),
        (long, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let mut connection = connect(&here, &there, serving.address).await;
        let response = connection.post("/notify", body, Duration::from_secs(5)).await.unwrap();
        assert_eq!(response.status(), status);
    }
    assert!(there.notifications.try_recv().is_err());
}

#[tokio::test]
#[expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
async fn pieces_come_one_after_the_other_and_junk_is_refused() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(20 * CHUNK);
    let object = there.store.put_bytes(&bytes).unwrap();
    let ask = |ranges: &[Range<u64>]| postcard::to_stdvec(&pieces::Pieces::of(ranges)).unwrap();
    let wait = Duration::from_secs(5);
    let mut connection = connect(&here, &there, serving.address).await;
    for ranges in [vec![0..1], vec![5..700_000, 700_001..700_002], (0..9000).map(|n| n * 100..n * 100 + 7).collect()] {
        let response = connection.post(&pieces_path(object), ask(&ranges), wait).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let expected: Vec<u8> =
            ranges.iter().flat_map(|range| bytes[range.start as usize..range.end as usize].iter().copied()).collect();
        assert!(body(response).await == expected, "{} pieces", ranges.len());
    }
    let mut trailing = ask(&[0..1]);
    trailing.push(0);
    for (junk, status) in [
        (Vec::new(), StatusCode::BAD_REQUEST),
        (ask(&[]), StatusCode::BAD_REQUEST),
        (ask(&[0..0]), StatusCode::BAD_REQUEST),
        (ask(&[0..bytes.len() as u64 + 1]), StatusCode::BAD_REQUEST),
        (trailing, StatusCode::BAD_REQUEST),
        (vec![0xff; 1000], StatusCode::BAD_REQUEST),
        (vec![1; pieces::REQUEST_BYTES_MAX + 1], StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let mut connection = connect(&here, &there, serving.address).await;
        assert_eq!(connection.post(&pieces_path(object), junk, wait).await.unwrap().status(), status);
    }
    let unknown = pieces_path(Digest::of(b"not here"));
    let response = connection.post(&unknown, ask(&[0..1]), wait).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    body(response).await;
    there.secret.lock().unwrap().push(object);
    let response = connection.post(&pieces_path(object), ask(&[0..1]), wait).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

const HURRIED: Limits = Limits {
    connections: 2,
    handshake: Duration::from_millis(800),
    idle: Duration::from_millis(800),
    stall: Duration::from_millis(800),
    farewell: Duration::from_secs(20),
    ..Limits::DEFAULT
};

/// Serves under other limits than usual, until told to stop.
async fn serve_hurried(
    ca: &TestCa,
    site: &Site,
    limits: Limits,
) -> (std::net::SocketAddr, oneshot::Sender<()>, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let tls = ServerTls::from(ca.server_config(site.peer, ClientAuth::Required));
    let service = Arc::clone(&site.service);
    let serving = serve_within(limits, listener, tls, service, async { _ = stopped.await });
    (address, stop, AbortOnDropHandle::new(tokio::spawn(serving)))
}

#[tokio::test]
async fn those_who_say_nothing_or_take_nothing_lose_their_place_to_others() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let object = object_path(there.store.put_bytes(&content(32 << 20)).unwrap());
    let (address, _stop, _serving) = serve_hurried(&ca, &there, HURRIED).await;

    // No handshake at all: both places are taken until they are taken away.
    let mut silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let mut idle = connect(&here, &there, address).await;
    for stream in &mut silent {
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    body(idle.get(&table_path(Digest::of(b"x")), None).await.unwrap()).await;
    let mut other = connect(&here, &there, address).await;
    // Answers that nobody reads.
    let stalled = other.get(&object, None).await.unwrap();
    let mut third = connect(&here, &there, address).await;
    assert_eq!(third.get("/", None).await.unwrap().status(), StatusCode::NOT_FOUND);
    let mut fourth = connect(&here, &there, address).await;
    assert_eq!(fourth.get("/", None).await.unwrap().status(), StatusCode::NOT_FOUND);
    assert!(stalled.read(64 << 20).await.is_err());
    assert!(idle.get("/", None).await.is_err());
}

#[tokio::test]
async fn a_shutdown_lets_the_answer_under_way_end_and_takes_no_more() {
    let ca = TestCa::new();
    let (mut there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let limits = Limits { idle: Duration::from_secs(60), ..HURRIED };
    let (address, stop, serving) = serve_hurried(&ca, &there, limits).await;
    let mut connection = connect(&here, &there, address).await;
    let bytes = postcard::to_stdvec(&notification(b"x", &there.source(address))).unwrap();
    let asking = connection.post("/notify", bytes, Duration::from_secs(60));
    let stopping = async {
        let incoming = there.notifications.recv().await.unwrap();
        stop.send(()).unwrap();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        incoming.answer.send(Ok(())).unwrap();
    };
    let (answer, ()) = tokio::join!(asking, stopping);
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    let began = Instant::now();
    serving.await.unwrap();
    assert!(began.elapsed() < limits.farewell, "an idle connection holds nothing up");
}

#[tokio::test]
async fn a_renewed_certificate_counts_from_the_next_connection_on() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (renew, configs) = watch::channel(ca.server_config(server(9), ClientAuth::Required));
    let serving = serve(listener, configs, Arc::clone(&there.service), std::future::pending());
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    assert!(Connection::open(&here.client(), address, Peer::Ccm).await.is_err());
    renew.send(ca.server_config(Peer::Ccm, ClientAuth::Required)).unwrap();
    connect(&here, &there, address).await;
}
