use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;
use crate::http::ALPN;
use crate::test_pki::{TestCa, server};
use crate::test_site::{Fault, QUICK, Site, Wire, content, notification, parrot, read, source, ticket};
use crate::tls::{ClientAuth, client_config};

const CHUNK: u64 = 64 << 10;

fn quiet(_: u64) {}

/// What TLS and HTTP add to so many bytes on a few connections, generously.
fn with_overhead(bytes: u64) -> u64 {
    bytes + bytes / 100 + 16 * 1024
}

#[tokio::test]
async fn a_fetched_object_is_equal_and_each_byte_crosses_once() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 100 * CHUNK + 77] {
        let bytes = content(usize::try_from(length).unwrap());
        let object = there.store.put_bytes(&bytes).unwrap();
        let wire = Wire::to(serving.address, Vec::new()).await;
        let heard = AtomicU64::new(0);
        let progress = |bytes| {
            assert!(heard.swap(bytes, Ordering::Relaxed) <= bytes);
        };
        here.fetcher().fetch(&ticket(&bytes), &there.source(wire.address), progress).await.unwrap();
        assert_eq!(read(&here.store, object), bytes, "{length} bytes");
        assert_eq!(heard.into_inner(), length);
        assert!(wire.total() <= with_overhead(length), "{} bytes for {length}", wire.total());
        let asked = there.asked.lock().unwrap().drain(..).count();
        let requests = if length == 0 {
            0
        } else if length <= CHUNK {
            1
        } else {
            2
        };
        assert_eq!(asked, requests, "{length} bytes");
    }
}

#[tokio::test]
async fn what_is_here_already_needs_no_source() {
    let ca = TestCa::new();
    let here = Site::new(&ca, server(1));
    here.store.put_bytes(b"something").unwrap();
    let nowhere = source(Peer::Ccm, "127.0.0.1:1".parse().unwrap());
    here.fetcher().fetch(&ticket(b"something"), &nowhere, quiet).await.unwrap();
}

#[tokio::test]
async fn two_who_want_the_same_object_fetch_it_once() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, server(2)), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let wire = Wire::to(serving.address, Vec::new()).await;
    let bytes = content(20 * CHUNK as usize);
    there.store.put_bytes(&bytes).unwrap();
    let (fetcher, ticket, from) = (here.fetcher(), ticket(&bytes), there.source(wire.address));
    let (one, two) = tokio::join!(fetcher.fetch(&ticket, &from, quiet), fetcher.fetch(&ticket, &from, quiet));
    one.unwrap();
    two.unwrap();
    assert!(wire.total() <= with_overhead(bytes.len() as u64));
}

#[tokio::test]
async fn a_byte_flipped_in_transit_costs_a_connection_and_nothing_else() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(40 * CHUNK as usize);
    let object = there.store.put_bytes(&bytes).unwrap();
    let wire = Wire::to(serving.address, vec![Fault::Flip(1_000_000)]).await;
    here.fetcher().fetch(&ticket(&bytes), &there.source(wire.address), quiet).await.unwrap();
    assert_eq!(wire.carried().len(), 2);
    assert_eq!(read(&here.store, object), bytes);
}

#[tokio::test]
async fn a_byte_flipped_at_the_source_is_refused_and_its_chunk_named() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, server(2)), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    for (length, place) in [(1000, 999), (10 * CHUNK, 3 * CHUNK), (10 * CHUNK, 10 * CHUNK - 1)] {
        let bytes = content(usize::try_from(length).unwrap());
        let object = there.store.put_bytes(&bytes).unwrap();
        let file = std::fs::File::options().write(true).open(there.store.path(object)).unwrap();
        let right = bytes[usize::try_from(place).unwrap()];
        file.write_all_at(&[right ^ 0x10], place).unwrap();
        let wire = Wire::to(serving.address, Vec::new()).await;
        let from = there.source(wire.address);
        let refused = here.fetcher().fetch(&ticket(&bytes), &from, quiet).await.unwrap_err();
        let FetchError::Corrupt { peer, chunk, .. } = refused else { panic!("{refused}") };
        assert_eq!((peer, u64::from(chunk)), (server(2), place / CHUNK));
        assert_eq!(wire.carried().len(), 1, "a wrong chunk is not asked for again");
        assert!(!here.store.contains(object));

        file.write_all_at(&[right], place).unwrap();
        let wire = Wire::to(serving.address, Vec::new()).await;
        here.fetcher().fetch(&ticket(&bytes), &there.source(wire.address), quiet).await.unwrap();
        assert_eq!(read(&here.store, object), bytes);
        assert!(wire.total() <= with_overhead(length - place / CHUNK * CHUNK), "verified chunks stayed");
        here.store.remove(object).unwrap();
        there.store.remove(object).unwrap();
    }
}

