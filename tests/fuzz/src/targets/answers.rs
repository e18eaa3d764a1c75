//! What a source answers to somebody who fetches an object from it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::control::Source;
use common::digest::Digest;
use common::ids::ServerId;
use common::ticket::Ticket;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use transfer::chunk::ChunkTable;
use transfer::fetch::{Fetcher, Patience};
use transfer::http::ALPN;
use transfer::store::ObjectStore;
use transfer::tls::{ClientAuth, DNS_NAME, Identity, Peer, client_config, server_config};

use super::segment::ticket;
use crate::{Shape, Target};

const SOURCE: ServerId = ServerId([2; 16]);
const CHUNK_BYTES: u32 = 65_536;
/// Stands between answers.
const BETWEEN: &[u8] = b"\n@@\n";
/// Most answers of one input.
const ANSWERS_MAX: usize = 6;

fn object() -> Vec<u8> {
    (0..2 * CHUNK_BYTES as usize + 100).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect()
}

/// A certificate of the cluster, for the source and for who fetches.
fn identity() -> Identity {
    let (authority_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).expect("signed").pem();
    let mut leaf = CertificateParams::new(vec![DNS_NAME.to_owned()]).expect("a good name");
    let uri = Peer::Server(SOURCE).to_uri();
    leaf.subject_alt_names.push(SanType::URI(Ia5String::try_from(uri).expect("plain letters")));
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let issuer = Issuer::new(parameters, authority_key);
    let certificate = leaf.signed_by(&key, &issuer).expect("signed").pem();
    Identity::from_pem(&certificate, &key.serialize_pem(), &authority).expect("what was made can be read")
}

fn replaced(text: &[u8], word: &[u8], by: &[u8]) -> Vec<u8> {
    match text.windows(word.len()).position(|window| window == word) {
        Some(at) => [&text[..at], by, &text[at + word.len()..]].concat(),
        None => text.to_vec(),
    }
}

/// The answers to one request after the other, as they go over the wire; `@TABLE@`, `@OBJECT@` and `@REST@` (all but
/// the first chunk) stand for what is right. Then the connection ends.
pub(super) fn answers() -> Target {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Arc::new(ObjectStore::open(directory.path()).expect("an empty store"));
    let object = object();
    let table = ChunkTable::of(&object[..], object.len() as u64, CHUNK_BYTES).expect("memory is read");
    let ticket =
        Ticket { object: Digest::of(&object), length: object.len() as u64, chunk_bytes: CHUNK_BYTES, ..ticket() };
    let identity = identity();
    let client = client_config(Some(&identity), identity.authority(), &[ALPN]).expect("a configuration");
    let server = server_config(&identity, &[ALPN], ClientAuth::Required).expect("a configuration");
    let patience = Patience {
        tries: 2,
        first_pause: Duration::ZERO,
        longest_pause: Duration::ZERO,
        idle: Duration::from_millis(200),
    };
    let fetcher = Fetcher::new(client, Arc::clone(&store)).with_patience(patience);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = runtime.block_on(TcpListener::bind(loopback)).expect("a port is free");
    let source = Source { server: Some(SOURCE), address: listener.local_addr().expect("it has an address") };
    let (length, end) = (object.len(), object.len() - 1);
    let head = |status: &str, rest: &str| format!("HTTP/1.1 {status}\r\n{rest}\r\n");
    let table_head = head("200 OK", &format!("content-length: {}\r\n", table.to_bytes().len()));
    let whole =
        head("206 Partial Content", &format!("content-range: bytes 0-{end}/{length}\r\ncontent-length: {length}\r\n"));
    let first = head(
        "206 Partial Content",
        &format!("content-range: bytes 0-65535/{length}\r\ntransfer-encoding: chunked\r\n"),
    );
    let rest = head(
        "206 Partial Content",
        &format!("content-range: bytes 65536-{end}/{length}\r\ncontent-length: {}\r\n", length - 65_536),
    );
    let samples = vec![
        format!("{table_head}@TABLE@\n@@\n{whole}@OBJECT@").into_bytes(),
        format!("{table_head}@TABLE@\n@@\n{first}10000\r\n@FIRST@\r\n0\r\n\r\n\n@@\n{rest}@REST@").into_bytes(),
        head("404 Not Found", "content-length: 0\r\n").into_bytes(),
        format!("{}busy\n", head("503 Service Unavailable", "content-length: 5\r\n")).into_bytes(),
        format!("{table_head}@TABLE@\n@@\n{whole}@REST@").into_bytes(),
    ];
    Target {
        name: "chunk-answer",
        what: "what a source answers to who fetches from it",
        bytes_max: 4_096,
        samples,
        check: Box::new(move |input| {
            // Lives as long as the store.
            let _store = &directory;
            let input = replaced(input, b"@TABLE@", &table.to_bytes());
            let input = replaced(&input, b"@OBJECT@", &object);
            let input = replaced(&input, b"@FIRST@", &object[..65_536]);
            let input = replaced(&input, b"@REST@", &object[65_536..]);
            let mut answers = Vec::new();
            let mut left = &input[..];
            while answers.len() < ANSWERS_MAX {
                let Some(at) = left.windows(BETWEEN.len()).position(|window| window == BETWEEN) else { break };
                answers.push(left[..at].to_vec());
                left = &left[at + BETWEEN.len()..];
            }
            answers.push(left.to_vec());
            let acceptor = TlsAcceptor::from(Arc::clone(&server));
            let fetched = runtime.block_on(async {
                let serving = async {
                    let mut answers = answers.into_iter();
                    loop {
                        let Ok((stream, _)) = listener.accept().await else { continue };
                        stream.set_nodelay(true).ok();
                        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                        // A request is short and comes in one piece; so does each answer go out.
                        let mut request = [0; 4_096];
                        for answer in answers.by_ref() {
                            if !matches!(stream.read(&mut request).await, Ok(bytes) if bytes > 0)
                                || stream.write_all(&answer).await.is_err()
                            {
                                break;
                            }
                        }
                        stream.shutdown().await.ok();
                    }
                };
                tokio::select! {
                    fetched = fetcher.fetch(&ticket, &source, |_| ()) => fetched,
                    () = serving => unreachable!("it serves for ever"),
                }
            });
            let held = store.contains(ticket.object);
            assert_eq!(held, fetched.is_ok(), "{fetched:?}");
            if held {
                let mut file = store.open_object(ticket.object).expect("it is held");
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut file, &mut bytes).expect("it is on the disk");
                assert!(bytes == object, "another object is held");
            }
            store.remove(ticket.object).expect("it can be removed");
            match fetched {
                Ok(()) => Shape::decoded(&"fetched"),
                Err(error) => Shape::refused(&error.to_string()),
            }
        }),
    }
}
