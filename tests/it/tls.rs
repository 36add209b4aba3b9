//! Callers over TLS, HTTP/2, Unix sockets and behind proxies that say who calls: real callers
//! (curl), the real program.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::authority::{Authority, Files};
use crate::callers::{connect, fetch, raw, read_head};
use crate::harness::{Key, Setup, eventually, free_address, text};
use crate::upstream::Upstream;

/// A gateway with further listeners, its upstream, its authority.
pub(crate) struct Scene {
    pub(crate) setup: Setup,
    pub(crate) upstream: Upstream,
    pub(crate) authority: Authority,
    pub(crate) key: Key,
    pub(crate) https: SocketAddr,
}

fn certificate(files: &Files) -> String {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    format!("[[server.tls.certificates]]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
}

impl Scene {
    /// `more`: of the configuration, before the certificate.
    pub(crate) fn new(more: &str) -> Self {
        let upstream = Upstream::start();
        let setup = Setup::sqlite(upstream.address);
        let authority = Authority::new(setup.folder(), "authority");
        let files = authority.issue(setup.folder(), "server", &["localhost", "127.0.0.1"]);
        let https = free_address();
        setup.write_config(&format!(
            "{}\n{more}\n{}[[server.listeners]]\naddress = \"{https}\"\nprotocol = \"https\"\n",
            setup.config(),
            certificate(&files)
        ));
        let client = setup.client(&["acme", "--rate", "100000/s", "--burst", "100000"]);
        let key = setup.key(&client, &[]);
        Self { setup, upstream, authority, key, https }
    }

    pub(crate) fn curl(&self, arguments: &[&str], path: &str) -> Output {
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(&self.authority.file)
            .args(["-H", &format!("X-API-Key: {}", self.key.raw), "-w", "\n%{http_version} %{http_code}"])
            .args(arguments)
            .arg(format!("https://localhost:{}{path}", self.https.port()))
            .output()
            .expect("curl runs")
    }

    /// The version and the status that curl saw, and the body.
    fn answered(&self, arguments: &[&str], path: &str) -> (String, String) {
        let output = self.curl(arguments, path);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        let out = text(&output.stdout);
        let (body, told) = out.rsplit_once('\n').expect("what -w writes");
        (told.to_owned(), body.to_owned())
    }
}

#[test]
fn callers_get_the_protocol_they_prefer_and_the_upstream_the_same_request() {
    let scene = Scene::new("");
    let gateway = scene.setup.start();
    for (arguments, version) in [
        (&["--http2"][..], "2"),
        (&["--http1.1"], "1.1"),
        (&["--http2", "--tls-max", "1.2"], "2"),
        (&["--http1.1", "--tls-max", "1.2"], "1.1"),
    ] {
        let (told, _) = scene.answered(arguments, "/plain?q=1");
        assert_eq!(told, format!("{version} 200"), "{arguments:?}");
        let seen = scene.upstream.last();
        assert_eq!(seen.target, "/plain?q=1");
        assert_eq!(seen.headers["host"], format!("localhost:{}", scene.https.port()).as_str());
        assert!(seen.headers.contains_key("x-octroi-client-id"));
        assert_eq!(seen.headers["x-forwarded-proto"], "https");
        assert!(!seen.headers.contains_key("x-octroi-certificate-subject"));
        let (told, _) = scene.answered(&[arguments, &["-d", "a body", "-X", "POST"]].concat(), "/");
        assert_eq!((told, scene.upstream.last().body_bytes), (format!("{version} 200"), 6));
        let (told, _) = scene.answered(&[arguments, &["-I"]].concat(), "/");
        assert_eq!(told, format!("{version} 200"));
        let (told, body) = scene.answered(&[arguments, &["-H", "X-API-Key: wrong"]].concat(), "/");
        assert_eq!(told, format!("{version} 400"), "two credentials are ambiguous: {body}");
        assert!(body.contains("ambiguous_credentials"), "{body}");
    }
    let metrics = text(&raw(scene.setup.admin, b"GET /metrics HTTP/1.0\r\n\r\n"));
    assert!(metrics.contains("octroi_tls_handshakes_total{result=\"ok\"} "), "{metrics}");
    assert!(metrics.contains("octroi_tls_certificate_expiry_seconds{listener=\"data\"} "), "{metrics}");
    // Everything is in the books, and a stop lets nobody wait.
    assert_eq!(gateway.stop(), 0);
    assert_eq!(scene.setup.usage("client")["total"]["requests"], 12);
}

#[test]
fn older_tls_other_names_and_plain_bytes_get_no_connection() {
    let scene = Scene::new("");
    let _gateway = scene.setup.start();
    assert!(!scene.curl(&["--tls-max", "1.1"], "/").status.success());
    let connect_to = format!("other.example:443:{}", scene.https);
    let other = Command::new("curl")
        .args(["--silent", "--cacert"])
        .arg(&scene.authority.file)
        .args(["--connect-to", &connect_to, "https://other.example/"])
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(60), "the certificate is for another name");
    let mut plain = TcpStream::connect(scene.https).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!text(&answer).contains("HTTP/"), "{:?}", text(&answer));
    assert_eq!(scene.answered(&[], "/").0, "2 200");
}

