//! What is fetched and what is not, from a real server on a loopback address.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;

fn rules() -> OutboundRules {
    OutboundRules { deadline: Duration::from_secs(5), body_max: 1_000, allow_private_addresses: true, ca_file: None }
}

/// Answers one connection with these bytes; the URL, and what it was asked.
fn server(answer: Vec<u8>) -> (Url, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys?x=1", listener.local_addr().unwrap());
    let (asked, question) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        let _ = asked.send(String::from_utf8(head).unwrap());
        let _ = stream.write_all(&answer);
    });
    (Url::parse(&url).unwrap(), question)
}

#[tokio::test]
async fn only_a_whole_small_plain_200_is_a_document() {
    let with = |head: &str, body: &str| format!("HTTP/1.1 {head}\r\n\r\n{body}").into_bytes();
    let long = "x".repeat(1_001);
    for (what, answer, expected) in [
        ("whole", with("200 OK\r\nContent-Length: 2", "{}"), "{}"),
        ("to the end", with("200 OK", "{}"), "{}"),
        ("chunked", with("200 OK\r\nTransfer-Encoding: chunked", "2\r\n{}\r\n0\r\n\r\n"), "{}"),
        ("a redirect", with("302 Found\r\nLocation: http://127.0.0.1/", ""), "the answer is 302 Found"),
        ("no content", with("204 No Content", ""), "the answer is 204 No Content"),
        ("an error", with("500 Oh\r\nContent-Length: 2", "{}"), "the answer is 500 Internal Server Error"),
        ("compressed", with("200 OK\r\nContent-Encoding: gzip", "{}"), "the answer is encoded"),
        ("announced", with("200 OK\r\nContent-Length: 1001", &long), "the answer is larger than 1000 bytes"),
        ("not announced", with("200 OK", &long), "the answer is larger than 1000 bytes"),
        ("cut short", with("200 OK\r\nContent-Length: 3", "{}"), "the answer broke off"),
        ("no HTTP", b"SSH-2.0-OpenSSH\r\n".to_vec(), "the answer broke off"),
        ("a huge head", with(&format!("200 OK\r\nA: {}", "x".repeat(20_000)), "{}"), "the answer broke off"),
    ] {
        let (url, question) = server(answer);
        let outcome = Outbound::new(rules()).unwrap().fetch(&url).await;
        let text = match outcome {
            Ok(body) => String::from_utf8(body.to_vec()).unwrap(),
            Err(fault) => fault.to_string(),
        };
        assert_eq!(text, expected, "{what}");
        let head = question.recv().unwrap();
        assert!(head.starts_with("GET /keys?x=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.to_lowercase().contains(&format!("host: 127.0.0.1:{}\r\n", url.port().unwrap())), "{head}");
    }
}

#[tokio::test]
async fn who_never_answers_costs_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let rules = OutboundRules { deadline: Duration::from_millis(50), ..rules() };
    let fault = Outbound::new(rules).unwrap().fetch(&url).await.unwrap_err();
    assert!(matches!(fault, OutboundFault::Late(_)), "{fault}");
}

#[tokio::test]
async fn private_networks_are_not_asked_by_whatever_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let outbound = Outbound::new(OutboundRules { allow_private_addresses: false, ..rules() }).unwrap();
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "0x7f.1"] {
        let url = Url::parse(&format!("http://{host}:{port}/")).unwrap();
        let fault = outbound.fetch(&url).await.unwrap_err();
        assert!(matches!(fault, OutboundFault::Private(_)), "{host}: {fault}");
    }
    assert!(listener.accept().is_err(), "somebody was connected to");
}

#[tokio::test]
async fn tls_is_not_optional_where_the_url_says_so() {
    let (url, _question) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec());
    let url = Url::parse(&url.as_str().replace("http:", "https:")).unwrap();
    let rules = OutboundRules { deadline: Duration::from_millis(500), ..rules() };
    let fault = Outbound::new(rules).unwrap().fetch(&url).await.unwrap_err();
    assert!(matches!(fault, OutboundFault::Tls(_) | OutboundFault::Late(_)), "{fault}");
}

#[test]
fn what_is_not_public_is_private() {
    for (address, private) in [
        ("8.8.8.8", false),
        ("1.1.1.1", false),
        ("100.128.0.1", false),
        ("172.32.0.1", false),
        ("192.0.1.1", false),
        ("2606:4700::1111", false),
        ("2a00:1450::1", false),
        ("64:ff9b::808:808", false),
        ("0.0.0.0", true),
        ("10.1.2.3", true),
        ("100.64.0.1", true),
        ("127.0.0.1", true),
        ("169.254.169.254", true),
        ("172.16.0.1", true),
        ("172.31.255.255", true),
        ("192.0.0.1", true),
        ("192.0.2.1", true),
        ("192.168.1.1", true),
        ("198.18.0.1", true),
        ("198.51.100.1", true),
        ("203.0.113.1", true),
        ("224.0.0.1", true),
        ("255.255.255.255", true),
        ("::", true),
        ("::1", true),
        ("::ffff:10.0.0.1", true),
        ("64:ff9b::a00:1", true),
        ("2002:a00:1::", true),
        ("2001::1", true),
        ("2001:db8::1", true),
        ("fc00::1", true),
        ("fe80::1", true),
        ("fec0::1", true),
        ("ff02::1", true),
    ] {
        assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
    }
}

/// A certificate for 127.0.0.1 by an authority of its own, made by `openssl`; and a server with it.
async fn tls_server(folder: &std::path::Path) -> u16 {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt && \
                  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=server -CA ca.crt -CAkey ca.key \
                  -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
                  -keyout server.key -out server.crt";
    let made = std::process::Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = CertificateDer::from_pem_file(folder.join("server.crt")).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    crate::tasks::Tasks::spawn_here(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not believe the certificate hangs up.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    port
}

#[tokio::test]
async fn a_server_is_who_its_certificate_says() {
    let folder = tempfile::tempdir().unwrap();
    let port = tls_server(folder.path()).await;
    let ours = Some(folder.path().join("ca.crt"));
    for (host, ca_file, good) in [
        ("127.0.0.1", ours.clone(), true),
        ("127.0.0.1", None, false),
        ("127.0.0.1", Some(folder.path().join("server.crt")), false),
        ("127.0.0.2", ours.clone(), false),
        ("localhost", ours, false),
    ] {
        let outbound = Outbound::new(OutboundRules { ca_file: ca_file.clone(), ..rules() }).unwrap();
        let url = Url::parse(&format!("https://{host}:{port}/")).unwrap();
        match outbound.fetch(&url).await {
            Ok(body) => assert!(good && body == "{}", "{host} by {ca_file:?}"),
            Err(OutboundFault::Tls(_)) => assert!(!good, "{host} by {ca_file:?}"),
            Err(fault) => panic!("{host} by {ca_file:?}: {fault}"),
        }
    }
    std::fs::write(folder.path().join("empty"), "").unwrap();
    for file in ["empty", "absent", "ca.key"] {
        let ca_file = Some(folder.path().join(file));
        assert!(Outbound::new(OutboundRules { ca_file, ..rules() }).is_err(), "{file}");
    }
}
