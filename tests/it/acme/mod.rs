//! Certificates that the gateway orders by itself (ACME), from a small authority that looks for real.

mod authority;
mod looking;

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use self::authority::{AcmeAuthority, shown_at};
use crate::callers::{fetch, raw};
use crate::harness::{Key, Setup, eventually, free_address, text};
use crate::upstream::Upstream;

const LONG: Duration = Duration::from_hours(24 * 90);

/// A gateway that orders a certificate for `localhost`, and the authority.
struct Scene {
    setup: Setup,
    authority: AcmeAuthority,
    https: SocketAddr,
    key: Key,
    _upstream: Upstream,
}

impl Scene {
    fn new(challenge: &str, lifetime: Duration) -> Self {
        let upstream = Upstream::start();
        let setup = Setup::sqlite_with(upstream.address, "[limits.default]\nrate = \"100000/s\"\n");
        let https = free_address();
        let authority = AcmeAuthority::start(setup.folder(), (https, setup.data), lifetime);
        let key = setup.key(&setup.client(&["acme"]), &[]);
        let (directory, root) = (authority.directory(), authority.root.display().to_string());
        setup.write_config(&format!(
            "{}\n[[server.listeners]]\naddress = \"{https}\"\nprotocol = \"https\"\n[server.tls.acme]\n\
             directory = \"{directory}\"\ndomains = [\"LocalHost\"]\naccept_terms = true\nca_file = \"{root}\"\n\
             contacts = [\"mailto:nobody@example.com\"]\nchallenge = \"{challenge}\"\n",
            setup.config(),
        ));
        Self { setup, authority, https, key, _upstream: upstream }
    }

    /// The status, from a caller that believes those whom the authority believes.
    fn ask(&self) -> String {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "20", "-w", "%{http_code}", "-o", "/dev/null", "--cacert"])
            .arg(&self.authority.issued_root)
            .args(["-H", &format!("X-API-Key: {}", self.key.raw)])
            .arg(format!("https://localhost:{}/", self.https.port()))
            .output();
        text(&output.expect("curl runs").stdout)
    }
}

const ISSUED: &str = "new certificates are in force";

#[test]
fn a_certificate_is_ordered_by_either_challenge_and_kept() {
    for challenge in ["tls-alpn-01", "http-01"] {
        let scene = Scene::new(challenge, LONG);
        let gateway = scene.setup.start();
        gateway.wait_for_log(ISSUED);
        eventually("it is shown", || scene.ask() == "200");
        assert_eq!(scene.authority.orders(), ["valid"], "{challenge}, with a nonce that was old at first");
        // Nothing is shown any more of what proved the name.
        let path = "/.well-known/acme-challenge/token-of-order-0";
        assert_eq!(fetch(scene.setup.data, path, &[]).status, 401, "{challenge}: a path like any other");
        assert!(looking::over_tls(scene.https, "localhost", "any").is_err());
        let files: Vec<_> = std::fs::read_dir(scene.setup.path("acme")).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), 2, "{files:?}");
        assert!(files.iter().all(|file| file.metadata().unwrap().mode().trailing_zeros() >= 6), "{files:?}");
        let metrics = text(&raw(scene.setup.admin, b"GET /metrics HTTP/1.0\r\n\r\n"));
        assert!(metrics.contains("octroi_acme_orders_total{result=\"ok\"} 1"), "{metrics}");
        assert_eq!(gateway.stop(), 0);
        // A restart orders nothing, and serves without the authority.
        scene.authority.state.is_down.store(true, Ordering::Relaxed);
        let _gateway = scene.setup.start();
        assert_eq!(scene.ask(), "200");
        assert_eq!((scene.authority.orders().len(), scene.authority.accounts()), (1, 1));
    }
}

#[test]
fn it_is_renewed_under_load_and_nobody_notices() {
    let scene = Scene::new("tls-alpn-01", Duration::from_secs(12));
    let gateway = scene.setup.start();
    gateway.wait_for_log(ISSUED);
    eventually("it is shown", || scene.ask() == "200");
    let first = shown_at(scene.https, "localhost").unwrap();
    scene.authority.issues_for(LONG);
    let (stop, done, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let is_good = scene.ask() == "200";
                    (if is_good { &done } else { &failed }).fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("another one is shown", || shown_at(scene.https, "localhost").unwrap() != first);
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", done.load(Ordering::Relaxed));
    assert!(done.load(Ordering::Relaxed) > 10);
    assert_eq!((scene.authority.orders(), scene.authority.accounts()), (vec!["valid", "valid"], 1));
}

#[test]
fn while_the_authority_does_not_want_to_everything_else_goes_on() {
    let scene = Scene::new("http-01", LONG);
    scene.authority.state.is_down.store(true, Ordering::Relaxed);
    let gateway = scene.setup.start();
    gateway.wait_for_log("no certificate was issued");
    // No handshake before there is a certificate; plain callers are served.
    assert!(shown_at(scene.https, "localhost").is_err());
    let header = format!("X-API-Key: {}", scene.key.raw);
    assert_eq!(fetch(scene.setup.data, "/", &[&header]).status, 200);
    assert_eq!(fetch(scene.setup.data, "/.octroi/readyz", &[]).status, 200);
    // Not in a minute but now.
    scene.authority.state.is_down.store(false, Ordering::Relaxed);
    gateway.signal("HUP");
    gateway.wait_for_log(ISSUED);
    eventually("it is shown", || scene.ask() == "200");
}

#[test]
fn a_refusal_is_told_in_the_authority_s_words() {
    let mut scene = Scene::new("http-01", LONG);
    // The names lead somewhere else.
    let elsewhere = Upstream::start();
    scene.authority = AcmeAuthority::start(scene.setup.folder(), (scene.https, elsewhere.address), LONG);
    let config = scene.setup.config();
    let (before, after) = config.split_once("directory = \"").unwrap();
    let rest = after.split_once('"').unwrap().1;
    scene.setup.write_config(&format!("{before}directory = \"{}\"{rest}", scene.authority.directory()));
    let gateway = scene.setup.start();
    let told = gateway.wait_for_log("no certificate was issued");
    assert!(told.contains("localhost") && told.contains("200 at /.well-known/acme-challenge/"), "{told}");
    assert_eq!(scene.authority.orders(), ["invalid"]);
}
