//! Forward-auth: another proxy asks, is answered by the rules of any request, and every question is
//! in the books once. Asked by hand, and by the real nginx and the real Caddy with the
//! configurations that docs/forward-auth.md prints.

use std::collections::HashSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::books::Books;
use crate::callers::{connect, fetch, read_head, send};
use crate::database::TestDatabase;
use crate::harness::{Gateway, Setup, eventually, free_address, text};
use crate::upstream::Upstream;

/// The peer of these tests speaks for others.
const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1/32\"]\n";

/// What is committed goes into files as well.
const FILES: &str = "[[metering.sinks]]\nname = \"files\"\ntype = \"ndjson\"\npath = \"usage-files\"\n";

/// Routes for which another proxy forwards, behind those of the setup.
const DELEGATED: &str = "[[routes]]\nname = \"files\"\npath = \"/files\"\nmethods = [\"GET\"]\ndelegated = true\n\
                         [[routes]]\nname = \"admin\"\npath = \"/admin\"\ndelegated = true\nscopes = [\"admin\"]\n\
                         [[routes]]\nname = \"public\"\npath = \"/public\"\ndelegated = true\nauth = \"none\"\n\
                         [[routes]]\nname = \"other\"\nhost = \"other.example\"\npath = \"/files\"\ndelegated = true\n\
                         scopes = [\"other\"]\n";

fn delegating(setup: &Setup) {
    let config = setup.config().replace("workers = 2\n", &format!("workers = 2\n{TRUSTED}"));
    setup.write_config(&format!("{config}{DELEGATED}{FILES}"));
}

/// The headers of a proxy that asks about a request.
fn forwarded(method: &str, host: &str, target: &str) -> [String; 3] {
    [format!("X-Forwarded-Method: {method}"), format!("X-Forwarded-Host: {host}"), format!("X-Forwarded-Uri: {target}")]
}