#[tokio::test]
#[expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
async fn of_what_a_file_holds_already_only_what_is_wrong_or_lacking_crosses() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(40 * CHUNK as usize);
    let object = there.store.put_bytes(&bytes).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("part");
    // Chunk 3 is wrong, chunk 20 is there only in part, and what is beyond it is not.
    let mut part = bytes.clone();
    part[3 * CHUNK as usize + 5] ^= 1;
    std::fs::write(&path, &part).unwrap();
    let beginning = Beginning { path, ranges: vec![0..10 * CHUNK, 10 * CHUNK..20 * CHUNK + 1000] };
    let wire = Wire::to(serving.address, Vec::new()).await;
    let from = there.source(wire.address);
    here.fetcher().fetch_rest(&ticket(&bytes), &from, Some(beginning), |_| ()).await.unwrap();
    assert_eq!(read(&here.store, object), bytes);
    // Ranges that only touch each other are not one; no chunk lies across.
    assert!(wire.total() <= with_overhead(21 * CHUNK), "{} bytes", wire.total());
    assert!(wire.total() >= 21 * CHUNK);

    // Of every 1,000 bytes 300 are lacking.
    here.store.remove(object).unwrap();
    let mut part = bytes.clone();
    for at in (0..part.len()).filter(|at| at % 1000 >= 700) {
        part[at] = 0;
    }
    part[3 * CHUNK as usize + 5] ^= 1;
    std::fs::write(place.path().join("part"), &part).unwrap();
    let held = |at: u64| at..(at + 700).min(40 * CHUNK);
    let ranges = (0..40 * CHUNK).step_by(1000).map(held).collect();
    let torn = Beginning { path: place.path().join("part"), ranges };
    let wire = Wire::to(serving.address, Vec::new()).await;
    here.fetcher().fetch_rest(&ticket(&bytes), &there.source(wire.address), Some(torn), |_| ()).await.unwrap();
    assert_eq!(read(&here.store, object), bytes);
    let lacking = 40 * CHUNK * 3 / 10;
    assert!(wire.total() <= with_overhead(lacking + CHUNK), "{} bytes for {lacking}", wire.total());

    here.store.remove(object).unwrap();
    let gone = Beginning { path: place.path().join("none"), ranges: vec![0..40 * CHUNK] };
    let wire = Wire::to(serving.address, Vec::new()).await;
    here.fetcher().fetch_rest(&ticket(&bytes), &there.source(wire.address), Some(gone), |_| ()).await.unwrap();
    assert_eq!(read(&here.store, object), bytes);
}

#[tokio::test]
async fn what_has_arrived_without_a_gap_can_be_read_while_the_rest_is_fetched() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(40 * CHUNK as usize + 5);
    there.store.put_bytes(&bytes).unwrap();
    let kept = std::sync::Mutex::new((0, None));
    let watch = |assembler: &Assembler| {
        let whole = assembler.whole_bytes();
        let file = assembler.reader().unwrap();
        let mut read = vec![0; usize::try_from(whole).unwrap()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes[..read.len()], "{whole} bytes");
        let mut kept = kept.lock().unwrap();
        assert!(whole >= kept.0);
        *kept = (whole, Some(file));
    };
    here.fetcher().fetch_rest(&ticket(&bytes), &there.source(serving.address), None, watch).await.unwrap();
    let (whole, file) = kept.into_inner().unwrap();
    assert_eq!(whole, bytes.len() as u64);
    let mut read = vec![0; bytes.len()];
    file.unwrap().read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "the file stays good when the object is finished");
}

