//! Upstreams over TLS, HTTP/2 and Unix sockets: real servers with real certificates.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Files};
use crate::books::Books;
use crate::callers::{Crowd, fetch, send};
use crate::harness::{Setup, eventually, text};

/// What the service does with the next streams, before it answers as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    /// It refuses the stream: not looked at.
    Refuse,
    /// It resets the stream: who knows.
    Reset,
}

#[derive(Default)]
struct Record {
    connections: AtomicUsize,
    heads: Mutex<Vec<(http::request::Parts, Option<HeaderMap>)>>,
    tricks: Mutex<VecDeque<Trick>>,
}

/// A service that speaks HTTP/2, or HTTP/1.1 where TLS says so.
struct Service {
    address: SocketAddr,
    record: Arc<Record>,
    _runtime: Runtime,
}

pub(crate) fn acceptor(files: &Files, alpn: &[&[u8]], callers: Option<&Path>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match callers {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
            )
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

impl Service {
    fn start(tls: Option<TlsAcceptor>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::<Record>::default();
        let kept = Arc::clone(&record);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                kept.connections.fetch_add(1, Ordering::Relaxed);
                let (record, tls) = (Arc::clone(&kept), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return serve_h2(stream, record).await };
                    let Ok(stream) = tls.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        serve_h2(stream, record).await;
                    } else {
                        serve_http1(stream).await;
                    }
                });
            }
        });
        Self { address, record, _runtime: runtime }
    }

    fn trick(&self, trick: Trick) {
        self.record.tricks.lock().unwrap().push_back(trick);
    }

    fn last(&self) -> (http::request::Parts, Option<HeaderMap>) {
        self.record.heads.lock().unwrap().last().cloned().expect("a request arrived")
    }
}

async fn serve_h2(io: impl AsyncRead + AsyncWrite + Unpin + Send, record: Arc<Record>) {
    let Ok(mut connection) = h2::server::Builder::new().max_concurrent_streams(10).handshake(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, Arc::clone(&record)));
    }
}

/// Echoes the body, then says in trailers how long it was.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, record: Arc<Record>) {
    let trick = record.tricks.lock().unwrap().pop_front();
    match trick {
        Some(Trick::Refuse) => return respond.send_reset(Reason::REFUSED_STREAM),
        Some(Trick::Reset) => return respond.send_reset(Reason::INTERNAL_ERROR),
        None => {}
    }
    let (head, mut body) = request.into_parts();
    let mut response = Response::new(());
    if let Some(kind) = head.headers.get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    let mut length = 0_usize;
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        length += data.len();
        if stream.send_data(data, false).is_err() {
            return;
        }
    }
    let trailers = body.trailers().await.ok().flatten();
    record.heads.lock().unwrap().push((head, trailers));
    let mut told = HeaderMap::new();
    told.insert("grpc-status", HeaderValue::from_static("0"));
    told.insert("x-length", HeaderValue::from(length));
    let _ = stream.send_trailers(told);
}

async fn serve_http1(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut bytes = Vec::new();
    loop {
        while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            if io.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        bytes.clear();
        if io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhttp").await.is_err() || io.flush().await.is_err()
        {
            return;
        }
    }
}

fn gateway(endpoint: &str, more: &str) -> (Setup, String) {
    let setup = Setup::sqlite("127.0.0.1:1".parse().unwrap());
    let config = setup
        .config()
        .replace("endpoints = [\"http://127.0.0.1:1\"]\n", &format!("endpoints = [\"{endpoint}\"]\n{more}\n"));
    setup.write_config(&config);
    let client = setup.client(&["acme", "--rate", "100000/s", "--burst", "100000"]);
    let key = setup.key(&client, &[]).raw;
    (setup, key)
}

fn key_header(key: &str) -> String {
    format!("X-API-Key: {key}")
}

struct Certificates {
    folder: tempfile::TempDir,
    authority: Authority,
    files: Files,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let files = authority.issue(folder.path(), "service", &["localhost", "orders.internal"]);
        Self { folder, authority, files }
    }

    fn ca(&self) -> String {
        format!("ca_file = \"{}\"\n", self.authority.file.display())
    }
}

