//! A small authority that speaks ACME (RFC 8555) and believes nobody: signatures, nonces and URLs are
//! verified, and names are looked at over the wire.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::looking::{self, AnyCertificate};
use crate::authority::Authority;
use crate::upstream_protocols::acceptor;

/// What it knows of an order; each has one name.
struct Order {
    name: String,
    account: usize,
    status: &'static str,
    reason: Option<String>,
    certificate: Option<String>,
}

pub(super) struct State {
    base: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Where the names are, for TLS and for plain HTTP.
    names_at: (SocketAddr, SocketAddr),
    lifetime: Mutex<Duration>,
    nonces: Mutex<HashSet<String>>,
    count: AtomicU64,
    /// The next request is told that its nonce is old.
    pub(super) tricky: AtomicBool,
    /// It answers 503 to all.
    pub(super) is_down: AtomicBool,
    /// Keys of accounts.
    accounts: Mutex<Vec<Value>>,
    orders: Mutex<Vec<Order>>,
}

/// It runs until it is dropped.
pub(super) struct AcmeAuthority {
    pub(super) state: Arc<State>,
    /// Of its own certificate.
    pub(super) root: PathBuf,
    /// Of those it issues.
    pub(super) issued_root: PathBuf,
    _runtime: Runtime,
}

impl AcmeAuthority {
    pub(super) fn start(folder: &Path, names_at: (SocketAddr, SocketAddr), lifetime: Duration) -> Self {
        let own = Authority::new(folder, "directory");
        let tls = acceptor(&own.issue(folder, "acme-server", &["127.0.0.1"]), &[b"http/1.1"], None);
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issued_root = folder.join("issued-root.pem");
        std::fs::write(&issued_root, issuer.pem()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let state = Arc::new(State {
            base: format!("https://{}", listener.local_addr().unwrap()),
            issuer,
            names_at,
            lifetime: Mutex::new(lifetime),
            nonces: Mutex::default(),
            count: AtomicU64::new(0),
            tricky: AtomicBool::new(true),
            is_down: AtomicBool::new(false),
            accounts: Mutex::default(),
            orders: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { state, root: own.file, issued_root, _runtime: runtime }
    }

    pub(super) fn directory(&self) -> String {
        format!("{}/directory", self.state.base)
    }

    pub(super) fn accounts(&self) -> usize {
        self.state.accounts.lock().unwrap().len()
    }

    /// Statuses of all orders.
    pub(super) fn orders(&self) -> Vec<&'static str> {
        self.state.orders.lock().unwrap().iter().map(|order| order.status).collect()
    }

    pub(super) fn issues_for(&self, lifetime: Duration) {
        *self.state.lifetime.lock().unwrap() = lifetime;
    }
}

/// A status, a Location and a body.
type Told = (u16, Option<String>, Value);

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let nonce = format!("nonce{}", state.count.fetch_add(1, Ordering::Relaxed));
    state.nonces.lock().unwrap().insert(nonce.clone());
    let path = head.uri.path().to_owned();
    let (status, location, body) = tokio::task::spawn_blocking(move || {
        if state.is_down.load(Ordering::Relaxed) {
            return (503, None, problem("serverInternal", "come back later"));
        }
        if head.method == Method::POST { state.post(&path, &bytes) } else { state.get(&path) }
    })
    .await
    .unwrap();
    let mut response = Response::builder().status(status).header("replay-nonce", nonce);
    if let Some(location) = location {
        response = response.header("location", location);
    }
    let body = body.as_str().map_or_else(|| body.to_string(), ToOwned::to_owned);
    Ok(response.body(Full::from(body)).unwrap())
}

fn problem(kind: &str, detail: &str) -> Value {
    json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": 400 })
}

impl State {
    fn get(&self, path: &str) -> Told {
        let at = |path: &str| format!("{}{path}", self.base);
        match path {
            "/directory" => {
                (200, None, json!({"newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order")}))
            }
            "/nonce" => (200, None, json!("")),
            _ => (405, None, problem("malformed", "this is POST-as-GET")),
        }
    }