#[tokio::test]
async fn after_a_cut_only_the_missing_chunks_cross() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(64 * CHUNK as usize);
    let object = there.store.put_bytes(&bytes).unwrap();
    // In the handshake, in the table, in the data thrice, one of them without progress.
    let cuts = [500, 3_000, 1_000_000, 4_000, 2_000_000].map(Fault::Cut).to_vec();
    let connections = cuts.len() + 1;
    let wire = Wire::to(serving.address, cuts).await;
    here.fetcher().fetch(&ticket(&bytes), &there.source(wire.address), quiet).await.unwrap();
    assert_eq!(read(&here.store, object), bytes);
    assert_eq!(wire.carried().len(), connections);
    assert!(wire.total() <= with_overhead(bytes.len() as u64 + 3 * CHUNK), "{:?}", wire.carried());
}

#[tokio::test]
async fn a_fetch_survives_the_death_and_restart_of_its_source() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, server(2)), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(48 << 20);
    let object = there.store.put_bytes(&bytes).unwrap();
    let wire = Wire::to(serving.address, Vec::new()).await;
    let patience = Patience { tries: 1000, ..QUICK };
    let (fetcher, ticket) = (here.fetcher().with_patience(patience), ticket(&bytes));
    let (from, address) = (there.source(wire.address), serving.address);
    let started = Notify::new();
    let fetching = fetcher.fetch(&ticket, &from, |bytes| {
        if bytes >= 10 * CHUNK {
            started.notify_one();
        }
    });
    let restarting = async {
        started.notified().await;
        serving.task.abort();
        _ = serving.task.await;
        let before: u64 = wire.total();
        assert!(before < bytes.len() as u64, "the source died too late");
        there.serve_at(address).await
    };
    let (fetched, _serving) = tokio::join!(fetching, restarting);
    fetched.unwrap();
    assert_eq!(read(&here.store, object), bytes);
    assert!(wire.carried().len() > 1);
    assert!(wire.total() <= with_overhead(bytes.len() as u64 + CHUNK), "{:?}", wire.carried());
}

#[tokio::test]
async fn a_fetch_that_is_dropped_goes_on_later_where_it_was() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, server(2)), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(40 << 20);
    there.store.put_bytes(&bytes).unwrap();
    let wire = Wire::to(serving.address, Vec::new()).await;
    let (fetcher, ticket) = (here.fetcher(), ticket(&bytes));
    let from = there.source(wire.address);
    let enough = Notify::new();
    tokio::select! {
        _ = fetcher.fetch(&ticket, &from, |bytes| if bytes >= 50 * CHUNK { enough.notify_one(); }) => panic!("too fast"),
        () = enough.notified() => {}
    }
    let first = Mutex::new(None);
    let note = |bytes| _ = first.lock().unwrap().get_or_insert(bytes);
    fetcher.fetch(&ticket, &from, note).await.unwrap();
    assert!(first.into_inner().unwrap() >= Some(50 * CHUNK));
    assert_eq!(read(&here.store, ticket.object), bytes);
}

#[tokio::test]
async fn tries_have_an_end_and_the_error_names_the_place() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failed = here.fetcher().fetch(&ticket(b"x"), &there.source(nowhere), quiet).await.unwrap_err();
    assert!(matches!(failed, FetchError::Unreachable { address, .. } if address == nowhere), "{failed}");

    let serving = there.serve().await;
    there.store.put_bytes(b"x").unwrap();
    let wire = Wire::to(serving.address, vec![Fault::Cut(500); 100]).await;
    let failed = here.fetcher().fetch(&ticket(b"x"), &there.source(wire.address), quiet).await.unwrap_err();
    assert!(matches!(failed, FetchError::Unreachable { .. }), "{failed}");
    assert_eq!(wire.carried().len(), QUICK.tries as usize);
}

#[tokio::test]
async fn a_silent_source_is_given_up_on() {
    let ca = TestCa::new();
    let here = Site::new(&ca, server(1));
    let silent = parrot(&ca, Peer::Ccm, "").await;
    let patience = Patience { tries: 2, idle: Duration::from_millis(50), ..QUICK };
    let fetcher = here.fetcher().with_patience(patience);
    let failed = fetcher.fetch(&ticket(b"x"), &source(Peer::Ccm, silent.address), quiet).await.unwrap_err();
    assert!(matches!(failed, FetchError::TimedOut { .. }), "{failed}");
}

