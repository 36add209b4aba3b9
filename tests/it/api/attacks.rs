//! What strangers, clients and thieves try on the admin listener.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, PASSWORD, refused};
use crate::callers::{fetch, raw};
use crate::database::TestDatabase;
use crate::harness::{Setup, eventually, text};
use crate::upstream::Upstream;

/// A request whose `Host` is what a test says.
fn under_name(bench: &Bench, host: &str, request: &str, headers: &str, body: &str) -> u16 {
    let mut stream = TcpStream::connect(bench.setup.admin).unwrap();
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}

#[test]
fn a_stranger_s_name_that_leads_here_opens_no_page_of_ours() {
    let bench = Bench::sqlite();
    let token = format!("Authorization: Bearer {}\r\n", bench.token("auditor"));
    let login = json!({"name": "admin", "password": PASSWORD}).to_string();
    let (evil, own) = ("evil.example:8081", bench.setup.admin.to_string());
    for (host, request, headers, body, status) in [
        (own.as_str(), "POST /v1/sessions", "", login.as_str(), 201),
        (evil, "POST /v1/sessions", "", &login, 403),
        (evil, "POST /v1/sessions", "Authorization: x\r\n", &login, 403),
        (evil, "POST /v1/sessions", &token, &login, 403),
        (evil, "GET /login", &token, "", 403),
        (evil, "GET /docs", &token, "", 403),
        (evil, "GET /metrics", "", "", 403),
        (&own, "GET /metrics", "", "", 200),
        (evil, "GET /livez", "", "", 200),
        // A program may use whatever name leads here.
        (evil, "GET /v1/clients", &token, "", 200),
        (evil, "GET /v1/clients", "Authorization: Bearer x\r\n", "", 401),
    ] {
        assert_eq!(under_name(&bench, host, request, headers, body), status, "{host} {request} {headers}");
    }
    // No browser leaves the name out.
    let scraped = text(&raw(bench.setup.admin, b"GET /metrics HTTP/1.0\r\n\r\n"));
    assert!(scraped.starts_with("HTTP/1.0 200"), "{scraped}");
}

#[test]
fn a_body_that_does_not_come_gives_its_place_back() {
    let bench = Bench::sqlite();
    let began = Instant::now();
    let silent: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(bench.setup.admin).unwrap();
            let head = "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
            // One of those too many is closed before it is read.
            let _ = stream.write_all(head.as_bytes());
            stream
        })
        .collect();
    eventually("the probe is answered again", || {
        let Ok(mut stream) = TcpStream::connect(bench.setup.admin) else { return false };
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    });
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(silent);
}

#[test]
fn a_write_whose_caller_went_away_is_done_and_answered_when_it_is_sent_again() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    for number in 0..20 {
        let body = json!({"name": format!("client {number}")}).to_string();
        let head = format!(
            "POST /v1/clients HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {owner}\r\nIdempotency-Key: {number}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(bench.setup.admin).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_micros(number * 300));
        drop(stream);
        let headers = [format!("authorization: Bearer {owner}"), format!("idempotency-key: {number}")];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let again = || bench.ask("POST", "/v1/clients", &headers, &serde_json::from_str(&body).unwrap());
        eventually("it is answered", || again().status == 201);
        let found = bench.with(&owner, "GET", &format!("/v1/clients?name=client%20{number}"), &Value::Null).json();
        assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
    }
}

#[test]
fn who_watches_is_asked_again_whether_it_may() {
    let bench = Bench::sqlite();
    let made = bench.setup.json(&["admin", "token", "create", "watcher", "--role", "auditor"]);
    let key = format!("X-API-Key: {}", bench.setup.key(&bench.client, &[]).raw);
    let mut stream = TcpStream::connect(bench.setup.admin).unwrap();
    let token = made["token"].as_str().unwrap();
    write!(stream, "GET /v1/tail HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n").unwrap();
    let mut read = [0; 4096];
    assert!(stream.read(&mut read).unwrap() > 0);
    bench.setup.json(&["admin", "token", "revoke", made["id"].as_str().unwrap()]);
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    eventually("it ends", || {
        fetch(bench.setup.data, "/", &[&key]);
        let mut last = vec![0; 65_536];
        stream.read(&mut last).is_ok_and(|length| length == 0 || last[..length].ends_with(b"0\r\n\r\n"))
    });
}

#[test]
fn the_pepper_alone_opens_nothing() {
    let bench = Bench::sqlite();
    // The command line is believed, because it can read what the gateway left in its folder …
    assert!(bench.setup.octroi(&["refusals"]).status.success());
    let secret = bench.setup.path("shell.secret");
    let kept = std::fs::read(&secret).unwrap();
    // … and is not without it, though it has the pepper.
    std::fs::write(&secret, [7; 32]).unwrap();
    let lost = bench.setup.octroi(&["refusals"]);
    assert!(
        !lost.status.success() && text(&lost.stderr).contains("does not believe this command"),
        "{}",
        text(&lost.stderr)
    );
    std::fs::remove_file(&secret).unwrap();
    let lost = bench.setup.octroi(&["refusals"]);
    assert_eq!(lost.status.code(), Some(69));
    assert!(text(&lost.stderr).contains("shell.secret"), "{}", text(&lost.stderr));
    std::fs::write(&secret, kept).unwrap();
}

#[test]
fn a_password_that_changes_ends_every_session_and_begins_one() {
    let bench = Bench::sqlite();
    let (thief, own) = (bench.sign_in(), bench.sign_in());
    let cookie = format!("cookie: {own}");
    let origin = format!("origin: http://{}", bench.setup.admin);
    let new = "another correct horse battery";
    let change = json!({"present": PASSWORD, "new": new});
    let answer = bench.ask("PUT", "/v1/sessions/current/password", &[&cookie, &origin], &change);
    assert_eq!(answer.status, 204, "{answer:?}");
    let fresh = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let status =
        |cookie: &str| bench.ask("GET", "/v1/sessions/current", &[&format!("cookie: {cookie}")], &Value::Null).status;
    assert_eq!((status(&fresh), status(&own), status(&thief)), (200, 401, 401));
}

#[test]
fn no_text_has_a_zero_and_no_fault_repeats_a_name_that_may_be_a_key() {
    let database = TestDatabase::create();
    let upstream = Upstream::start();
    let postgres = Setup::new(upstream.address, &database.url(), "");
    for bench in [Bench::start(Setup::sqlite(upstream.address)), Bench::start(postgres)] {
        let owner = bench.token("owner");
        for path in
            ["/v1/keys?key_id=a%00b", "/v1/clients?name=%00", "/v1/usage/events?route=%00", "/v1/audit?actor=%00"]
        {
            refused(&bench.with(&owner, "GET", path, &Value::Null), 400, "bad_request");
        }
        let raw = bench.setup.key(&bench.client, &[]).raw;
        let asked = bench.with(&owner, "GET", &format!("/v1/keys?{raw}=1"), &Value::Null);
        let body = bench.with(&owner, "POST", "/v1/clients", &json!({ raw.as_str(): 1 }));
        for answer in [asked, body] {
            assert_eq!(answer.status, 400);
            assert!(!text(&answer.body).contains(&raw), "{answer:?}");
        }
        let zero = bench.with(&owner, "POST", "/v1/clients", &json!({"name": "z", "metadata": {"a": "\u{0}"}}));
        refused(&zero, 400, "bad_request");
    }
}
