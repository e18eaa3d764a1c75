//! Certificates: whom they name, and authorities to trust.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use transfer::tls::{Authority, Peer};

use crate::{Shape, Target};

const CERTIFICATE: &str = include_str!("../samples/certificate.pem");

/// The first byte says whether it is one certificate in binary form, a text of several, or a name.
pub(super) fn certificate() -> Target {
    let der = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("a certificate");
    let sample = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    Target {
        name: "certificate",
        what: "whom certificates name, and authorities to trust",
        bytes_max: 4_096,
        samples: vec![
            sample(0, &der),
            sample(1, CERTIFICATE.as_bytes()),
            sample(2, b"pressrun://ccm"),
            sample(2, b"pressrun://server/02020202020202020202020202020202"),
        ],
        check: Box::new(|input| {
            let Some((how, bytes)) = input.split_first() else { return Shape::refused(&"empty") };
            let peer = match how % 3 {
                0 => Peer::of_certificate(&CertificateDer::from(bytes)),
                1 => {
                    let text = String::from_utf8_lossy(bytes);
                    return match Authority::from_pem(&text) {
                        Ok(_) => Shape::decoded(&"authority"),
                        Err(error) => Shape::refused(&error.to_string()),
                    };
                }
                _ => {
                    let peer = Peer::from_uri(&String::from_utf8_lossy(bytes));
                    if let Some(peer) = peer {
                        assert_eq!(peer.to_uri().as_bytes(), bytes, "a name is spelt in one way");
                    }
                    peer
                }
            };
            // A shape does not count digits.
            let form = if how % 3 == 0 { "binary" } else { "name" };
            match peer {
                Some(peer) => {
                    assert_eq!(Peer::from_uri(&peer.to_uri()), Some(peer));
                    Shape::decoded(&(form, peer == Peer::Ccm))
                }
                None => Shape::refused(&form),
            }
        }),
    }
}
