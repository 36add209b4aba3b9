//! What routes change of what passes, and what they answer themselves: by the real program, with an
//! upstream that records what arrived.

use crate::books::Books;
use crate::callers::{Answer, fetch, send};
use crate::harness::{Gateway, Key, Setup, eventually};
use crate::upstream::Upstream;

const PAGE: &str = "Origin: https://app.example";

/// A gateway with one client, and a configuration of routes.
struct Scene {
    upstream: Upstream,
    setup: Setup,
    client: String,
    key: Key,
    gateway: Option<Gateway>,
}

impl Scene {
    /// `head`: behind `[server]`; `routes`: in place of the usual route.
    fn new(head: &str, routes: &str) -> Self {
        let upstream = Upstream::start();
        let setup = Setup::sqlite(upstream.address);
        let config = setup.config();
        let (before, _) = config.split_once("[[routes]]").unwrap();
        setup.write_config(&format!("{}{routes}", before.replace("workers = 2\n", &format!("workers = 2\n{head}\n"))));
        let client = setup.client(&["acme", "--rate", "1/h", "--burst", "20"]);
        let key = setup.key(&client, &[]);
        let gateway = setup.start();
        Self { upstream, setup, client, key, gateway: Some(gateway) }
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        let key = format!("X-API-Key: {}", self.key.raw);
        fetch(self.setup.data, path, &[&[key.as_str()], headers].concat())
    }

    fn options(&self, path: &str, headers: &[&str]) -> Answer {
        send(self.setup.data, "OPTIONS", path, headers, b"")
    }

    /// What arrived last under a name, line by line.
    fn arrived(&self, name: &str) -> Vec<String> {
        let seen = self.upstream.last().headers;
        seen.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }
}

fn route(path: &str, more: &str) -> String {
    format!("[[routes]]\nname = \"{path}\"\npath = \"{path}\"\nupstream = \"up\"\n{more}\n")
}

#[test]
fn a_prefix_and_a_host_are_rewritten_after_everything_was_decided() {
    let routes = [
        route("/", ""),
        route("/orders", "replace_prefix = \"/v2/o\"\nhost_header = \"orders.internal\""),
        route("/root", "replace_prefix = \"/\""),
    ];
    let scene = Scene::new("", &routes.concat());
    for (sent, arrives) in [
        ("/orders", "/v2/o"),
        ("/orders/", "/v2/o/"),
        ("/orders/%37?a=/../b", "/v2/o/7?a=/../b"),
        ("/ordersfoo", "/ordersfoo"),
        ("/root/x", "/x"),
        ("/root", "/"),
    ] {
        assert_eq!(scene.get(sent, &[]).status, 200, "{sent}");
        assert_eq!(scene.upstream.last().target, arrives, "{sent}");
    }
    for refused in ["/orders/../admin", "/orders/%2e%2e/admin", "/orders//x", "/orders/..%2fadmin"] {
        assert_eq!(scene.get(refused, &[]).status, 400, "{refused}");
    }
    let caller_s = scene.setup.data.to_string();
    scene.get("/orders/1", &[]);
    assert_eq!(scene.arrived("host"), ["orders.internal"]);
    assert_eq!(scene.arrived("x-forwarded-host"), [caller_s.as_str()]);
    scene.get("/", &[]);
    assert_eq!(scene.arrived("host"), [caller_s.as_str()]);
}