fn by_the_rules_and_in_the_books(setup: &Setup, books: &Books<'_>, upstream: &Upstream) {
    delegating(setup);
    let acme = setup.client(&["acme", "--rate", "1/h", "--burst", "9", "--quota", "4/day"]);
    let key = setup.key(&acme, &[]);
    let gateway = setup.start();
    let credential = format!("X-API-Key: {}", key.raw);
    let check = |method: &str, [asked, host, target]: &[String; 3], more: &[&str]| {
        let headers = [&[asked.as_str(), host, target], more].concat();
        send(setup.data, method, "/.octroi/check", &headers, b"")
    };

    let answer =
        check("GET", &forwarded("GET", "a.example", "/files/1?x=%2f"), &[&credential, "X-Request-Id: asked-1"]);
    assert_eq!((answer.status, answer.body.len()), (200, 0), "{answer:?}");
    assert_eq!(answer.header("x-octroi-client-id"), Some(acme.as_str()));
    assert_eq!(answer.header("x-octroi-client-name"), Some("acme"));
    assert_eq!(answer.header("x-octroi-key-id"), Some(key.public_id.as_str()));
    // Said, so that a proxy that copies replaces what the caller wrote.
    assert_eq!((answer.header("x-octroi-subject"), answer.header("x-octroi-scopes")), (Some(""), Some("")));
    assert_eq!(answer.header("x-request-id"), Some("asked-1"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("ratelimit").is_some() && answer.header("ratelimit-policy").is_some(), "{answer:?}");

    // (method, host, target, with the key, status, code)
    for (method, host, target, with_key, status, code) in [
        ("GET", "a.example", "/files", false, 401, "missing_credentials"),
        ("POST", "a.example", "/files", true, 405, "method_not_allowed"),
        ("get", "a.example", "/files", true, 405, "method_not_allowed"),
        ("TRACE", "a.example", "/files", true, 405, "method_not_allowed"),
        ("GET", "other.example", "/files", true, 403, "insufficient_scope"),
        ("GET", "a.example", "/admin", true, 403, "insufficient_scope"),
        ("GET", "a.example", "/admin", false, 401, "missing_credentials"),
        ("GET", "a.example", "/%61dmin", true, 403, "insufficient_scope"),
        ("GET", "a.example", "/public/../admin", true, 400, "bad_request"),
        ("GET", "a.example", "/public/%2e%2e/admin", true, 400, "bad_request"),
        ("GET", "a.example", "//admin", true, 400, "bad_request"),
        ("GET", "a.example", "/public%2fadmin", true, 400, "bad_request"),
        ("GET", "a.example", "/public;/../admin", true, 400, "bad_request"),
        ("GET", "a.example", "/admin#/public", true, 400, "bad_request"),
        ("GET", "a.example", "http://a.example/public", true, 400, "bad_request"),
        ("GET", "a.example/public", "/admin", true, 400, "bad_request"),
        ("GET", "a.example, b.example", "/public", true, 400, "bad_request"),
        ("GET", "a.example", "/.octroi/livez", true, 404, "no_route"),
        ("GET", "a.example", "/.octroi/check/public", true, 404, "no_route"),
    ] {
        let more: &[&str] = if with_key { &[&credential] } else { &[] };
        let answer = check("GET", &forwarded(method, host, target), more);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{method} {host} {target}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401 || code == "insufficient_scope");
    }
    // Named twice, in two ways, or not at all.
    let whole = forwarded("GET", "a.example", "/public");
    for more in [
        "X-Forwarded-Uri: /files",
        "X-Forwarded-Method: POST",
        "X-Forwarded-Host: b.example",
        "X-Original-URI: /files",
        "X-Original-Method: GET",
        "X_Octroi_Client_Id: forged",
        "x-octroi_scopes: admin",
    ] {
        assert_eq!(check("GET", &whole, &[more]).problem(), "bad_request", "{more}");
    }
    assert_eq!(fetch(setup.data, "/.octroi/check", &[&credential]).problem(), "bad_request");
    // Open routes tell of nobody; any method may ask; Envoy's way.
    let open = check("PUT", &whole, &[&credential]);
    assert_eq!((open.status, open.header("x-octroi-client-id")), (200, Some("")));
    assert_eq!(send(setup.data, "PURGE", "/.octroi/check/public/a?b", &[], b"").status, 200);
    assert_eq!(fetch(setup.data, "/.octroi/check/admin", &[&credential]).problem(), "insufficient_scope");
    // A route with an upstream can be checked as well; one without answers no request itself.
    assert_eq!(check("GET", &forwarded("DELETE", "a.example", "/elsewhere"), &[&credential]).status, 200);
    assert_eq!(fetch(setup.data, "/files", &[&credential]).problem(), "no_route");
    // The quota, and what a caller has to know of it.
    let files = forwarded("GET", "a.example", "/files");
    assert_eq!([(); 2].map(|()| check("GET", &files, &[&credential]).status), [200, 200]);
    let spent = check("GET", &files, &[&credential]);
    assert_eq!((spent.status, spent.problem().as_str()), (429, "quota_exhausted"));
    assert!(spent.header("retry-after").is_some());
    assert_eq!(gateway.stop(), 0);

    assert!(upstream.seen().is_empty());
    let columns = "kind || ' ' || outcome || ' ' || CAST(status AS text) || ' ' || method || ' ' || route || ' ' || CAST(units AS text)";
    let mut events = books.text(&format!("SELECT {columns} FROM usage_events"));
    events.sort_unstable();
    assert_eq!(
        events,
        [
            "delegated complete 200 DELETE all 1",
            "delegated complete 200 GET files 1",
            "delegated complete 200 GET files 1",
            "delegated complete 200 GET files 1",
            "delegated complete 200 GET public 1",
            "delegated complete 200 other public 1",
        ]
    );
    assert_eq!(books.text("SELECT route FROM usage_events WHERE request_id = 'asked-1'"), ["files"]);
    assert_eq!(books.rollup_requests(), 6);
    let total = &setup.usage("client")["total"];
    assert_eq!((&total["requests"], &total["units"]), (&6.into(), &6.into()));
    let reconciled = setup.octroi(&["usage", "reconcile"]);
    assert!(reconciled.status.success(), "{}", text(&reconciled.stderr));
    let listed = text(&setup.octroi(&["usage", "events"]).stdout);
    assert_eq!(listed.matches("delegated").count(), 6, "{listed}");
    let files = std::fs::read_dir(setup.path("usage-files")).unwrap();
    let told: String = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert_eq!(told.matches(r#""kind":"delegated""#).count(), 6, "{told}");
}

#[test]
fn on_sqlite() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    by_the_rules_and_in_the_books(&setup, &Books::sqlite(&setup.path("octroi.db")), &upstream);
}

#[test]
fn on_postgres() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let setup = Setup::new(upstream.address, &database.url(), "");
    by_the_rules_and_in_the_books(&setup, &Books::postgres(&database), &upstream);
}

/// Neither a loopback address nor a good key makes a peer trusted.
#[test]
fn nobody_else_may_ask() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    delegating(&setup);
    setup.write_config(&setup.config().replace(TRUSTED, "trusted_proxies = [\"10.0.0.0/8\"]\n"));
    let key = setup.key(&setup.client(&["acme"]), &[]);
    let gateway = setup.start();
    let credential = format!("X-API-Key: {}", key.raw);
    let [method, host, target] = forwarded("GET", "a.example", "/public");
    for (path, headers) in [
        ("/.octroi/check", vec![method.as_str(), &host, &target]),
        ("/.octroi/check", vec![&method, &host, &target, &credential]),
        ("/.octroi/check", vec![]),
        ("/.octroi/check/public", vec![]),
    ] {
        let answer = fetch(setup.data, path, &headers);
        assert_eq!((answer.status, answer.problem().as_str()), (403, "untrusted_peer"), "{path} {headers:?}");
    }
    assert_eq!(gateway.stop(), 0);
    assert_eq!(setup.usage("outcome")["total"]["requests"], 0);
}

