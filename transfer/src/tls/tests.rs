use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::test_pki::{TestCa, server};

const ALPN: &[u8] = b"test/1";

/// Accepts one connection and says who it is.
async fn listen(config: Arc<ServerConfig>) -> (SocketAddr, JoinHandle<io::Result<Option<Peer>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.shutdown().await?;
        Ok(peer_of_server_connection(stream.get_ref().1))
    });
    (address, accepting)
}

/// In TLS 1.3 a refused client learns of it only with the first answer.
async fn echo(mut stream: TlsStream<TcpStream>) -> io::Result<u8> {
    stream.write_all(&[7]).await?;
    stream.read_u8().await
}

fn server_of(identity: &Identity, client_auth: ClientAuth) -> Arc<ServerConfig> {
    server_config(identity, &[ALPN], client_auth).unwrap()
}

fn client_of(identity: &Identity) -> Arc<ClientConfig> {
    client_config(Some(identity), identity.authority(), &[ALPN]).unwrap()
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = TestCa::new();
    for (here, there) in [(server(1), Peer::Ccm), (server(1), server(2)), (Peer::Ccm, server(3))] {
        let (address, accepting) = listen(server_of(&ca.identity(there), ClientAuth::Required)).await;
        let stream = connect(&client_of(&ca.identity(here)), address, there).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(echo(stream).await.unwrap(), 7);
        assert_eq!(accepting.await.unwrap().unwrap(), Some(here));
    }
}

#[tokio::test]
async fn another_server_of_the_same_cluster_is_not_the_one_expected() {
    let ca = TestCa::new();
    let (address, _accepting) = listen(server_of(&ca.identity(server(2)), ClientAuth::Required)).await;
    let refused = connect(&client_of(&ca.identity(server(1))), address, server(3)).await.unwrap_err();
    let ConnectError::WrongPeer { expected, actual, .. } = refused else { panic!("{refused}") };
    assert_eq!((expected, actual), (server(3), Some(server(2))));
}

#[tokio::test]
async fn a_foreign_authority_vouches_for_nobody() {
    let (ours, foreign) = (TestCa::new(), TestCa::new());
    let (address, _accepting) = listen(server_of(&foreign.identity(server(2)), ClientAuth::Optional)).await;
    let refused = connect(&client_of(&ours.identity(server(1))), address, server(2)).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Handshake { .. }), "{refused}");

    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let (address, accepting) = listen(server_of(&ours.identity(server(2)), client_auth)).await;
        let config = client_config(Some(&foreign.identity(server(1))), &ours.authority(), &[ALPN]).unwrap();
        if let Ok(stream) = connect(&config, address, server(2)).await {
            assert!(echo(stream).await.is_err());
        }
        assert!(accepting.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_passes_only_where_it_is_optional_and_stays_nobody() {
    let ca = TestCa::new();
    let nobody = client_config(None, &ca.authority(), &[ALPN]).unwrap();

    let (address, accepting) = listen(server_of(&ca.identity(Peer::Ccm), ClientAuth::Required)).await;
    if let Ok(stream) = connect(&nobody, address, Peer::Ccm).await {
        assert!(echo(stream).await.is_err());
    }
    assert!(accepting.await.unwrap().is_err());

    let (address, accepting) = listen(server_of(&ca.identity(Peer::Ccm), ClientAuth::Optional)).await;
    assert_eq!(echo(connect(&nobody, address, Peer::Ccm).await.unwrap()).await.unwrap(), 7);
    assert_eq!(accepting.await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_certificate_that_names_nobody_or_two_is_nobodys() {
    let ca = TestCa::new();
    let two = [Peer::Ccm.to_uri(), server(1).to_uri()];
    let upper = server(0xab).to_uri().to_uppercase();
    let cases: [&[&str]; 6] =
        [&[], &[&two[0], &two[1]], &["pressrun://server/12"], &["pressrun://ccm/"], &[&upper], &["https://ccm"]];
    for uris in cases {
        let (address, _accepting) = listen(server_of(&ca.identity_with_uris(uris), ClientAuth::Optional)).await;
        let refused = connect(&client_of(&ca.identity(server(1))), address, Peer::Ccm).await.unwrap_err();
        assert!(matches!(refused, ConnectError::WrongPeer { actual: None, .. }), "{uris:?}: {refused}");
    }
}

#[tokio::test]
async fn the_right_uri_without_the_fixed_name_is_refused() {
    let ca = TestCa::new();
    let identity = ca.issue(&["elsewhere.internal"], &[&Peer::Ccm.to_uri()]);
    let (address, _accepting) = listen(server_of(&identity, ClientAuth::Optional)).await;
    let refused = connect(&client_of(&ca.identity(server(1))), address, Peer::Ccm).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Handshake { .. }), "{refused}");
}

#[tokio::test]
async fn a_server_of_another_protocol_is_refused() {
    let ca = TestCa::new();
    for theirs in [&[b"other/1".as_slice()] as &[&[u8]], &[]] {
        let config = server_config(&ca.identity(Peer::Ccm), theirs, ClientAuth::Optional).unwrap();
        let (address, _accepting) = listen(config).await;
        let refused = connect(&client_of(&ca.identity(server(1))), address, Peer::Ccm).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Handshake { .. } | ConnectError::Protocol { .. }), "{refused}");
    }
}

#[tokio::test]
async fn where_nobody_listens_it_says_so() {
    let ca = TestCa::new();
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = connect(&client_of(&ca.identity(server(1))), address, Peer::Ccm).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Unreachable { .. }), "{refused}");
}

#[test]
fn texts_that_are_no_certificates_are_named() {
    let ca = TestCa::new();
    assert!(matches!(Authority::from_pem(""), Err(TlsError::NoCertificate { .. })));
    assert!(matches!(Identity::from_pem("", "", ""), Err(TlsError::Pem { what: "private key", .. })));
    let (one, two) = (ca.identity(server(1)), ca.identity(server(2)));
    let mixed = Identity { key: two.key.clone_key(), ..one };
    assert!(matches!(server_config(&mixed, &[], ClientAuth::Required), Err(TlsError::Identity { .. })));
    assert_eq!(format!("{two:?}"), format!("Identity(of {})", server(2)));
}