#[test]
fn certificates_change_under_load_and_nobody_notices() {
    let scene = Scene::new("");
    let gateway = scene.setup.start();
    let stop = Arc::new(AtomicBool::new(false));
    let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    thread::scope(|scope| {
        for http in ["--http2", "--http1.1"] {
            let (scene, stop, done, failed) = (&scene, Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failed));
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let good = scene.curl(&[http], "/").stdout.ends_with(b" 200");
                    if good { &done } else { &failed }.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let serial = || {
            let output = scene.curl(&["-v"], "/");
            let log = text(&output.stderr);
            log.lines().find(|line| line.contains("subject:")).unwrap_or_default().to_owned()
        };
        let before = serial();
        // Half written: the old one stays.
        std::fs::write(scene.setup.path("server.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        gateway.signal("HUP");
        gateway.wait_for_log("those before stay in force");
        assert_eq!(serial(), before);
        let renewed = scene.authority.issue(scene.setup.folder(), "renewed", &["localhost"]);
        std::fs::rename(renewed.certificate, scene.setup.path("server.pem")).unwrap();
        std::fs::rename(renewed.key, scene.setup.path("server.key")).unwrap();
        gateway.wait_for_log("new certificates are in force");
        eventually("the new one is shown", || serial().contains("renewed"));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", done.load(Ordering::Relaxed));
    assert!(done.load(Ordering::Relaxed) > 10);
}

#[test]
fn one_address_has_its_share_of_connections() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[server.limits]\nconnections_per_address = 3\n");
    let _gateway = setup.start();
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /.octroi/livez HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_head(stream)
    };
    let mut held = Vec::new();
    // The connection that found out whether the gateway is ready may hold a place for a moment.
    eventually("three are let in", || {
        let mut stream = connect(setup.data);
        if ask(&mut stream).starts_with(b"HTTP/1.1 200") {
            held.push(stream);
        }
        held.len() == 3
    });
    assert!(ask(&mut connect(setup.data)).starts_with(b"HTTP/1.1 503"), "the fourth");
    drop(held);
    eventually("there is room again", || ask(&mut connect(setup.data)).starts_with(b"HTTP/1.1 200"));
}

#[test]
fn a_handshake_that_takes_too_long_is_closed() {
    let scene = Scene::new("");
    let config = scene
        .setup
        .config()
        .replace("[[server.listeners]]", "[server.timeouts]\ntls_handshake = \"300ms\"\n[[server.listeners]]");
    scene.setup.write_config(&config);
    let _gateway = scene.setup.start();
    let mut silent = TcpStream::connect(scene.https).unwrap();
    silent.write_all(b"\x16\x03\x01").unwrap();
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}");
    assert!(rest.is_empty());
}

#[test]
fn a_unix_socket_serves_and_one_left_behind_is_replaced() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.write_config(&setup.config().replace("listen = [\"", "listen = [\"unix:octroi.sock\", \""));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let ask = || {
        let mut caller = UnixStream::connect(setup.path("octroi.sock")).unwrap();
        let request = format!("GET /here HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-API-Key: {}\r\n\r\n", key.raw);
        caller.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        caller.read_to_string(&mut answer).unwrap();
        answer
    };
    let gateway = setup.start();
    assert!(ask().starts_with("HTTP/1.1 200"));
    assert_eq!(upstream.last().headers["x-forwarded-for"], "127.0.0.1");
    gateway.kill();
    let gateway = setup.start();
    assert!(ask().starts_with("HTTP/1.1 200"));
    // Not from under one that serves.
    let mut second = setup.spawn(&["serve"]);
    assert_eq!(second.wait_exit(), 1);
    assert!(ask().starts_with("HTTP/1.1 200"));
    drop(gateway);
}

#[test]
fn a_trusted_proxy_says_who_calls_and_nobody_else_gets_in() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let (trusting, strict) = (free_address(), free_address());
    let listener = |address| format!("[[server.listeners]]\naddress = \"{address}\"\nproxy_protocol = true\n");
    let config =
        setup.config().replace("[admin]", "trusted_proxies = [\"127.0.0.1/32\"]\n[admin]") + &listener(trusting);
    setup.write_config(&config);
    let key = setup.key(&setup.client(&["acme"]), &["--allow", "192.0.2.0/24"]);
    let gateway = setup.start();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-API-Key: {}\r\n\r\n", key.raw);
    let ask = |prelude: &[u8]| text(&raw(trusting, &[prelude, request.as_bytes()].concat()));
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 9, 127, 0, 0, 1], &[0, 1, 0, 2]].concat();
    for prelude in [&b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n"[..], &v2] {
        assert!(ask(prelude).starts_with("HTTP/1.1 200"));
        assert_eq!(upstream.last().headers["x-forwarded-for"], "192.0.2.9");
    }
    // Another caller's address, and the proxy's own health check.
    assert!(ask(b"PROXY TCP4 198.51.100.1 127.0.0.1 1 2\r\n").starts_with("HTTP/1.1 403"));
    assert!(ask(b"PROXY UNKNOWN\r\n").starts_with("HTTP/1.1 403"));
    // Without a header there is no connection, and on a plain listener the header is no request.
    assert_eq!(ask(b""), "");
    let plain = raw(setup.data, &[b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n", request.as_bytes()].concat());
    assert!(text(&plain).starts_with("HTTP/1.1 400"), "{}", text(&plain));
    drop(gateway);
    setup.write_config(
        &config.replace("127.0.0.1/32", "203.0.113.0/24").replace(&trusting.to_string(), &strict.to_string()),
    );
    let _gateway = setup.start();
    let untrusted = raw(strict, &[b"PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n", request.as_bytes()].concat());
    assert_eq!(text(&untrusted), "");
    assert_eq!(fetch(setup.data, "/.octroi/livez", &[]).status, 200);
}