#[test]
fn http_2_carries_many_requests_on_one_connection_and_their_trailers() {
    let service = Service::start(None);
    let (setup, key) = gateway(&format!("http://{}", service.address), "protocol = \"h2\"");
    setup.write_config(&setup.config().replace("workers = 2", "workers = 1"));
    let gateway = setup.start();
    let header = key_header(&key);
    let answer = send(setup.data, "POST", "/orders?x=1", &[&header, "TE: trailers"], b"a body");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"a body"[..]));
    let (head, trailers) = service.last();
    assert_eq!(head.uri.path_and_query().unwrap(), "/orders?x=1");
    assert_eq!((head.uri.scheme_str(), head.headers["content-length"].to_str().unwrap()), (Some("http"), "6"));
    assert!(head.headers.contains_key("x-octroi-client-id") && !head.headers.contains_key("te"), "{head:?}");
    assert_eq!(trailers, None);
    let crowd = Crowd::start(setup.data, 8, "/x", &key, std::time::Duration::ZERO);
    eventually("some hundred requests", || crowd.tally().count() > 300);
    let tally = crowd.stop();
    assert_eq!((tally.other_than(200), tally.broken.load(Ordering::Relaxed)), (0, 0));
    assert_eq!(service.record.connections.load(Ordering::Relaxed), 1);
    // Nothing is sent twice that was looked at; what was not is.
    service.trick(Trick::Refuse);
    assert_eq!(send(setup.data, "POST", "/x", &[&header], b"").status, 200);
    service.trick(Trick::Reset);
    assert_eq!(send(setup.data, "POST", "/x", &[&header], b"").status, 502);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn more_streams_than_the_upstream_allows_open_another_connection() {
    let service = Service::start(None);
    let (setup, key) = gateway(&format!("http://{}", service.address), "protocol = \"h2\"");
    let _gateway = setup.start();
    let crowd = Crowd::start(setup.data, 40, "/x", &key, std::time::Duration::ZERO);
    eventually("some hundred requests", || crowd.tally().count() > 800);
    let tally = crowd.stop();
    assert_eq!((tally.other_than(200), tally.broken.load(Ordering::Relaxed)), (0, 0));
    let connections = service.record.connections.load(Ordering::Relaxed);
    assert!((2..=40).contains(&connections), "{connections}");
}

#[test]
fn tls_upstreams_are_verified_by_authority_and_name() {
    let made = Certificates::new();
    let others = Authority::new(made.folder.path(), "others");
    let (other_ca, ca) = (format!("ca_file = \"{}\"\n", others.file.display()), made.ca());
    let service = Service::start(Some(acceptor(&made.files, &[b"h2", b"http/1.1"], None)));
    let port = service.address.port();
    let tls = |settings: &str| format!("[upstreams.tls]\n{settings}");
    for (endpoint, protocol, settings, status, body) in [
        ("localhost", "http1", ca.clone(), 200, "http"),
        ("localhost", "auto", ca.clone(), 200, ""),
        ("localhost", "h2", ca.clone(), 200, ""),
        ("127.0.0.1", "auto", format!("{ca}server_name = \"orders.internal\"\n"), 200, ""),
        ("127.0.0.1", "auto", ca.clone(), 502, "upstream_unavailable"),
        ("localhost", "auto", format!("{ca}server_name = \"elsewhere\"\n"), 502, "upstream_unavailable"),
        ("localhost", "auto", other_ca, 502, "upstream_unavailable"),
        ("localhost", "auto", String::new(), 502, "upstream_unavailable"),
    ] {
        let (setup, key) =
            gateway(&format!("https://{endpoint}:{port}"), &format!("protocol = \"{protocol}\"\n{}", tls(&settings)));
        setup.write_config(&setup.config().replace("access_log = false", "access_log = true"));
        let gateway = setup.start();
        for _ in 0..2 {
            let answer = fetch(setup.data, "/x", &[&key_header(&key)]);
            assert_eq!(answer.status, status, "{endpoint} {protocol} {settings}: {}", text(&answer.body));
            assert!(text(&answer.body).contains(body), "{endpoint} {protocol}: {}", text(&answer.body));
        }
        if status == 502 {
            gateway.wait_for_log("certificate");
        }
    }
}

