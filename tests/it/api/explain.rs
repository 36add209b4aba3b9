//! Why a request was or would be answered as it is.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{Bench, refused};
use crate::callers::{Answer, connect, fetch, read_head, send};
use crate::harness::{NO_BUDGET, Setup, eventually, text};
use crate::issuer::Issuer;
use crate::signer::Signer;
use crate::upstream::Upstream;

/// What a gateway refuses with; null where the upstream answered.
fn code_of(answer: &Answer) -> Value {
    if answer.status == 200 { Value::Null } else { answer.json()["code"].clone() }
}

#[test]
fn why_a_customer_gets_401_is_told_to_operators_and_not_to_callers() {
    let bench = Bench::sqlite();
    let token = bench.token("support");
    let key = bench.setup.key(&bench.client, &[]);
    let header = format!("X-API-Key: {}", key.raw);
    assert_eq!(fetch(bench.setup.data, "/orders", &[&header]).status, 200);
    bench.setup.json(&["key", "revoke", &key.id]);
    eventually("it is revoked", || fetch(bench.setup.data, "/orders", &[&header]).status == 401);
    let refusals = bench.with(&token, "GET", "/v1/refusals", &Value::Null).json();
    let last = &refusals["items"][0];
    assert_eq!((&last["code"], &last["reason"]), (&"invalid_credentials".into(), &"revoked".into()), "{refusals}");
    let story = bench
        .with(&token, "GET", &format!("/v1/requests/{}", last["request_id"].as_str().unwrap()), &Value::Null)
        .json();
    assert_eq!(story["refusal"]["reason"], "revoked");
    assert_eq!(story["now"]["code"], "invalid_credentials", "{story}");
    let asked = json!({"method": "GET", "url": "/orders", "key_id": key.public_id});
    let told = bench.with(&token, "POST", "/v1/explain", &asked).json();
    let steps: Vec<_> = told["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["path", "route", "credential"], "{told}");
    assert!(told["verdict"].as_str().unwrap().contains("was revoked at"), "{told}");
    let route = &told["steps"][1]["setting"];
    assert!(route["written_at"].as_str().unwrap().contains("octroi.toml:"), "{told}");
    for printed in [&refusals, &story, &told] {
        assert!(!printed.to_string().contains(&key.raw), "{printed}");
    }
}

#[test]
fn what_would_become_of_a_request_is_what_becomes_of_it() {
    let config = "[[routes]]\nname = \"orders\"\npath = \"/orders\"\nupstream = \"up\"\nscopes = [\"orders:read\"]\nmethods = [\"GET\"]\n\
                  [[routes]]\nname = \"closed\"\npath = \"/closed\"\nupstream = \"up\"\nmaintenance = true\n\
                  [[routes]]\nname = \"open\"\npath = \"/open\"\nupstream = \"up\"\nauth = \"none\"\n";
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.write_config(&format!("{}{config}", setup.config()));
    let bench = Bench::start(setup);
    let token = bench.token("auditor");
    let good = bench.setup.key(&bench.client, &["--scope", "orders:*"]);
    let bare = bench.setup.key(&bench.client, &[]);
    let far = bench.setup.key(&bench.client, &["--allow", "192.0.2.0/24"]);
    let suspended = bench.setup.key(&bench.other, &[]);
    bench.setup.json(&["client", "suspend", &bench.other]);
    for (method, path, key) in [
        ("GET", "/orders/1", Some(&good)),
        ("GET", "/orders/1", Some(&bare)),
        ("GET", "/orders/1", None),
        ("POST", "/orders/1", Some(&good)),
        ("GET", "/orders//1", Some(&good)),
        ("GET", "/%2e%2e/x", Some(&good)),
        ("GET", "/closed", Some(&good)),
        ("GET", "/open", None),
        ("GET", "/", Some(&far)),
        ("GET", "/", Some(&suspended)),
        ("GET", "/", Some(&good)),
    ] {
        let mut asked = json!({"method": method, "url": path, "address": "127.0.0.1"});
        if let Some(key) = key {
            asked["key_id"] = key.public_id.as_str().into();
        }
        let told = bench.with(&token, "POST", "/v1/explain", &asked);
        assert_eq!(told.status, 200, "{told:?}");
        let header = key.map(|key| format!("X-API-Key: {}", key.raw));
        let headers: Vec<&str> = header.iter().map(String::as_str).collect();
        let answer = send(bench.setup.data, method, path, &headers, b"");
        assert_eq!(told.json()["code"], code_of(&answer), "{method} {path}: {told:?}");
    }
}

#[test]
fn at_three_in_the_morning_a_terminal_is_enough() {
    let bench = Bench::sqlite();
    let key = bench.setup.key(&bench.client, &[]);
    bench.setup.json(&["key", "revoke", &key.id]);
    eventually("it is refused", || fetch(bench.setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status == 401);
    let refusals = bench.setup.json(&["refusals", "--client", "acme"]);
    assert_eq!(refusals["items"][0]["reason"], "revoked", "{refusals}");
    let id = refusals["items"][0]["request_id"].as_str().unwrap();
    let story = text(&bench.setup.octroi(&["explain", id]).stdout);
    assert!(story.contains("it was refused") && story.contains("was revoked at"), "{story}");
    let told = text(&bench.setup.octroi(&["explain", "--key-id", &key.public_id, "GET", "/"]).stdout);
    assert!(told.contains("NO  credential") && told.contains("octroi.toml:"), "{told}");
    let screen = text(&bench.setup.octroi(&["top", "--looks", "1"]).stdout);
    assert!(screen.contains("refused invalid_credentials"), "{screen}");
    let watching = bench.setup.spawn(&["tail", "--client", "acme", "--limit", "1"]);
    let good = format!("X-API-Key: {}", bench.setup.key(&bench.client, &[]).raw);
    eventually("it is shown", || {
        fetch(bench.setup.data, "/watched", &[&good]);
        watching.out().contains("GET /watched")
    });
    // Without a gateway it says so.
    let elsewhere = Setup::sqlite(([127, 0, 0, 1], 9).into());
    let lost = elsewhere.octroi(&["refusals"]);
    assert_eq!(lost.status.code(), Some(69), "{}", text(&lost.stderr));
}

#[test]
fn a_token_is_judged_as_its_next_request_would_be() {
    let upstream = Upstream::start();
    let (signer, stranger) = (Signer::new("ed", "EdDSA"), Signer::new("ed", "EdDSA"));
    let issuer = Issuer::publishing(&[&signer]);
    let setup = Setup::sqlite_with(upstream.address, &format!("{NO_BUDGET}{}", issuer.config()));
    let routes = "[[routes]]\nname = \"keys\"\npath = \"/keys\"\nupstream = \"up\"\nauth = \"key\"\n\
                  [[routes]]\nname = \"tokens\"\npath = \"/tokens\"\nupstream = \"up\"\nauth = \"jwt\"\nscopes = [\"a:read\"]\n";
    setup.write_config(&(setup.config() + routes));
    setup.client(&["asleep"]);
    setup.json(&["client", "suspend", "asleep"]);
    let bench = Bench::start(setup);
    let (auditor, support) = (bench.token("auditor"), bench.token("support"));
    let says = |client: &str, more| issuer.bearer(&signer, client, &more);
    for (path, bearer, says) in [
        ("/", says("acme", json!({})), "it is forwarded by the route"),
        ("/tokens", says("acme", json!({"scope": "a:read"})), "it is forwarded by the route `tokens`"),
        ("/tokens", says("acme", json!({"scope": "a:write"})), "the route asks for `a:read`, the token has `a:write`"),
        ("/keys", says("acme", json!({})), "the route takes keys only"),
        ("/", says("acme", json!({"exp": 1_000})), "the token is expired"),
        ("/", says("acme", json!({"aud": "others"})), "the token is for another audience"),
        ("/", says("nobody", json!({})), "the token names an unknown client"),
        ("/", says("asleep", json!({})), "the client `asleep` is suspended"),
        ("/", issuer.bearer(&stranger, "acme", &json!({})), "the signature is not the key's"),
    ] {
        let token = bearer.strip_prefix("Authorization: Bearer ").unwrap();
        let asked = json!({"method": "GET", "url": path, "token": token});
        let told = bench.with(&auditor, "POST", "/v1/explain", &asked);
        assert_eq!(told.status, 200, "{told:?}");
        assert!(told.json()["verdict"].as_str().unwrap().contains(says), "{says}: {told:?}");
        assert_eq!(told.json()["code"], code_of(&fetch(bench.setup.data, path, &[&bearer])), "{says}: {told:?}");
        assert!(!text(&told.body).contains(token), "a token is repeated");
    }
    // From a terminal, by stdin or a file.
    let good = says("acme", json!({}));
    let file = bench.setup.path("token.jwt");
    std::fs::write(&file, good.strip_prefix("Authorization: Bearer ").unwrap()).unwrap();
    let told = bench.setup.octroi(&["explain", "--token-file", file.to_str().unwrap(), "GET", "/"]);
    assert!(text(&told.stdout).contains("the token holds"), "{}", text(&told.stderr));
    std::fs::remove_file(file).unwrap();
    // Whoever is there for some clients learns of no other one by its token.
    let of = |client: &str| json!({"method": "GET", "url": "/", "token": says(client, json!({})).split_once("Bearer ").unwrap().1});
    assert_eq!(bench.with(&support, "POST", "/v1/explain", &of("acme")).status, 200);
    refused(&bench.with(&support, "POST", "/v1/explain", &of("globex")), 404, "not_found");
    refused(&bench.with(&support, "POST", "/v1/explain", &json!({"method": "GET", "url": "/"})), 400, "bad_request");
}

#[test]
fn the_story_of_a_request_tells_what_would_become_of_it_now() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let routes = "[[routes]]\nname = \"shop\"\nhost = \"127.0.0.1\"\npath = \"/\"\nupstream = \"up\"\ncost = 3\n";
    setup.write_config(&(setup.config() + routes));
    let bench = Bench::start(setup);
    let auditor = bench.token("auditor");
    bench.setup.json(&["client", "update", &bench.client, "--quota", "5/day"]);
    let key = bench.setup.key(&bench.client, &[]);
    let header = format!("X-API-Key: {}", key.raw);
    let headers = [header.as_str()];
    let story_of = |answer: &Answer| {
        let path = format!("/v1/requests/{}", answer.header("x-request-id").unwrap());
        let mut story = Value::Null;
        eventually("its story is there", || {
            let told = bench.with(&auditor, "GET", &path, &Value::Null);
            story = told.json();
            told.status == 200
        });
        story
    };
    let admitted = send(bench.setup.data, "GET", "/x", &headers, b"");
    assert_eq!(admitted.status, 200, "{admitted:?}");
    let told = story_of(&admitted);
    assert_eq!((&told["event"]["units"], &told["now"]["route"]), (&3.into(), &"shop".into()), "{told}");
    // Three of five are spent: the next would not fit.
    assert_eq!(told["now"]["code"], "quota_exhausted", "{told}");
    assert!(told["now"]["verdict"].as_str().unwrap().contains("only 2 is left of"), "{told}");
    let exhausted = send(bench.setup.data, "GET", "/x", &headers, b"");
    assert_eq!(code_of(&exhausted), "quota_exhausted");
    let told = story_of(&exhausted);
    assert_eq!((&told["now"]["route"], &told["now"]["code"]), (&"shop".into(), &"quota_exhausted".into()), "{told}");
    // A stranger's key is not kept: it is not said that there was none.
    let unknown = send(
        bench.setup.data,
        "GET",
        "/x",
        &[&format!("X-API-Key: {}", key.raw.replace("octroi_live_", "octroi_live_0"))],
        b"",
    );
    let told = story_of(&unknown);
    assert_eq!(told["now"]["code"], "invalid_credentials", "{told}");
    assert!(told["now"]["verdict"].as_str().unwrap().contains("which is not kept"), "{told}");
}

#[test]
fn every_limit_is_told_before_a_caller_is_known_and_judged_by_what_it_costs() {
    let routes = "[[routes]]\nname = \"costly\"\npath = \"/costly\"\nupstream = \"up\"\ncost = 5\n\
                  [[routes]]\nname = \"trial\"\npath = \"/trial\"\nupstream = \"up\"\nscopes = [\"never\"]\n\
                  mode = \"observe\"\nobserve_until = \"UNTIL\"\n";
    let until = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(48)).unwrap();
    let routes = routes.replace("UNTIL", &until.strftime("%Y-%m-%d").to_string());
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.write_config(&(setup.config() + &routes));
    let bench = Bench::start(setup);
    let auditor = bench.token("auditor");
    let terms = ["--rate", "3/h", "--burst", "3", "--quota", "9/day", "--concurrency", "1"];
    bench.setup.json(&[&["client", "update", &bench.client][..], &terms].concat());
    let key = bench.setup.key(&bench.client, &["--rate", "2/h", "--burst", "2"]);
    let header = format!("X-API-Key: {}", key.raw);
    let explain = |path: &str| {
        let asked = json!({"method": "GET", "url": path, "key_id": key.public_id});
        bench.with(&auditor, "POST", "/v1/explain", &asked).json()
    };
    let left = |told: &Value| {
        let limits = told["limits"].as_array().unwrap().clone();
        let line = |limit: &Value| format!("{} {} {}", limit["kind"], limit["policy"], limit["left"]).replace('"', "");
        limits.iter().map(line).collect::<Vec<_>>()
    };
    // No request of it was seen: what is written, whole.
    let told = explain("/costly");
    assert_eq!(told["code"], Value::Null, "five of the quota, one of each rate: {told}");
    assert_eq!(
        left(&told),
        ["concurrency concurrency 1", "rate client 3", "rate key 2", "quota client.day 9"],
        "{told}"
    );
    assert_eq!(fetch(bench.setup.data, "/costly", &[&header]).status, 200);
    // Now as this process counts.
    eventually("its place is free", || left(&explain("/"))[0] == "concurrency concurrency 1");
    assert_eq!(left(&explain("/"))[1..], ["rate client 2", "rate key 1", "quota client.day 4"]);
    let told = explain("/costly");
    assert_eq!(told["code"], code_of(&fetch(bench.setup.data, "/costly", &[&header])), "{told}");
    assert_eq!(told["code"], "quota_exhausted", "{told}");
    // A key that changed is looked up anew by its next request; what it spent is still spent.
    bench.setup.json(&["key", "update", &key.id, "--scope", "a"]);
    for _ in 0..15 {
        assert_eq!(left(&explain("/"))[1..], ["rate client 2", "rate key 1", "quota client.day 4"]);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // A key that was not seen yet, of a client that was: what the client spent is known.
    let fresh = bench.setup.key(&bench.client, &[]);
    let asked = json!({"method": "GET", "url": "/", "key_id": fresh.public_id});
    let told = bench.with(&auditor, "POST", "/v1/explain", &asked).json();
    assert_eq!(left(&told), ["concurrency concurrency 1", "rate client 2", "quota client.day 4"], "{told}");
    // A route that only observes refuses nothing.
    let told = explain("/trial");
    assert_eq!((&told["code"], &told["status"]), (&Value::Null, &Value::Null), "{told}");
    let verdict = told["verdict"].as_str().unwrap();
    assert!(verdict.contains("which only observes; enforced, it is refused with 403 insufficient_scope"), "{told}");
    assert_eq!(fetch(bench.setup.data, "/trial", &[&header]).status, 200);
    // The only place is taken.
    let mut stream = connect(bench.setup.data);
    write!(stream, "GET /stream HTTP/1.1\r\nHost: h\r\nX-API-Key: {}\r\n\r\n", key.raw).unwrap();
    read_head(&mut stream);
    let told = explain("/");
    assert_eq!(told["code"], code_of(&fetch(bench.setup.data, "/", &[&header])), "{told}");
    assert!(told["verdict"].as_str().unwrap().contains("all places are taken (1 open at once)"), "{told}");
}

#[test]
fn a_request_whose_id_a_trusted_proxy_made_is_found_by_it() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    setup.write_config(&setup.config().replace("workers = 2", "workers = 2\ntrusted_proxies = [\"127.0.0.1\"]"));
    let bench = Bench::start(setup);
    let (auditor, support) = (bench.token("auditor"), bench.token("support"));
    let key = |client: &str| format!("X-API-Key: {}", bench.setup.key(client, &[]).raw);
    for (client, id) in [(&bench.client, "from-nginx-1"), (&bench.other, "from-nginx-2")] {
        let answer = fetch(bench.setup.data, "/", &[&key(client), &format!("X-Request-Id: {id}")]);
        assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(id)));
    }
    let story = |token: &str, id: &str| bench.with(token, "GET", &format!("/v1/requests/{id}"), &Value::Null);
    eventually("both are in the books", || story(&auditor, "from-nginx-2").status == 200);
    assert_eq!(story(&auditor, "from-nginx-1").json()["event"]["client_id"], *bench.client);
    assert_eq!(story(&support, "from-nginx-1").status, 200);
    refused(&story(&support, "from-nginx-2"), 404, "not_found");
    let line =
        text(&bench.setup.octroi(&["--output", "json", "usage", "events", "--request-id", "from-nginx-1"]).stdout);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains("from-nginx-1"), "{line}");
}