/// Whoever was answered is in the books, once; whoever was not is there once at most.
#[test]
fn a_kill_loses_no_answer_and_doubles_none() {
    const CALLERS: usize = 4;
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    delegating(&setup);
    let mut answered: Vec<String> = Vec::new();
    for round in 0..3 {
        let gateway = setup.start();
        let count = AtomicUsize::new(0);
        let (data, count) = (setup.data, &count);
        let ids: Vec<Vec<String>> = thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    scope.spawn(move || {
                        let mut ids = Vec::new();
                        let mut stream = connect(data);
                        loop {
                            let id = format!("k-{round}-{caller}-{}", ids.len());
                            let ask =
                                format!("GET /.octroi/check/public HTTP/1.1\r\nHost: a\r\nX-Request-Id: {id}\r\n\r\n");
                            let sent = stream.write_all(ask.as_bytes());
                            if sent.is_err() || !read_head(&mut stream).starts_with(b"HTTP/1.1 200 ") {
                                return ids;
                            }
                            ids.push(id);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            eventually("there are answers", || count.load(Ordering::Relaxed) > 2_000);
            gateway.kill();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        answered.extend(ids.into_iter().flatten());
    }
    assert_eq!(setup.start().stop(), 0);
    let books = Books::sqlite(&setup.path("octroi.db"));
    let events = books.events();
    let complete: HashSet<&str> =
        events.iter().filter(|event| event.outcome == "complete").map(|event| event.request_id.as_str()).collect();
    let all: HashSet<&str> = events.iter().map(|event| event.request_id.as_str()).collect();
    assert_eq!(all.len(), events.len(), "none twice");
    let missing: Vec<_> = answered.iter().filter(|id| !complete.contains(id.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // Each caller had at most one question under way at each kill.
    assert!(all.len() <= answered.len() + 3 * CALLERS, "{} of {}", all.len(), answered.len());
    assert!(events.iter().all(|event| ["complete", "not_sent"].contains(&event.outcome.as_str())));
    assert_eq!(books.text("SELECT DISTINCT kind FROM usage_events"), ["delegated"]);
}

/// A proxy that stands in front, as a process.
struct Front {
    address: SocketAddr,
    process: Gateway,
    _folder: TempDir,
}

/// The example for a proxy that docs/forward-auth.md prints, with the addresses of a test.
fn example(language: &str, front: SocketAddr, octroi: SocketAddr, service: SocketAddr) -> String {
    let page = include_str!("../../docs/forward-auth.md");
    let begin = format!("```{language}\n");
    let blocks: Vec<&str> = page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [example] = blocks[..] else { panic!("{} examples in {language}", blocks.len()) };
    let mut config = example.to_owned();
    for (written, meant, times) in [
        ("listen 80;", format!("listen {front};"), usize::from(language == "nginx")),
        (":80 {", format!("http://:{} {{", front.port()), usize::from(language == "caddyfile")),
        ("127.0.0.1:8080", octroi.to_string(), 1),
        ("127.0.0.1:3000", service.to_string(), 1),
    ] {
        assert_eq!(config.matches(written).count(), times, "{written} in {config}");
        config = config.replace(written, &meant);
    }
    config
}

impl Front {
    fn nginx(octroi: SocketAddr, service: SocketAddr) -> Self {
        let (folder, address) = (TempDir::new().unwrap(), free_address());
        let place = folder.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {place}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\n    access_log off;\n{temporary}{}}}\n",
            example("nginx", address, octroi, service)
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(folder.path().join("nginx.conf")).arg("-p").arg(folder.path());
        Self::started(command, address, folder)
    }

    fn caddy(octroi: SocketAddr, service: SocketAddr) -> Self {
        let (folder, address) = (TempDir::new().unwrap(), free_address());
        let config = format!("{{\n\tadmin off\n}}\n{}", example("caddyfile", address, octroi, service));
        std::fs::write(folder.path().join("Caddyfile"), config).unwrap();
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.path().join("Caddyfile"));
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, folder.path());
        }
        Self::started(command, address, folder)
    }

    fn started(command: Command, address: SocketAddr, folder: TempDir) -> Self {
        let front = Self { address, process: Gateway::run(command), _folder: folder };
        eventually("the proxy listens", || TcpStream::connect(address).is_ok());
        front
    }
}

