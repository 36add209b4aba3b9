//! Sessions and tokens while they are used: in a store that takes no changes, and by pages that refresh
//! themselves.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, PASSWORD, SECRET, refused};
use crate::callers::send;
use crate::harness::{Setup, text};

fn database(bench: &Bench) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(bench.setup.path("octroi.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

/// As if every session had not been used for a while.
fn age_sessions(database: &rusqlite::Connection) {
    let long_ago = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-10 minutes')";
    let update = format!("UPDATE operator_sessions SET last_seen_at = {long_ago}");
    assert_eq!(database.execute(&update, []).unwrap(), 1);
}

#[test]
fn who_comes_while_nothing_can_be_written_may_still_look() {
    let bench = Bench::sqlite();
    let token = bench.token("owner");
    let cookie = format!("cookie: {}", bench.sign_in());
    let database = database(&bench);
    age_sessions(&database);
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    // Its first use, which would be noted.
    let answer = bench.with(&token, "GET", "/v1/clients", &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    for path in ["/v1/sessions/current", "/", "/clients"] {
        let answer = bench.ask("GET", path, &[&cookie], &Value::Null);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "sooner than the store gives up: {:?}", begun.elapsed());
    database.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn a_page_that_refreshes_itself_keeps_no_session_alive() {
    let bench = Bench::sqlite();
    let cookie = format!("cookie: {}", bench.sign_in());
    let database = database(&bench);
    age_sessions(&database);
    let seen = || -> String {
        database.query_row("SELECT last_seen_at FROM operator_sessions", [], |row| row.get(0)).unwrap()
    };
    let aged = seen();
    for path in ["/", "/refusals"] {
        assert_eq!(bench.ask("GET", path, &[&cookie, "x-octroi-refresh: 1"], &Value::Null).status, 200);
    }
    assert_eq!(seen(), aged, "nobody asked");
    assert_eq!(bench.ask("GET", "/", &[&cookie], &Value::Null).status, 200);
    assert!(seen() > aged, "a person did");
    let script = bench.ask("GET", "/assets/app.js", &[], &Value::Null);
    assert!(text(&script.body).contains("x-octroi-refresh"), "{script:?}");
}

#[test]
fn a_session_is_a_cookie_that_the_server_can_end() {
    let bench = Bench::sqlite();
    let origin = format!("origin: http://{}", bench.setup.admin);
    let answer = bench.ask("POST", "/v1/sessions", &[&origin], &json!({"name": "admin", "password": PASSWORD}));
    let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "off TLS no browser would keep it: {cookie}");
    let cookie = format!("cookie: {}", cookie.split(';').next().unwrap());
    let current = bench.ask("GET", "/v1/sessions/current", &[&cookie], &Value::Null);
    assert_eq!((current.status, &current.json()["role"]), (200, &"owner".into()));
    assert_eq!(bench.ask("GET", "/v1/sessions", &[&cookie], &Value::Null).json()["items"].as_array().unwrap().len(), 1);
    let left = bench.ask("DELETE", "/v1/sessions/current", &[&cookie, &origin], &Value::Null);
    assert_eq!(left.status, 204, "{left:?}");
    refused(&bench.ask("GET", "/v1/clients", &[&cookie], &Value::Null), 401, "invalid_credentials");
    refused(&bench.ask("GET", "/v1/clients", &[], &Value::Null), 401, "missing_credentials");
    // A signed-out text that is changed is no other's session either.
    let forged = cookie.replace('.', ".x");
    refused(&bench.ask("GET", "/v1/clients", &[&forged], &Value::Null), 401, "invalid_credentials");
}

#[test]
fn pages_of_strangers_change_nothing() {
    let bench = Bench::sqlite();
    let cookie = format!("cookie: {}", bench.sign_in());
    let own = format!("origin: http://{}", bench.setup.admin);
    let body = json!({"name": "made"});
    for (headers, passes) in [
        (vec![own.as_str()], true),
        (vec!["sec-fetch-site: same-origin"], true),
        (vec![own.as_str(), "sec-fetch-site: same-origin"], true),
        (vec![], false),
        (vec!["origin: https://evil.example"], false),
        (vec!["origin: null"], false),
        (vec![own.as_str(), "sec-fetch-site: cross-site"], false),
        (vec!["sec-fetch-site: same-site"], false),
        (vec!["origin: https://evil.example", "sec-fetch-site: same-origin"], false),
    ] {
        let all = [&[cookie.as_str()], headers.as_slice()].concat();
        let answer = bench.ask("POST", "/v1/clients", &all, &body);
        if passes {
            assert_eq!(answer.status, 201, "{headers:?}: {answer:?}");
        } else {
            refused(&answer, 403, "cross_site");
        }
    }
    // Nor is anybody signed in as somebody else.
    let login = json!({"name": "admin", "password": PASSWORD});
    refused(&bench.ask("POST", "/v1/sessions", &["origin: https://evil.example"], &login), 403, "cross_site");
    // A form of a page cannot send JSON, whatever it calls it.
    let forms = send(
        bench.setup.admin,
        "POST",
        "/v1/clients",
        &[&cookie, &own, "content-type: text/plain"],
        b"{\"name\":\"x\"}",
    );
    refused(&forms, 415, "unsupported_media_type");
    // A name that was made to lead here is not ours.
    let raw = crate::callers::raw(
        bench.setup.admin,
        format!("GET /v1/clients HTTP/1.1\r\nhost: evil.example\r\n{cookie}\r\nconnection: close\r\n\r\n").as_bytes(),
    );
    assert!(text(&raw).starts_with("HTTP/1.1 403"), "{}", text(&raw));
}

#[test]
fn guessing_passwords_gets_slow() {
    let bench = Bench::sqlite();
    let guess =
        |name: &str| bench.ask("POST", "/v1/sessions", &[], &json!({"name": name, "password": "not the password"}));
    let answers: Vec<_> = (0..7).map(|_| guess("admin")).collect();
    assert!(answers[..4].iter().all(|answer| answer.status == 401), "{answers:?}");
    let late = answers.last().unwrap();
    refused(late, 429, "too_many_failures");
    assert!(late.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().unwrap() >= 1), "{late:?}");
    assert_eq!(answers[0].json()["detail"], "the name or the password is wrong");
}

#[test]
fn off_loopback_it_speaks_tls_or_does_not_start() {
    let setup = Setup::sqlite(SocketAddr::from(([127, 0, 0, 1], 9)));
    let port = setup.admin.port();
    setup.write_config(
        &setup.config().replace(&format!("listen = \"{}\"", setup.admin), &format!("listen = \"0.0.0.0:{port}\"")),
    );
    let output = setup.octroi(&["config", "check", "--output", "json"]);
    assert_eq!(output.status.code(), Some(78));
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(problems["problems"][0]["path"], "admin.listen", "{problems}");
    assert!(problems["problems"][0]["remedy"].as_str().unwrap().contains("[admin.tls]"));
    // With a certificate it starts, and its cookies are the ones that only TLS carries.
    let authority = crate::authority::Authority::new(setup.folder(), "ca");
    authority.issue(setup.folder(), "admin", &["localhost"]);
    let mut setup = setup;
    setup.write_config(
        &setup
            .config()
            .replace("[telemetry]", "[admin.tls]\ncertificate = \"admin.pem\"\nkey = \"admin.key\"\n[telemetry]"),
    );
    setup.set("JWT_SECRET", SECRET);
    setup.set("OCTROI_ADMIN_PASSWORD", PASSWORD);
    let gateway = setup.spawn(&["serve"]);
    gateway.wait_for_log("\"serving\"");
    let answer = Command::new("curl")
        .args(["-sS", "-i", "--cacert", "ca.pem", "-H", "content-type: application/json", "-d"])
        .arg(json!({"name": "admin", "password": PASSWORD}).to_string())
        .arg(format!("https://localhost:{port}/v1/sessions"))
        .current_dir(setup.folder())
        .output()
        .expect("curl runs");
    let answer = text(&answer.stdout);
    assert!(answer.contains("set-cookie: __Host-octroi-session=") && answer.contains("; Secure"), "{answer}");
}