#[tokio::test]
async fn what_a_source_lacks_or_withholds_is_told_apart() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let from = there.source(serving.address);
    for bytes in [content(10), content(3 * CHUNK as usize)] {
        let failed = here.fetcher().fetch(&ticket(&bytes), &from, quiet).await.unwrap_err();
        assert!(matches!(failed, FetchError::NotHeld { object, .. } if object == Digest::of(&bytes)), "{failed}");
        let object = there.store.put_bytes(&bytes).unwrap();
        there.secret.lock().unwrap().push(object);
        let failed = here.fetcher().fetch(&ticket(&bytes), &from, quiet).await.unwrap_err();
        let FetchError::Refused { status, reason, .. } = failed else { panic!("{failed}") };
        assert_eq!((status, reason.as_str()), (StatusCode::FORBIDDEN, "not for you"));
    }
}

#[tokio::test]
async fn another_than_the_expected_source_is_refused_at_once() {
    let (ca, foreign) = (TestCa::new(), TestCa::new());
    let (there, here, stranger) =
        (Site::new(&ca, server(2)), Site::new(&ca, server(1)), Site::new(&foreign, server(2)));
    let serving = there.serve().await;
    there.store.put_bytes(b"x").unwrap();
    for wrong in [Peer::Ccm, server(3)] {
        let wire = Wire::to(serving.address, Vec::new()).await;
        let refused = here.fetcher().fetch(&ticket(b"x"), &source(wrong, wire.address), quiet).await.unwrap_err();
        assert!(matches!(refused, FetchError::WrongPeer { .. }), "{refused}");
        assert_eq!(wire.carried().len(), 1);
    }
    let serving = stranger.serve().await;
    let wire = Wire::to(serving.address, Vec::new()).await;
    let refused = here.fetcher().fetch(&ticket(b"x"), &there.source(wire.address), quiet).await.unwrap_err();
    assert!(matches!(refused, FetchError::Unreachable { .. }), "{refused}");
    assert_eq!(wire.carried().len(), 1);
}

#[tokio::test]
async fn without_a_certificate_nothing_is_to_be_had() {
    let ca = TestCa::new();
    let here = Site::new(&ca, server(1));
    let nobody = client_config(None, &ca.authority(), &[ALPN]).unwrap();
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let there = Site::with_client_auth(&ca, Peer::Ccm, client_auth);
        there.store.put_bytes(b"x").unwrap();
        let serving = there.serve().await;
        let from = there.source(serving.address);
        let fetcher = Fetcher::new(Arc::clone(&nobody), Arc::clone(&here.store)).with_patience(QUICK);
        let refused = fetcher.fetch(&ticket(b"x"), &from, quiet).await.unwrap_err();
        let told = fetcher.notify(&from, &notification(b"x", &from), Duration::from_secs(5)).await.unwrap_err();
        match client_auth {
            ClientAuth::Required => {
                assert!(matches!(refused, FetchError::Lost { .. } | FetchError::Unreachable { .. }), "{refused}");
                assert!(matches!(told, NotifyError::Lost { .. } | NotifyError::Unreachable { .. }), "{told}");
            }
            ClientAuth::Optional => {
                assert!(matches!(refused, FetchError::Refused { status: StatusCode::UNAUTHORIZED, .. }), "{refused}");
                assert!(matches!(told, NotifyError::Refused { status: StatusCode::UNAUTHORIZED, .. }), "{told}");
            }
        }
        assert!(there.asked.lock().unwrap().is_empty());
        // A renewed configuration counts from the next connection on.
        fetcher.renew(here.client());
        fetcher.fetch(&ticket(b"x"), &from, quiet).await.unwrap();
        here.store.remove(Digest::of(b"x")).unwrap();
    }
}