/// What a caller gets and a service sees behind a proxy that asks.
fn callers_are_let_pass_and_refused(start: fn(SocketAddr, SocketAddr) -> Front, refuses_other_ways: u16) {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    delegating(&setup);
    let acme = setup.client(&["acme", "--rate", "1/h", "--burst", "4"]);
    let key = setup.key(&acme, &[]);
    let elsewhere = setup.key(&setup.client(&["elsewhere"]), &["--allow", "10.9.9.9/32"]);
    let gateway = setup.start();
    let front = start(setup.data, upstream.address);
    let credential = format!("X-API-Key: {}", key.raw);
    let forged = ["X-Octroi-Client-Id: forged", "x-octroi-subject: forged", "X-Octroi-Scopes: admin"];

    let answer = fetch(front.address, "/files/1?x=%2f", &[&[credential.as_str()], &forged[..]].concat());
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]), "{answer:?}");
    let seen = upstream.last();
    let told = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(seen.target, "/files/1?x=%2f");
    assert_eq!(told("x-octroi-client-id"), Some(acme));
    assert_eq!(told("x-octroi-client-name").as_deref(), Some("acme"));
    assert_eq!(told("x-octroi-key-id"), Some(key.public_id));
    for absent in ["x-octroi-subject", "x-octroi-scopes", "x-api-key", "authorization"] {
        assert!(told(absent).is_none_or(|value| value.is_empty()), "{absent}: {seen:?}");
    }
    let request_id = told("x-request-id").expect("the proxy makes one");
    // An open route, and a body that nobody but the service gets.
    let answer = send(front.address, "POST", "/public/in", &forged, &vec![b'x'; 100_000]);
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = upstream.last();
    assert_eq!(seen.body_bytes, 100_000);
    for name in ["x-octroi-client-id", "x-octroi-subject", "x-octroi-scopes"] {
        assert!(seen.headers.get(name).is_none_or(http::HeaderValue::is_empty), "{name}: {seen:?}");
    }

    let other_key = format!("X-API-Key: {}", elsewhere.raw);
    let rows: [(&str, &str, Vec<&str>, u16); 14] = [
        ("GET", "/files", vec![], 401),
        ("GET", "/files", vec!["X-API-Key: octroi_live_nothing"], 401),
        ("GET", "/admin", vec![&credential], 403),
        ("POST", "/files", vec![&credential], 405),
        ("GET", "/public/../admin", vec![&credential], 400),
        ("GET", "/public/%2e%2e/admin", vec![&credential], 400),
        ("GET", "/public%2fadmin", vec![&credential], 400),
        ("GET", "//admin", vec![&credential], 400),
        ("GET", "/.octroi/livez", vec![&credential], 404),
        // A caller says where it stands, or which request it is.
        ("GET", "/files", vec![&other_key, "X-Forwarded-For: 10.9.9.9"], 403),
        ("GET", "/admin", vec!["X-Forwarded-Uri: /public", "X-Forwarded-Method: GET"], 401),
        ("GET", "/admin", vec!["X-Forwarded-Uri: /public", "X-Forwarded-Host: a.example"], 401),
        ("GET", "/admin", vec!["X-Original-URI: /public", "X-Original-Method: GET"], refuses_other_ways),
        ("POST", "/files", vec![&credential, "X-HTTP-Method-Override: GET"], 405),
    ];
    for (method, target, headers, status) in rows {
        let answer = send(front.address, method, target, &headers, b"");
        assert_eq!(answer.status, status, "{method} {target} {headers:?}: {}", front.process.log());
        assert!(status != 401 || answer.header("www-authenticate").is_some(), "{answer:?}");
    }
    // The rate: one of four was taken by the first request.
    let statuses: Vec<u16> = (0..4).map(|_| fetch(front.address, "/files", &[&credential]).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert!(fetch(front.address, "/files", &[&credential]).header("retry-after").is_some());

    assert_eq!(upstream.seen().len(), 5, "what was refused went nowhere");
    assert_eq!(gateway.stop(), 0);
    // Without an answer nobody passes.
    assert!(fetch(front.address, "/public", &[]).status >= 500);
    assert_eq!(upstream.seen().len(), 5);
    let books = Books::sqlite(&setup.path("octroi.db"));
    let kinds = "SELECT kind || ' ' || outcome || ' ' || method || ' ' || route FROM usage_events ORDER BY id";
    let mut expected = vec!["delegated complete GET files"; 5];
    expected[1] = "delegated complete POST public";
    assert_eq!(books.text(kinds), expected);
    assert_eq!(books.text(&format!("SELECT kind FROM usage_events WHERE request_id = '{request_id}'")), ["delegated"]);
}

#[test]
fn behind_the_real_nginx() {
    callers_are_let_pass_and_refused(Front::nginx, 401);
}

#[test]
fn behind_the_real_caddy() {
    callers_are_let_pass_and_refused(Front::caddy, 400);
}