#[test]
fn an_upstream_that_wants_a_certificate_gets_ours() {
    let made = Certificates::new();
    let ours = made.authority.issue(made.folder.path(), "gateway", &[]);
    let service = Service::start(Some(acceptor(&made.files, &[b"http/1.1"], Some(&made.authority.file))));
    let endpoint = format!("https://localhost:{}", service.address.port());
    let shown =
        format!("client_certificate = \"{}\"\nclient_key = \"{}\"\n", ours.certificate.display(), ours.key.display());
    for (settings, status) in [(shown.as_str(), 200), ("", 502)] {
        let (setup, key) = gateway(&endpoint, &format!("[upstreams.tls]\n{}{settings}", made.ca()));
        let _gateway = setup.start();
        assert_eq!(fetch(setup.data, "/x", &[&key_header(&key)]).status, status);
    }
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_is_served() {
    let (setup, _) = gateway("https://localhost:1", "[upstreams.tls]\nca_file = \"missing.pem\"");
    let output = setup.octroi(&["serve"]);
    assert_eq!(output.status.code(), Some(78));
    let told = text(&output.stderr);
    assert!(told.contains("upstreams[0].tls") && told.contains("missing.pem"), "{told}");
    assert_eq!(setup.octroi(&["config", "check"]).status.code(), Some(78));
}

#[test]
fn a_unix_socket_is_an_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("service.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = {
        let _entered = runtime.enter();
        UnixListener::bind(&path).unwrap()
    };
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http1(stream));
        }
    });
    let (setup, key) = gateway(&format!("unix:{}", path.display()), "");
    let _gateway = setup.start();
    for _ in 0..3 {
        assert_eq!(fetch(setup.data, "/x", &[&key_header(&key)]).body, b"http");
    }
}

#[test]
fn grpc_keeps_its_trailers_both_ways_and_nothing_else_does() {
    let service = Service::start(None);
    let (setup, key) = gateway(&format!("http://{}", service.address), "protocol = \"h2\"");
    let address = crate::harness::free_address();
    let listener = format!("[[server.listeners]]\naddress = \"{address}\"\nprotocol = \"h2c\"\n");
    setup.write_config(&(setup.config() + &listener));
    let gateway = setup.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut caller, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for kind in ["application/grpc", "application/json"] {
            let request = Request::builder()
                .method("POST")
                .uri(format!("http://{address}/pkg.Service/Method"))
                .header("x-api-key", &key)
                .header("content-type", kind)
                .header("te", "trailers");
            let (response, mut body) = caller.send_request(request.body(()).unwrap(), false).unwrap();
            body.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", HeaderValue::from_static("7"));
            trailers.insert("x-octroi-client-id", HeaderValue::from_static("someone-else"));
            body.send_trailers(trailers).unwrap();
            let mut answer = response.await.unwrap().into_body();
            let mut bytes = Vec::new();
            while let Some(data) = answer.data().await {
                let data = data.unwrap();
                let _ = answer.flow_control().release_capacity(data.len());
                bytes.extend_from_slice(&data);
            }
            assert_eq!(bytes, b"\0\0\0\0\x02hi");
            let told = answer.trailers().await.unwrap().unwrap();
            assert_eq!(
                (&told["grpc-status"], &told["x-length"]),
                (&HeaderValue::from_static("0"), &HeaderValue::from_static("7"))
            );
            let (head, trailers) = service.last();
            let is_grpc = kind == "application/grpc";
            assert_eq!(head.headers.contains_key("te"), is_grpc);
            let names: Option<Vec<String>> =
                trailers.map(|trailers| trailers.keys().map(ToString::to_string).collect());
            assert_eq!(names, is_grpc.then(|| vec!["x-checksum".to_owned()]));
        }
    });
    assert_eq!(gateway.stop(), 0);
    let books = Books::sqlite(&setup.path("octroi.db"));
    assert!(books.events().iter().all(|event| event.outcome == "complete"), "{:?}", books.events());
}
