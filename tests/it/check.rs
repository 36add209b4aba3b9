//! Forward-auth: another proxy asks, is answered by the rules of any request, and every question is
//! in the books once. Asked by hand, and by the real nginx and the real Caddy with the
//! configurations that docs/forward-auth.md prints.

use crate::books::Books;
use crate::callers::{fetch, send};
use crate::database::TestDatabase;
use crate::harness::{Setup, text};
use crate::upstream::Upstream;

/// The peer of these tests speaks for others.
const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1/32\"]\n";

/// Routes for which another proxy forwards, behind those of the setup.
const DELEGATED: &str = "[[routes]]\nname = \"files\"\npath = \"/files\"\nmethods = [\"GET\"]\ndelegated = true\n\
                         [[routes]]\nname = \"admin\"\npath = \"/admin\"\ndelegated = true\nscopes = [\"admin\"]\n\
                         [[routes]]\nname = \"public\"\npath = \"/public\"\ndelegated = true\nauth = \"none\"\n\
                         [[routes]]\nname = \"other\"\nhost = \"other.example\"\npath = \"/files\"\ndelegated = true\n\
                         scopes = [\"other\"]\n";

fn delegating(setup: &Setup) {
    let config = setup.config().replace("workers = 2\n", &format!("workers = 2\n{TRUSTED}"));
    setup.write_config(&format!("{config}{DELEGATED}"));
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
    ] {
        assert_eq!(check("GET", &whole, &[more]).problem(), "bad_request", "{more}");
    }
    assert_eq!(fetch(setup.data, "/.octroi/check", &[&credential]).problem(), "bad_request");
    // Open routes tell of nobody; any method may ask; Envoy's way.
    let open = check("PUT", &whole, &[&credential]);
    assert_eq!((open.status, open.header("x-octroi-client-id")), (200, None));
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