#[test]
fn rules_change_headers_and_never_who_calls() {
    let rules = "[routes.request_headers]\n\
        set = { x-tenant = \"${client_name} at ${host}\", x-sub = \"${subject}\", x-real-ip = \"${caller_address}\" }\n\
        add = { x-tag = \"${route}:${method}\" }\nremove = [\"x-secret\"]\n\
        [routes.response_headers]\nset = { x-served = \"${request_id}\" }\nremove = [\"x-internal\"]\n";
    let allowed = "strip_prefix = true\n[routes.request_headers]\nallow = [\"x-wanted\"]\n[routes.response_headers]\nallow = [\"x-internal\"]\n";
    let routes = [route("/", rules), route("/open", &format!("auth = \"none\"\n{rules}")), route("/few", allowed)];
    let scene = Scene::new("", &routes.concat());
    let spoofs = [
        "X-Tenant: forged",
        "x_tenant: forged",
        "X-Sub: forged",
        "X-Tag: own",
        "X-Secret: 1",
        "X-Octroi-Client-Id: forged",
        "X-Real-IP: 192.0.2.66",
        "X-Wanted: 1",
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /admin",
    ];
    let answer = scene.get("/said", &spoofs);
    let host = scene.setup.data.ip().to_string();
    assert_eq!(scene.arrived("x-tenant"), [format!("acme at {host}")]);
    assert_eq!(scene.arrived("x-tag"), ["own", "/:GET"]);
    assert_eq!(scene.arrived("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(scene.arrived("x-octroi-client-id"), [scene.client.as_str()]);
    for gone in ["x_tenant", "x-sub", "x-secret", "x-api-key", "x-http-method-override", "x-original-url"] {
        assert_eq!(scene.arrived(gone), Vec::<String>::new(), "{gone}");
    }
    assert_eq!(answer.header("x-served"), answer.header("x-request-id"));
    assert_eq!(answer.header("x-internal"), None);
    assert_eq!(answer.body, b"said");

    // Nobody has no name: what the caller says of itself goes all the same.
    assert_eq!(fetch(scene.setup.data, "/open", &spoofs).status, 200);
    for gone in ["x-tenant", "x_tenant", "x-sub", "x-octroi-client-id"] {
        assert_eq!(scene.arrived(gone), Vec::<String>::new(), "{gone}");
    }

    let answer = scene.get("/few/said", &[&spoofs[..], &["Accept: x", "Content-Type: text/x"]].concat());
    for (name, there) in
        [("x-wanted", 1), ("content-type", 1), ("x-octroi-client-id", 1), ("traceparent", 1), ("via", 1)]
    {
        assert_eq!(scene.arrived(name).len(), there, "{name}");
    }
    for gone in ["accept", "x-tenant", "x-tag"] {
        assert_eq!(scene.arrived(gone), Vec::<String>::new(), "{gone}");
    }
    assert_eq!((answer.header("x-internal"), answer.header("x-served")), (Some("1"), None));
    let answer = scene.get("/few", &[]);
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
}

#[test]
fn pages_are_told_what_they_may_before_anybody_is_asked_who_they_are() {
    let cors = "strip_prefix = true\nmethods = [\"POST\"]\n[routes.cors]\norigins = [\"https://app.example\"]\nexpose = [\"x-served\"]\n";
    let scene = Scene::new("", &[route("/", ""), route("/orders", cors)].concat());
    let asks = "Access-Control-Request-Method: POST";
    let answer = scene.options("/orders/1", &[PAGE, asks, "Access-Control-Request-Headers: x-api-key"]);
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization, x-api-key, content-type"));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert_eq!(answer.header("content-length"), None);
    let foreign = scene.options("/orders/1", &["Origin: https://evil.example", asks]);
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (204, None));
    // Not about a method of the route, or no preflight: as if there were no CORS.
    let other = scene.options("/orders/1", &[PAGE, "Access-Control-Request-Method: PUT"]);
    assert_eq!(other.status, 405, "{other:?}");
    assert_eq!(scene.options("/orders/1", &[PAGE]).status, 405);
    assert_eq!(scene.options("/other", &[PAGE, asks]).status, 401);
    assert!(scene.upstream.seen().is_empty(), "nothing of it reaches an upstream");

    let key = format!("X-API-Key: {}", scene.key.raw);
    let post = |headers: &[&str]| send(scene.setup.data, "POST", "/orders/said", headers, b"x");
    let answer = post(&[&key, PAGE]);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert_eq!(exposed, "ratelimit, ratelimit-policy, retry-after, x-request-id, x-served");
    let vary: Vec<&str> =
        answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.as_str()).collect();
    assert_eq!(vary, ["accept", "Origin"]);
    // The upstream's `*` is not ours.
    let foreign = post(&[&key, "Origin: https://evil.example"]);
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (200, None));
    assert_eq!(post(&[&key]).header("access-control-allow-origin"), None);
    let refused = post(&[PAGE]);
    assert_eq!((refused.status, refused.problem().as_str()), (401, "missing_credentials"));
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example"));
    let limited = std::iter::repeat_with(|| post(&[&key, PAGE])).find(|answer| answer.status == 429).unwrap();
    assert_eq!(limited.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(limited.header("retry-after").is_some());

    let metrics = fetch(scene.setup.admin, "/metrics", &[]);
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("octroi_cors_preflights_total{result=\"allowed\"} 1"), "{metrics}");
    assert!(metrics.contains("octroi_cors_preflights_total{result=\"foreign\"} 1"), "{metrics}");
    // What was answered is what reached the upstream: no preflight among it.
    let books = Books::sqlite(&scene.setup.path("octroi.db"));
    eventually("the events", || books.events().len() == scene.upstream.seen().len());
}