#[tokio::test]
async fn answers_that_do_not_fit_the_question_are_refused() {
    let ca = TestCa::new();
    let here = Site::new(&ca, server(1));
    let cases = [
        "HTTP/1.1 206 OK\r\ncontent-length: 4\r\ncontent-range: bytes 1-4/10\r\n\r\nabcd",
        "HTTP/1.1 206 OK\r\ncontent-length: 10\r\ncontent-range: bytes 0-9/11\r\n\r\n0123456789",
        "HTTP/1.1 206 OK\r\ncontent-length: 10\r\n\r\n0123456789",
        "HTTP/1.1 206 OK\r\ncontent-length: 11\r\ncontent-range: bytes 0-9/10\r\n\r\n0123456789a",
        "HTTP/1.1 206 OK\r\ncontent-length: 9\r\ncontent-range: bytes 0-9/10\r\n\r\n012345678",
        "HTTP/1.1 206 OK\r\ncontent-length: 5\r\ncontent-range: bytes 0-4/10\r\n\r\n01234",
    ];
    for answer in cases {
        let liar = parrot(&ca, Peer::Ccm, answer).await;
        let from = source(Peer::Ccm, liar.address);
        let refused = here.fetcher().fetch(&ticket(b"0123456789"), &from, quiet).await;
        // Right bytes and then one too many: the chunk is verified, the object not finished.
        let object = Digest::of(b"0123456789");
        assert!(matches!(refused, Err(FetchError::Malformed { .. })), "{answer}: {refused:?}");
        assert!(!here.store.contains(object));
        here.store.remove(object).unwrap();
    }
    let liar = parrot(&ca, Peer::Ccm, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").await;
    let bytes = content(2 * CHUNK as usize);
    let refused = here.fetcher().fetch(&ticket(&bytes), &source(Peer::Ccm, liar.address), quiet).await;
    assert!(matches!(refused, Err(FetchError::WrongTable { .. })), "{refused:?}");
    let huge = parrot(&ca, Peer::Ccm, "HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\nabc").await;
    let refused = here.fetcher().fetch(&ticket(&bytes), &source(Peer::Ccm, huge.address), quiet).await;
    let Err(FetchError::Lost { source: HttpError::TooLong { .. }, .. }) = refused else { panic!("{refused:?}") };
}

#[tokio::test]
async fn a_table_of_another_geometry_than_announced_is_refused() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, Peer::Ccm), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(4 * CHUNK as usize);
    there.store.put_bytes(&bytes).unwrap();
    let from = there.source(serving.address);
    let other = Ticket { chunk_bytes: 2 * CHUNK as u32, ..ticket(&bytes) };
    let refused = here.fetcher().fetch(&other, &from, quiet).await.unwrap_err();
    assert!(matches!(refused, FetchError::WrongTable { source: TableError::Geometry { .. }, .. }), "{refused}");
    let absurd = Ticket { chunk_bytes: 1000, ..ticket(&bytes) };
    let refused = here.fetcher().fetch(&absurd, &from, quiet).await.unwrap_err();
    assert!(matches!(refused, FetchError::Ticket { .. }), "{refused}");
    let empty = Ticket { length: 0, ..ticket(&bytes) };
    let refused = here.fetcher().fetch(&empty, &from, quiet).await.unwrap_err();
    assert!(matches!(refused, FetchError::Ticket { .. }), "{refused}");
}

