//! How the authority looks whether a name is somebody's: RFC 8737 and RFC 8555 §8.3, from the other side.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;

use crate::callers::{parse, raw};

/// RFC 8737 §6.1.
const ACME_IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";

/// Believes everybody, and remembers what it was shown.
#[derive(Debug, Default)]
pub(super) struct AnyCertificate(Mutex<Vec<u8>>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = end_entity.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn client() -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// Whether a handshake shows the proof, for that name alone.
pub(super) fn over_tls(at: SocketAddr, name: &str, proof: &str) -> Result<(), String> {
    let shown = Arc::new(AnyCertificate::default());
    let mut config = client();
    config.dangerous().set_certificate_verifier(Arc::<AnyCertificate>::clone(&shown));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), server).map_err(|error| error.to_string())?;
    let mut stream = TcpStream::connect(at).map_err(|error| error.to_string())?;
    while session.is_handshaking() {
        session.complete_io(&mut stream).map_err(|error| error.to_string())?;
    }
    if session.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("another protocol".to_owned());
    }
    let bytes = shown.0.lock().unwrap().clone();
    let (_, certificate) = x509_parser::parse_x509_certificate(&bytes).map_err(|error| error.to_string())?;
    let names = certificate.subject_alternative_name().unwrap().unwrap().value;
    if names.general_names != [GeneralName::DNSName(name)] {
        return Err(format!("for other names: {names:?}"));
    }
    let identifier = certificate.extensions().iter().find(|extension| extension.oid.to_id_string() == ACME_IDENTIFIER);
    let identifier = identifier.filter(|extension| extension.critical).ok_or("no critical acmeIdentifier")?;
    // An OCTET STRING of 32 bytes.
    let expected = [&[4, 32][..], Sha256::digest(proof).as_slice()].concat();
    if identifier.value == expected { Ok(()) } else { Err("another digest".to_owned()) }
}

/// Whether the text is at its path.
pub(super) fn over_http(at: SocketAddr, name: &str, token: &str, proof: &str) -> Result<(), String> {
    let path = format!("/.well-known/acme-challenge/{token}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let answer = parse(&raw(at, request.as_bytes()), false).ok_or("no answer")?;
    if answer.status == 200 && answer.body == proof.as_bytes() {
        Ok(())
    } else {
        Err(format!("{} at {path}", answer.status))
    }
}