#[test]
fn a_route_under_maintenance_says_so_to_everybody() {
    let under = "maintenance = true\nmaintenance_message = \"Back at noon.\"\nmaintenance_retry_after = \"90s\"\n\
                 [routes.cors]\norigins = [\"*\"]\n";
    let scene = Scene::new("", &[route("/", ""), route("/orders", under)].concat());
    for answer in [scene.get("/orders/1", &[PAGE]), fetch(scene.setup.data, "/orders", &[PAGE])] {
        assert_eq!((answer.status, answer.problem().as_str()), (503, "maintenance"));
        assert_eq!(answer.json()["detail"], "Back at noon.");
        assert_eq!(answer.header("retry-after"), Some("90"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    assert_eq!(scene.get("/", &[]).status, 200);
    assert_eq!(scene.upstream.seen().len(), 1);
}

#[test]
fn trusted_peers_tell_who_calls_in_either_header() {
    let echo = "[routes.request_headers]\nset = { x-caller = \"${caller_address}\", x-scheme = \"${scheme}\" }\n";
    let trusting = Scene::new("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]", &route("/", echo));
    for (headers, caller, chain, scheme) in [
        (&[][..], "127.0.0.1", "127.0.0.1", "http"),
        (
            &["X-Forwarded-For: 192.0.2.66, 203.0.113.7:90, 10.0.0.1"],
            "203.0.113.7",
            "192.0.2.66, 203.0.113.7:90, 10.0.0.1, 127.0.0.1",
            "http",
        ),
        (
            &["Forwarded: for=192.0.2.66, for=\"[2001:db8::7]:1\";proto=https"],
            "2001:db8::7",
            "2001:db8::7, 127.0.0.1",
            "https",
        ),
        (
            &["Forwarded: for=192.0.2.66", "X-Forwarded-For: 203.0.113.7"],
            "203.0.113.7",
            "203.0.113.7, 127.0.0.1",
            "http",
        ),
        (&["Forwarded: for=203.0.113.7, for=_hidden"], "127.0.0.1", "127.0.0.1", "http"),
        (&["X-Forwarded-Proto: https"], "127.0.0.1", "127.0.0.1", "https"),
        (&["X-Forwarded-Proto: gopher"], "127.0.0.1", "127.0.0.1", "http"),
    ] {
        assert_eq!(trusting.get("/", headers).status, 200);
        assert_eq!(trusting.arrived("x-caller"), [caller], "{headers:?}");
        assert_eq!(trusting.arrived("x-forwarded-for"), [chain], "{headers:?}");
        assert_eq!(trusting.arrived("x-forwarded-proto"), [scheme], "{headers:?}");
        let both = headers.len() == 2;
        assert_eq!(
            trusting.arrived("forwarded").is_empty(),
            both || !headers.iter().any(|line| line.starts_with("Forwarded"))
        );
    }

    let strict = Scene::new("", &format!("[proxy]\nforwarded = true\n{}", route("/", echo)));
    strict.get("/", &["Forwarded: for=192.0.2.66", "X-Forwarded-For: 192.0.2.66", "X-Forwarded-Proto: https"]);
    assert_eq!(strict.arrived("x-caller"), ["127.0.0.1"]);
    assert_eq!(strict.arrived("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(strict.arrived("forwarded"), [format!("for=127.0.0.1;host=\"{}\";proto=http", strict.setup.data)]);
    assert_eq!(strict.arrived("x-scheme"), ["http"]);
}

#[test]
fn traces_go_on_and_begin_here() {
    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let mut scene = Scene::new("", &route("/", ""));
    // The same again with the log on.
    scene
        .setup
        .write_config(&scene.setup.config().replace("access_log = false", "access_log = true\nlog_format = \"json\""));
    let quiet = scene.gateway.take();
    assert_eq!(quiet.unwrap().stop(), 0);
    let gateway = scene.setup.start();
    scene.get("/", &[&format!("traceparent: {SENT}"), "tracestate: a=1"]);
    assert_eq!(
        (scene.arrived("traceparent"), scene.arrived("tracestate")),
        (vec![SENT.to_owned()], vec!["a=1".to_owned()])
    );
    gateway.wait_for_log("\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\"");
    for headers in [&[][..], &["traceparent: 00-x", "tracestate: a=1"]] {
        scene.get("/", headers);
        let made = scene.arrived("traceparent").remove(0);
        let parts: Vec<&str> = made.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{made}");
        assert_eq!((parts[0], parts[3]), ("00", "01"));
        assert!(scene.arrived("tracestate").is_empty());
        gateway.wait_for_log(&format!("\"trace_id\":\"{}\"", parts[1]));
    }
}

#[test]
fn a_loop_of_two_gateways_ends_and_a_chain_is_none() {
    let open = |next: std::net::SocketAddr| {
        let setup = Setup::sqlite(next);
        setup.write_config(&setup.config().replace("path = \"/\"", "path = \"/\"\nauth = \"none\""));
        setup
    };
    let first = open(([127, 0, 0, 1], 9).into());
    let second = open(first.data);
    first.write_config(&first.config().replace("127.0.0.1:9\"", &format!("{}\"", second.data)));
    let _both = (first.start(), second.start());
    let answer = fetch(first.data, "/round", &[]);
    assert_eq!((answer.status, answer.problem().as_str()), (508, "loop_detected"));
    for setup in [&first, &second] {
        let books = Books::sqlite(&setup.path("octroi.db"));
        eventually("four passes", || books.events().len() == 4);
    }

    let upstream = Upstream::start();
    let third = open(upstream.address);
    let fourth = open(third.data);
    let _chain = (third.start(), fourth.start());
    assert_eq!(fetch(fourth.data, "/", &["Via: 1.1 octroi, 1.1 octroi, 1.1 octroi, 1.1 octroi"]).status, 200);
    let via = upstream.last().headers;
    let via: Vec<&str> = via.get_all("via").iter().map(|line| line.to_str().unwrap()).collect();
    assert_eq!(via.len(), 3, "{via:?}");
    assert!(via[1..].iter().all(|line| line.starts_with("1.1 octroi-")) && via[1] != via[2], "{via:?}");
}

#[test]
fn callers_of_grpc_are_refused_in_their_words() {
    let scene = Scene::new("", &[route("/", ""), route("/down", "maintenance = true")].concat());
    let key = format!("X-API-Key: {}", scene.key.raw);
    let call = |path: &str, headers: &[&str]| {
        let headers = [&["Content-Type: application/grpc+proto"], headers].concat();
        send(scene.setup.data, "POST", path, &headers, b"\0\0\0\0\0")
    };
    for (path, headers, status, word) in [
        ("/a.B/C", &[][..], "16", "missing_credentials: "),
        ("/a.B/C", &["X-API-Key: nonsense-nonsense"], "16", "invalid_credentials: "),
        ("/a.B//C", &[&key], "3", "bad_request: "),
        ("/down/a.B/C", &[&key], "14", "maintenance: "),
    ] {
        let answer = call(path, headers);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
        assert_eq!(answer.header("grpc-status"), Some(status), "{answer:?}");
        assert!(answer.header("grpc-message").unwrap().starts_with(word), "{answer:?}");
        assert!(answer.header("x-request-id").is_some());
    }
    let answer = call("/down/x", &[&key]);
    assert_eq!((answer.header("retry-after"), answer.header("grpc-retry-pushback-ms")), (Some("300"), Some("300000")));
    assert_eq!(call("/a.B/C", &[&key]).status, 200);
    let limited =
        std::iter::repeat_with(|| call("/a.B/C", &[&key])).find(|answer| answer.header("grpc-status").is_some());
    let limited = limited.unwrap();
    assert_eq!((limited.status, limited.header("grpc-status")), (200, Some("8")));
    assert!(limited.header("ratelimit").is_some() && limited.header("grpc-retry-pushback-ms").is_some());

    // The books have what it stands for.
    let refused = |status: i64| {
        let usage = scene.setup.usage("status,outcome");
        let items = usage["items"].as_array().unwrap().clone();
        items.iter().any(|item| item["status"] == status && item["outcome"] == "rejected")
    };
    eventually("refusals in the rollups", || [401, 400, 503, 429].into_iter().all(refused));
    assert!(!refused(200));
}

#[test]
fn services_from_behind_kong_find_its_words() {
    let routes = [route("/", ""), route("/open", "auth = \"none\"")].concat();
    let scene = Scene::new("underscore_headers = \"forward\"", &format!("[proxy]\nidentity = \"kong\"\n{routes}"));
    let spoofs = [
        "X-Consumer-ID: forged",
        "x_consumer_username: forged",
        "X-Consumer-Groups: admin",
        "X.Credential.Identifier: forged",
        "X-Anonymous-Consumer: true",
    ];
    scene.get("/", &spoofs);
    assert_eq!(scene.arrived("x-consumer-id"), [scene.client.as_str()]);
    assert_eq!(scene.arrived("x-consumer-username"), ["acme"]);
    assert_eq!(scene.arrived("x-credential-identifier"), [scene.key.public_id.as_str()]);
    assert_eq!(scene.arrived("x-octroi-client-id"), [scene.client.as_str()]);
    for gone in ["x_consumer_username", "x-consumer-groups", "x.credential.identifier", "x-anonymous-consumer"] {
        assert!(scene.arrived(gone).is_empty(), "{gone}");
    }
    fetch(scene.setup.data, "/open", &spoofs);
    assert_eq!(scene.arrived("x-anonymous-consumer"), ["true"]);
    assert!(scene.arrived("x-consumer-id").is_empty() && scene.arrived("x-credential-identifier").is_empty());
}