    fn post(&self, path: &str, body: &[u8]) -> Told {
        let jws: Value = serde_json::from_slice(body).unwrap();
        let text = |name: &str| jws[name].as_str().unwrap();
        let decoded = |name: &str| URL_SAFE_NO_PAD.decode(text(name)).unwrap();
        let protected: Value = serde_json::from_slice(&decoded("protected")).unwrap();
        let is_fresh = self.nonces.lock().unwrap().remove(protected["nonce"].as_str().unwrap());
        if !is_fresh || self.tricky.swap(false, Ordering::Relaxed) {
            return (400, None, problem("badNonce", "it was used"));
        }
        assert_eq!(protected["alg"], "ES256");
        assert_eq!(protected["url"], format!("{}{path}", self.base));
        let (account, key) = self.signer(&protected);
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let signed = format!("{}.{}", text("protected"), text("payload"));
        let verified =
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &decoded("signature"));
        verified.expect("the signature is the account's");
        let payload = serde_json::from_slice(&decoded("payload")).unwrap_or(Value::Null);
        let mut parts = path[1..].split('/');
        let (kind, number) = (parts.next().unwrap(), parts.next().and_then(|number| number.parse().ok()));
        match (kind, number) {
            ("account", None) => self.new_account(key, &payload),
            ("order", None) => self.new_order(account.expect("an account orders"), &payload),
            (kind, Some(number)) => self.of_order(kind, number, account, parts.next(), &payload),
            _ => (404, None, problem("malformed", "there is nothing")),
        }
    }

    /// Who signed: an account, or the key of one that is to be made.
    fn signer(&self, protected: &Value) -> (Option<usize>, Value) {
        let Some(url) = protected["kid"].as_str() else { return (None, protected["jwk"].clone()) };
        let number: usize = url.rsplit_once('/').unwrap().1.parse().unwrap();
        (Some(number), self.accounts.lock().unwrap()[number].clone())
    }

    fn new_account(&self, key: Value, payload: &Value) -> Told {
        assert_eq!(payload["termsOfServiceAgreed"], true);
        let mut accounts = self.accounts.lock().unwrap();
        accounts.push(key);
        (201, Some(format!("{}/account/{}", self.base, accounts.len() - 1)), json!({"status": "valid"}))
    }

    fn new_order(&self, account: usize, payload: &Value) -> Told {
        let names = payload["identifiers"].as_array().unwrap();
        assert_eq!((names.len(), &names[0]["type"]), (1, &json!("dns")));
        let name = names[0]["value"].as_str().unwrap().to_owned();
        let mut orders = self.orders.lock().unwrap();
        orders.push(Order { name, account, status: "pending", reason: None, certificate: None });
        let number = orders.len() - 1;
        (201, Some(format!("{}/order/{number}", self.base)), self.described(number, &orders[number]))
    }

    fn described(&self, number: usize, order: &Order) -> Value {
        let at = |kind: &str| format!("{}/{kind}/{number}", self.base);
        let mut told = json!({
            "status": order.status,
            "identifiers": [{"type": "dns", "value": order.name}],
            "authorizations": [at("authorization")],
            "finalize": at("finalize"),
        });
        if order.certificate.is_some() {
            told["certificate"] = json!(at("certificate"));
        }
        told
    }

    fn of_order(&self, kind: &str, number: usize, account: Option<usize>, way: Option<&str>, payload: &Value) -> Told {
        let mut orders = self.orders.lock().unwrap();
        let order = &mut orders[number];
        assert_eq!(Some(order.account), account, "others' orders are nobody's business");
        match kind {
            "order" => {}
            "authorization" => return (200, None, self.authorization(number, order)),
            "challenge" => {
                let proof = format!("{}.{}", token(number), thumbprint(&self.accounts.lock().unwrap()[order.account]));
                let seen = match way.unwrap() {
                    "tls-alpn-01" => looking::over_tls(self.names_at.0, &order.name, &proof),
                    _ => looking::over_http(self.names_at.1, &order.name, &token(number), &proof),
                };
                order.status = if seen.is_ok() { "ready" } else { "invalid" };
                order.reason = seen.err();
                let challenges = self.authorization(number, order)["challenges"].clone();
                return (200, None, challenges[usize::from(way == Some("http-01"))].clone());
            }
            "finalize" => {
                assert_eq!(order.status, "ready");
                order.certificate = Some(self.issue(payload["csr"].as_str().unwrap(), &order.name));
                order.status = "valid";
            }
            "certificate" => return (200, None, json!(order.certificate)),
            other => panic!("{other}"),
        }
        (200, None, self.described(number, order))
    }

    fn authorization(&self, number: usize, order: &Order) -> Value {
        let status = match order.status {
            "ready" => "valid",
            other => other,
        };
        let challenge = |way: &str| {
            let url = format!("{}/challenge/{number}/{way}", self.base);
            let mut told = json!({"type": way, "url": url, "token": token(number), "status": status});
            if let Some(reason) = &order.reason {
                told["error"] = problem("unauthorized", reason);
            }
            told
        };
        let challenges = [challenge("tls-alpn-01"), challenge("http-01")];
        json!({"identifier": {"type": "dns", "value": order.name}, "status": status, "challenges": challenges})
    }

    fn issue(&self, request: &str, name: &str) -> String {
        let request = URL_SAFE_NO_PAD.decode(request).unwrap();
        let mut request = CertificateSigningRequestParams::from_der(&request.as_slice().into()).unwrap();
        let names: Vec<_> = request.params.subject_alt_names.iter().map(|name| format!("{name:?}")).collect();
        assert!(names.len() == 1 && names[0].contains(name), "{names:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        request.params.not_before = date_time_ymd(1970, 1, 1) + now;
        request.params.not_after = date_time_ymd(1970, 1, 1) + now + *self.lifetime.lock().unwrap();
        request.signed_by(&self.issuer).unwrap().pem() + &self.issuer.pem()
    }
}

fn token(order: usize) -> String {
    format!("token-of-order-{order}")
}

/// RFC 7638.
fn thumbprint(key: &Value) -> String {
    let part = |name: &str| key[name].as_str().unwrap();
    let canonical = format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, part("crv"), part("x"), part("y"));
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

/// What a handshake for `name` shows right now, by its serial number; an error: there is none.
pub(super) fn shown_at(address: SocketAddr, name: &str) -> Result<String, String> {
    let mut config = looking::client();
    config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate::default()));
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    while session.is_handshaking() {
        session.complete_io(&mut stream).map_err(|error| error.to_string())?;
    }
    let chain = session.peer_certificates().ok_or("no certificate")?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|error| error.to_string())?;
    Ok(certificate.raw_serial_as_string())
}