#[tokio::test]
async fn an_unfinished_object_is_handed_on_as_far_as_it_is_verified() {
    let ca = TestCa::new();
    let (there, here) = (Site::new(&ca, server(2)), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let bytes = content(8 * CHUNK as usize);
    let table = ChunkTable::of(&bytes[..], bytes.len() as u64, CHUNK as u32).unwrap();
    let unfinished = there.store.partial(table.root(), table.length(), table).unwrap();
    let chunk = |index: u32| &bytes[index as usize * CHUNK as usize..][..CHUNK as usize];
    for index in [0, 1, 2, 6] {
        assert!(unfinished.write_chunk(index, chunk(index)).unwrap());
    }
    let (fetcher, ticket, from) = (here.fetcher(), ticket(&bytes), there.source(serving.address));
    let failed = fetcher.fetch(&ticket, &from, quiet).await.unwrap_err();
    assert!(matches!(failed, FetchError::NotHeld { .. }), "{failed}");
    for index in [3, 4, 5, 7] {
        assert!(unfinished.write_chunk(index, chunk(index)).unwrap());
    }
    let first = Mutex::new(None);
    let note = |bytes| _ = first.lock().unwrap().get_or_insert(bytes);
    fetcher.fetch(&ticket, &from, note).await.unwrap();
    assert_eq!(first.into_inner().unwrap(), Some(3 * CHUNK));
    assert_eq!(read(&here.store, ticket.object), bytes);
}

#[tokio::test]
async fn a_notification_is_answered_when_the_object_has_been_fetched_there() {
    let ca = TestCa::new();
    let (mut there, here) = (Site::new(&ca, server(2)), Site::new(&ca, server(1)));
    let (serving_there, serving_here) = (there.serve().await, here.serve().await);
    let bytes = content(5 * CHUNK as usize);
    let object = here.store.put_bytes(&bytes).unwrap();
    let sent = notification(&bytes, &here.source(serving_here.address));
    let (to, message, notifier) = (there.source(serving_there.address), sent.clone(), here.fetcher());
    let notifying = tokio::spawn(async move { notifier.notify(&to, &message, Duration::from_secs(60)).await });
    let incoming = there.notifications.recv().await.unwrap();
    assert_eq!((incoming.peer, &incoming.notification), (server(1), &sent));
    there.fetcher().fetch(&ticket(&bytes), &incoming.notification.source, quiet).await.unwrap();
    assert!(!notifying.is_finished());
    incoming.answer.send(Ok(())).unwrap();
    notifying.await.unwrap().unwrap();
    assert_eq!(read(&there.store, object), bytes);
}

#[tokio::test]
async fn a_notification_that_leads_to_nothing_says_why() {
    use crate::server::NotifyFailure;
    let ca = TestCa::new();
    let (mut there, here) = (Site::new(&ca, server(2)), Site::new(&ca, server(1)));
    let serving = there.serve().await;
    let (to, fetcher) = (there.source(serving.address), here.fetcher());
    let message = notification(b"x", &to);
    let wait = Duration::from_secs(60);

    for answer in [NotifyFailure::Refused("expired".to_owned()), NotifyFailure::Failed("no space".to_owned())] {
        let answering = async { there.notifications.recv().await.unwrap().answer.send(Err(answer.clone())).unwrap() };
        let (told, ()) = tokio::join!(fetcher.notify(&to, &message, wait), answering);
        match (told.unwrap_err(), &answer) {
            (NotifyError::Unwanted { reason, .. }, NotifyFailure::Refused(given))
            | (NotifyError::Failed { reason, .. }, NotifyFailure::Failed(given)) => assert_eq!(reason, *given),
            (other, _) => panic!("{other}"),
        }
    }
    let dropping = async { drop(there.notifications.recv().await) };
    let (told, ()) = tokio::join!(fetcher.notify(&to, &message, wait), dropping);
    assert!(matches!(told, Err(NotifyError::Failed { .. })));

    let told = fetcher.notify(&to, &message, Duration::from_millis(50)).await;
    assert!(matches!(told, Err(NotifyError::TimedOut { .. })), "{told:?}");
    let busy = Site::new(&ca, server(3));
    let serving = busy.serve().await;
    let (answer, _waiting) = tokio::sync::oneshot::channel();
    let queued = crate::server::Incoming { peer: Peer::Ccm, notification: message.clone(), answer };
    busy.service.notify.try_send(queued).unwrap();
    let told = fetcher.notify(&busy.source(serving.address), &message, wait).await;
    assert!(matches!(&told, Err(NotifyError::Failed { reason, .. }) if reason.starts_with("busy")), "{told:?}");

    let mut large = message.clone();
    large.inline = Some(vec![0; NOTIFICATION_BYTES_MAX]);
    assert!(matches!(fetcher.notify(&to, &large, wait).await, Err(NotifyError::TooLong { .. })));
    large.inline = Some(vec![0; common::control::INLINE_BYTES_MAX + 1]);
    let told = fetcher.notify(&to, &large, wait).await;
    assert!(matches!(told, Err(NotifyError::Refused { status: StatusCode::BAD_REQUEST, .. })), "{told:?}");
}

#[test]
fn pauses_grow_up_to_the_longest() {
    let patience = Patience::default();
    let pauses: Vec<u128> = [1, 2, 3, 6, 7, 40].map(|tries| patience.pause_after(tries).as_millis()).to_vec();
    assert_eq!(pauses, [250, 500, 1000, 8000, 8000, 8000]);
}

#[test]
fn neighbours_are_asked_for_together() {
    assert_eq!(runs(&[]), []);
    assert_eq!(runs(&[0, 1, 2, 5, 7, 8]), [(0, 2), (5, 5), (7, 8)]);
}
