//! The admin API over HTTP: the real program, and what it answers to whom.

use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::callers::{Answer, fetch, send};
use crate::database::TestDatabase;
use crate::harness::{Gateway, Setup, eventually, text};
use crate::upstream::Upstream;

mod apply;
mod attacks;
mod backfill;
mod books;
mod explain;
mod imports;
mod people;
mod peppers;
mod proxied;
mod reports;
mod sessions;
mod updates;

const PASSWORD: &str = "correct horse battery staple";
const SECRET: &str = "a-secret-that-signs-sessions-and-has-more-than-32-bytes";

/// A gateway with its admin API, and a token of each role.
struct Bench {
    setup: Setup,
    gateway: Gateway,
    _upstream: Option<Upstream>,
    client: String,
    other: String,
}

impl Bench {
    fn start(mut setup: Setup) -> Self {
        setup.set("JWT_SECRET", SECRET);
        setup.set("OCTROI_ADMIN_PASSWORD", PASSWORD);
        let (client, other) = (setup.client(&["acme"]), setup.client(&["globex"]));
        let gateway = setup.start();
        Self { setup, gateway, _upstream: None, client, other }
    }

    fn sqlite() -> Self {
        let upstream = Upstream::start();
        let bench = Self::start(Setup::sqlite(upstream.address));
        Self { _upstream: Some(upstream), ..bench }
    }

    fn token(&self, role: &str) -> String {
        let clients: &[&str] = if matches!(role, "support" | "client") { &["--client", &self.client] } else { &[] };
        let made = self.setup.json(&[&["admin", "token", "create", role, "--role", role], clients].concat());
        made["token"].as_str().expect("shown once").to_owned()
    }

    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut all = headers.to_vec();
        if !body.is_null() {
            all.push("content-type: application/json");
        }
        send(self.setup.admin, method, path, &all, text.as_bytes())
    }

    /// As whoever holds this token.
    fn with(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        self.ask(method, path, &[&format!("authorization: Bearer {token}")], body)
    }

    /// Signs in; the cookie.
    fn sign_in(&self) -> String {
        let answer = self.ask("POST", "/v1/sessions", &[], &json!({"name": "admin", "password": PASSWORD}));
        assert_eq!(answer.status, 201, "{answer:?}");
        let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
        cookie.split(';').next().expect("a pair").to_owned()
    }
}

fn problem(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    (answer.status, answer.json()["code"].as_str().expect("a code").to_owned())
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(problem(answer), (status, code.to_owned()), "{answer:?}");
}

#[test]
fn what_a_program_does_over_http_is_what_the_command_line_shows() {
    let database = TestDatabase::create();
    let upstream = Upstream::start();
    let postgres = Setup::new(upstream.address, &database.url(), "");
    for bench in [Bench::start(Setup::sqlite(upstream.address)), Bench::start(postgres)] {
        let owner = bench.token("owner");
        let plan = bench.with(
            &owner,
            "POST",
            "/v1/plans",
            &json!({
                "name": "gold", "policies": [{"name": "gold", "rate": "50/s"}], "concurrency": 7,
            }),
        );
        assert_eq!(plan.status, 201, "{plan:?}");
        let plan = plan.json();
        let made = bench.with(
            &owner,
            "POST",
            "/v1/clients",
            &json!({
                "name": "initech", "rate": "5/s", "burst": 9, "quota": "100/day", "plan_id": plan["id"],
                "metadata": {"crm": 7},
            }),
        );
        assert_eq!(made.status, 201, "{made:?}");
        let id = made.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(bench.setup.json(&["client", "show", &id]), made.json());
        assert_eq!(bench.setup.json(&["plan", "show", "gold"]), plan);
        let key = bench.with(
            &owner,
            "POST",
            &format!("/v1/clients/{id}/keys"),
            &json!({
                "name": "laptop", "scopes": ["a:read"], "rate": "3/s", "allowed_addresses": ["127.0.0.0/8"],
            }),
        );
        assert_eq!(key.status, 201, "{key:?}");
        let mut key = key.json();
        let raw = key.as_object_mut().unwrap().remove("key").unwrap();
        assert_eq!(bench.setup.json(&["key", "show", key["id"].as_str().unwrap()]), key);
        let header = format!("X-API-Key: {}", raw.as_str().unwrap());
        assert_eq!(fetch(bench.setup.data, "/", &[&header]).status, 200);
        // What stands beside a key changes, and is in force.
        let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
        let changed = bench.with(&owner, "PATCH", &path, &json!({"allowed_addresses": ["192.0.2.0/24"], "rate": null}));
        assert_eq!((changed.status, &changed.json()["rate"]), (200, &Value::Null), "{changed:?}");
        eventually("the new addresses are in force", || fetch(bench.setup.data, "/", &[&header]).status == 403);
        let rotated = bench.with(&owner, "POST", &format!("{path}/rotate"), &json!({"grace": "0s"}));
        assert_eq!(rotated.status, 201, "{rotated:?}");
        assert_eq!(bench.with(&owner, "POST", &format!("{path}/rotate"), &json!({})).status, 409);
        let successor = format!("/v1/keys/{}", rotated.json()["id"].as_str().unwrap());
        assert_eq!(bench.with(&owner, "DELETE", &successor, &Value::Null).status, 200);
        let suspended = bench.with(&owner, "PATCH", &format!("/v1/clients/{id}"), &json!({"status": "suspended"}));
        assert_eq!(suspended.json()["status"], "suspended");
        let audit = bench.with(&owner, "GET", &format!("/v1/audit?client={id}"), &Value::Null).json();
        let actions: Vec<_> =
            audit["items"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
        assert_eq!(
            actions,
            ["client.suspend", "key.revoke", "key.create", "key.rotate", "key.update", "key.create", "client.create"]
        );
        assert!(audit["items"].as_array().unwrap().iter().all(|row| row["actor_kind"] == "token"));
        assert!(!audit.to_string().contains(raw.as_str().unwrap()));
        eventually("an event shows", || {
            let sums = bench.with(&owner, "GET", &format!("/v1/usage?client={id}&by=route"), &Value::Null).json();
            sums["items"][0]["requests"].as_u64().is_some_and(|requests| requests >= 1)
        });
        let events = bench.with(&owner, "GET", &format!("/v1/usage/events?client={id}"), &Value::Null).json();
        let event = events["items"][0]["id"].as_str().unwrap();
        let one = bench.with(&owner, "GET", &format!("/v1/usage/events/{event}"), &Value::Null).json();
        assert_eq!(one, events["items"][0]);
    }
}

/// Of each row: method, path, and who may. `C` is the client that support and client tokens are for, `O`
/// another one.
const ROWS: &[(&str, &str, &str)] = &[
    ("GET", "/v1/clients", "owner operator auditor support client"),
    ("POST", "/v1/clients", "owner operator"),
    ("GET", "/v1/clients/C", "owner operator auditor support client"),
    ("GET", "/v1/clients/O", "owner operator auditor"),
    ("PATCH", "/v1/clients/C", "owner operator"),
    ("POST", "/v1/clients/N/erase", "owner"),
    ("GET", "/v1/clients/C/keys", "owner operator auditor support client"),
    ("GET", "/v1/clients/O/keys", "owner operator auditor"),
    ("POST", "/v1/clients/C/keys", "owner operator support client"),
    ("POST", "/v1/clients/O/keys", "owner operator"),
    ("GET", "/v1/keys", "owner operator auditor support client"),
    ("GET", "/v1/keys/N", "owner operator auditor support client"),
    ("PATCH", "/v1/keys/N", "owner operator support client"),
    ("DELETE", "/v1/keys/N", "owner operator support client"),
    ("POST", "/v1/keys/N/rotate", "owner operator support client"),
    ("POST", "/v1/keys/verify", "owner operator auditor support client"),
    ("POST", "/v1/keys/import", "owner operator"),
    ("GET", "/v1/backfill", "owner"),
    ("POST", "/v1/backfill/run", "owner"),
    ("GET", "/v1/backfill/differences", "owner"),
    ("POST", "/v1/backfill/finish", "owner"),
    ("GET", "/v1/plans", "owner operator auditor"),
    ("POST", "/v1/plans", "owner operator"),
    ("GET", "/v1/plans/N", "owner operator auditor"),
    ("PATCH", "/v1/plans/N", "owner operator"),
    ("GET", "/v1/plans/N/replay?client=O", "owner operator auditor"),
    ("GET", "/v1/quota-marks", "owner operator auditor support client"),
    ("GET", "/v1/usage", "owner operator auditor support client"),
    ("GET", "/v1/usage?client=O", "owner operator auditor"),
    ("GET", "/v1/usage/events", "owner operator auditor support client"),
    ("GET", "/v1/usage/events/N", "owner operator auditor support client"),
    ("GET", "/v1/usage/months/2020-01", "owner operator auditor support client"),
    ("POST", "/v1/usage/months/2999-01/close", "owner operator"),
    ("GET", "/v1/usage/months/2020-01/statements/C", "owner operator auditor support client"),
    ("GET", "/v1/usage/months/2020-01/statements/O", "owner operator auditor"),
    ("GET", "/v1/usage/reconcile", "owner operator auditor"),
    ("POST", "/v1/usage/reconcile", "owner operator"),
    ("POST", "/v1/usage/redrain", "owner operator"),
    ("GET", "/v1/refusals", "owner operator auditor support client"),
    ("POST", "/v1/explain", "owner operator auditor support"),
    ("GET", "/v1/requests/x", "owner operator auditor support"),
    ("GET", "/v1/audit", "owner operator auditor"),
    ("GET", "/v1/operators", "owner"),
    ("POST", "/v1/operators", "owner"),
    ("GET", "/v1/operators/N", "owner"),
    ("PATCH", "/v1/operators/N", "owner"),
    ("PUT", "/v1/operators/N/password", "owner"),
    ("DELETE", "/v1/operators/N/sessions", "owner"),
    ("GET", "/v1/tokens", "owner"),
    ("POST", "/v1/tokens", "owner"),
    ("GET", "/v1/tokens/N", "owner"),
    ("DELETE", "/v1/tokens/N", "owner"),
    ("GET", "/v1/config", "owner operator auditor"),
    ("GET", "/v1/nodes", "owner operator auditor"),
    ("GET", "/v1/live", "owner operator auditor"),
    ("GET", "/v1/tail?seconds=1", "owner operator auditor support client"),
    ("GET", "/v1/peppers", "owner operator auditor"),
    ("GET", "/v1/migrations", "owner operator auditor"),
];

/// Rows for whoever is known, or for all.
const OTHER_ROWS: &[(&str, &str)] = &[
    ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions"),
    ("GET", "/v1/sessions/current"),
    ("DELETE", "/v1/sessions/current"),
    ("PUT", "/v1/sessions/current/password"),
];

#[test]
fn each_role_may_what_its_row_says_and_nothing_else() {
    let bench = Bench::sqlite();
    let nobody = "00000000-0000-4000-8000-000000000000";
    for role in ["owner", "operator", "auditor", "support", "client"] {
        let token = bench.token(role);
        for (method, path, may) in ROWS {
            let path = path.replace("/C", &format!("/{}", bench.client)).replace("=O", &format!("={}", bench.other));
            let path = path.replace("/O", &format!("/{}", bench.other)).replace("/N", &format!("/{nobody}"));
            let body = if *method == "GET" || *method == "DELETE" { Value::Null } else { json!({}) };
            let answer = bench.with(&token, method, &path, &body);
            let may = may.split(' ').any(|other| other == role);
            // Who may is answered, or told that something is not there or makes no sense.
            let is_confined = matches!(role, "support" | "client");
            let is_shut_out =
                answer.status == 403 || (is_confined && answer.status == 404 && path.contains(&bench.other));
            assert_eq!(!is_shut_out, may, "{role} {method} {path}: {answer:?}");
            assert_ne!(answer.status, 401);
        }
    }
    // The table above has every row of the description.
    let document = bench.ask("GET", "/openapi.json", &[], &Value::Null).json();
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.push((method.to_uppercase(), path.clone()));
        }
    }
    let shape = |path: &str| {
        let path = path.split('?').next().unwrap();
        let parts = path.split('/').map(|part| match part {
            "C" | "O" | "N" | "x" | "2020-01" | "2999-01" => "{}",
            part if part.starts_with('{') => "{}",
            part => part,
        });
        parts.collect::<Vec<_>>().join("/")
    };
    for (method, path) in described {
        let tabled = ROWS.iter().map(|(method, path, _)| (*method, *path)).chain(OTHER_ROWS.iter().copied());
        let is_tabled = tabled.into_iter().any(|(other, row)| other == method && shape(row) == shape(&path));
        assert!(is_tabled, "{method} {path} is in no table of who may");
    }
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
fn a_write_that_is_sent_twice_is_done_once() {
    let bench = Bench::sqlite();
    let token = bench.token("owner");
    let bearer = format!("authorization: Bearer {token}");
    let path = format!("/v1/clients/{}/keys", bench.client);
    let send = |key: &str, body: &Value| bench.ask("POST", &path, &[&bearer, &format!("idempotency-key: {key}")], body);
    let first = send("one", &json!({"name": "laptop"}));
    let again = send("one", &json!({"name": "laptop"}));
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert!(first.json()["key"].is_string() && again.json().get("key").is_none(), "a key is shown once");
    refused(&send("one", &json!({"name": "another"})), 422, "idempotency_mismatch");
    // What was refused changed nothing, and may be tried anew.
    assert_eq!(send("two", &json!({"name": ""})).status, 400);
    assert_eq!(send("two", &json!({"name": "phone"})).status, 201);
    let keys = bench.with(&token, "GET", &path, &Value::Null).json();
    assert_eq!(keys["items"].as_array().unwrap().len(), 2);
}

#[test]
fn an_update_of_what_changed_meanwhile_is_refused() {
    let bench = Bench::sqlite();
    let token = bench.token("operator");
    let bearer = format!("authorization: Bearer {token}");
    let path = format!("/v1/clients/{}", bench.client);
    let seen = bench.with(&token, "GET", &path, &Value::Null);
    let tag = seen.header("etag").expect("an ETag").to_owned();
    let change = |tag: &str, rate: &str| {
        bench.ask("PATCH", &path, &[&bearer, &format!("if-match: {tag}")], &json!({"rate": rate}))
    };
    let changed = change(&tag, "7/s");
    assert_eq!((changed.status, &changed.json()["rate"]), (200, &"7/s".into()));
    refused(&change(&tag, "8/s"), 412, "precondition_failed");
    assert_eq!(change(changed.header("etag").unwrap(), "8/s").status, 200);
    assert_eq!(change("*", "9/s").status, 200);
}

#[test]
fn lists_go_on_where_the_page_before_ended() {
    let bench = Bench::sqlite();
    let token = bench.token("auditor");
    (0..5).for_each(|number| drop(bench.setup.client(&[&format!("client {number}")])));
    let mut names = Vec::new();
    let mut path = "/v1/clients?limit=3".to_owned();
    loop {
        let page = bench.with(&token, "GET", &path, &Value::Null).json();
        names
            .extend(page["items"].as_array().unwrap().iter().map(|client| client["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/clients?limit=3&after={next}");
    }
    assert_eq!(names, ["acme", "globex", "client 0", "client 1", "client 2", "client 3", "client 4"]);
    for (query, code) in [
        ("limit=0", "bad_request"),
        ("limit=1001", "bad_request"),
        ("limit=x", "bad_request"),
        ("colour=1", "bad_request"),
    ] {
        refused(&bench.with(&token, "GET", &format!("/v1/clients?{query}"), &Value::Null), 400, code);
    }
}

#[test]
fn a_client_s_token_manages_its_own_keys() {
    let bench = Bench::sqlite();
    let token = bench.token("client");
    let keys = format!("/v1/clients/{}/keys", bench.client);
    // The first comes from an operator: it says how far the others go.
    refused(&bench.with(&token, "POST", &keys, &json!({"name": "mine"})), 403, "forbidden");
    let first = bench.setup.key(&bench.client, &["--scope", "orders:read", "--allow", "127.0.0.0/8"]);
    let within = json!({"name": "mine", "scopes": ["orders:read"], "allowed_addresses": ["127.0.0.1"]});
    let made = bench.with(&token, "POST", &keys, &within);
    assert_eq!(made.status, 201, "{made:?}");
    let raw = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(fetch(bench.setup.data, "/", &[&format!("X-API-Key: {raw}")]).status, 200);
    let own_key = format!("/v1/keys/{}", made.json()["id"].as_str().unwrap());
    for wider in [
        json!({"scopes": ["orders:read", "orders:admin"]}),
        json!({"scopes": ["*"]}),
        json!({"allowed_addresses": []}),
        json!({"allowed_addresses": ["0.0.0.0/0"]}),
    ] {
        refused(&bench.with(&token, "PATCH", &own_key, &wider), 403, "forbidden");
        refused(&bench.with(&token, "POST", &keys, &wider), 403, "forbidden");
    }
    assert_eq!(bench.with(&token, "PATCH", &own_key, &json!({"scopes": [], "name": "narrow"})).status, 200);
    assert_eq!(bench.with(&token, "POST", &format!("{own_key}/rotate"), &json!({"grace": "0s"})).status, 201);
    let foreign = bench.setup.key(&bench.other, &[]);
    refused(&bench.with(&token, "DELETE", &format!("/v1/keys/{}", foreign.id), &Value::Null), 404, "not_found");
    refused(&bench.with(&token, "GET", &format!("/v1/keys?after={}", foreign.id), &Value::Null), 400, "bad_request");
    refused(&bench.with(&token, "GET", &format!("/v1/clients/{}", bench.other), &Value::Null), 404, "not_found");
    let own = bench.with(&token, "GET", "/v1/keys", &Value::Null).json();
    assert_eq!(own["items"].as_array().unwrap().len(), 3, "{own}");
    let seen = bench.with(&token, "GET", "/v1/clients", &Value::Null).json();
    assert_eq!(seen["items"].as_array().unwrap().len(), 1, "{seen}");
    // A suspended client only gives keys back.
    bench.setup.json(&["client", "suspend", &bench.client]);
    refused(&bench.with(&token, "POST", &keys, &within), 403, "forbidden");
    assert_eq!(bench.with(&token, "DELETE", &format!("/v1/keys/{}", first.id), &Value::Null).status, 200);
}

#[test]
fn what_goes_on_can_be_watched() {
    let bench = Bench::sqlite();
    let token = bench.token("owner");
    let key = bench.setup.key(&bench.client, &[]);
    let other = bench.setup.key(&bench.other, &[]);
    let (admin, client) = (bench.setup.admin, bench.client.clone());
    let watch = std::thread::spawn(move || {
        let bearer = format!("authorization: Bearer {token}");
        send(admin, "GET", &format!("/v1/tail?client={client}&limit=2"), &[&bearer], b"")
    });
    eventually("it watches", || {
        for key in [&key, &other, &key] {
            fetch(bench.setup.data, "/watched?secret=1", &[&format!("X-API-Key: {}", key.raw)]);
        }
        watch.is_finished()
    });
    let answer = watch.join().unwrap();
    let lines: Vec<Value> = text(&answer.body).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert_eq!(
            (&line["client_id"], &line["path"], &line["status"]),
            (&bench.client.as_str().into(), &"/watched".into(), &200.into())
        );
    }
}

#[test]
fn the_description_that_is_committed_is_the_one_that_is_served() {
    let bench = Bench::sqlite();
    let served = bench.ask("GET", "/openapi.json", &[], &Value::Null).json();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let pretty = format!("{}\n", serde_json::to_string_pretty(&served).unwrap());
    if std::env::var_os("OCTROI_WRITE_OPENAPI").is_some() {
        std::fs::write(&file, &pretty).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == pretty, "docs/openapi.json is not what is served: run the tests with OCTROI_WRITE_OPENAPI=1");
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
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

/// Runs a command against the admin API, from a folder without any settings.
fn remotely(bench: &Bench, token: &str, arguments: &[&str]) -> Output {
    remotely_as("json", bench, token, arguments)
}

fn remotely_as(form: &str, bench: &Bench, token: &str, arguments: &[&str]) -> Output {
    from_afar_as(form, bench, token, arguments).output().expect("the binary runs")
}

fn from_afar(bench: &Bench, token: &str, arguments: &[&str]) -> Command {
    from_afar_as("json", bench, token, arguments)
}

fn from_afar_as(form: &str, bench: &Bench, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octroi"));
    command
        .args(["--server", &format!("http://{}", bench.setup.admin), "--output", form])
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .env("OCTROI_ADMIN_TOKEN", token);
    command
}

/// What a command comes to that reads `input`: its exit code, its answer, and the code of its failure.
fn told(mut command: Command, input: &str) -> (i32, Value, Value) {
    use std::io::Write as _;
    let piped = std::process::Stdio::piped;
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().expect("the binary runs");
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let code = output.status.code().expect("it exits");
    assert!(code == 0 || output.stderr.starts_with(b"{"), "{}", text(&output.stderr));
    (code, read(&output.stdout), read(&output.stderr)["code"].clone())
}

/// The same command beside the store and from afar: it must come to the same.
fn both_ways(bench: &Bench, token: &str, arguments: &[&str], input: &str) -> (i32, Value, Value) {
    let afar = told(from_afar(bench, token, arguments), input);
    let beside = told(bench.setup.command(&[&["--output", "json"], arguments].concat()), input);
    assert_eq!(afar, beside, "{arguments:?}");
    afar
}

fn remote(bench: &Bench, token: &str, arguments: &[&str]) -> Value {
    let output = remotely(bench, token, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
fn the_command_line_works_from_afar_as_it_does_beside_the_store() {
    let bench = Bench::sqlite();
    let owner = bench.token("owner");
    let plan = remote(&bench, &owner, &["plan", "create", "gold", "--rate", "5/s", "--quota", "100/day"]);
    assert_eq!(plan, bench.setup.json(&["plan", "show", "gold"]));
    let client = remote(&bench, &owner, &["client", "create", "initech", "--plan", "gold", "--concurrency", "3"]);
    let id = client["id"].as_str().unwrap();
    assert_eq!(client, bench.setup.json(&["client", "show", "initech"]));
    remote(&bench, &owner, &["client", "update", "initech", "--rate", "7/s", "--plan", "none"]);
    assert_eq!(remote(&bench, &owner, &["client", "show", id]), bench.setup.json(&["client", "show", id]));
    let key = remote(&bench, &owner, &["key", "create", "initech", "--scope", "a", "--expires", "1h"]);
    let raw = key["key"].as_str().unwrap();
    assert_eq!(fetch(bench.setup.data, "/", &[&format!("X-API-Key: {raw}")]).status, 200);
    let key_id = key["key_id"].as_str().unwrap();
    // Beside the store and from afar in turn: the same command, the same key.
    for (change, member, value) in [
        (["--name", "desk"].as_slice(), "name", json!("desk")),
        (&["--scope", "b", "--scope", "c"], "scopes", json!(["b", "c"])),
        (&["--no-scopes"], "scopes", json!([])),
        (&["--rate", "5/s", "--burst", "7"], "burst", json!(7)),
        (&["--rate", "none"], "burst", Value::Null),
        (&["--allow", "127.0.0.0/8"], "allowed_addresses", json!(["127.0.0.0/8"])),
        (&["--allow-all"], "allowed_addresses", json!([])),
        (&["--expires", "never"], "expires_at", Value::Null),
    ] {
        let command = [&["key", "update", key_id], change].concat();
        assert_eq!(remote(&bench, &owner, &command)[member], value, "{command:?}");
        assert_eq!(bench.setup.json(&command)[member], value, "{command:?}");
    }
    assert_eq!(bench.setup.octroi(&["key", "update", key_id]).status.code(), Some(2), "nothing to change");
    let rotated = remote(&bench, &owner, &["key", "rotate", key_id, "--grace", "0s"]);
    remote(&bench, &owner, &["key", "revoke", rotated["key_id"].as_str().unwrap()]);
    for list in [
        ["client", "list"].as_slice(),
        &["key", "list"],
        &["key", "list", "initech"],
        &["plan", "list"],
        &["admin", "list"],
        &["plan", "marks"],
    ] {
        assert_eq!(remote(&bench, &owner, list), bench.setup.json(list), "{list:?}");
    }
    assert_eq!(
        remote(&bench, &owner, &["audit", "--client", "initech"]),
        bench.setup.json(&["audit", "--client", "initech"])
    );
    let suspended = remote(&bench, &owner, &["client", "suspend", "initech"]);
    assert_eq!(suspended["status"], "suspended");
    eventually("an event shows", || remote(&bench, &owner, &["usage"])["total"]["requests"] == 1);
    assert_eq!(
        remote(&bench, &owner, &["usage", "--by", "client,route"])["items"],
        bench.setup.json(&["usage", "--by", "client,route"])["items"]
    );
    // What goes wrong is told as it is beside the store.
    for (token, arguments, code, exit) in [
        (owner.as_str(), ["client", "show", "nobody"].as_slice(), "not_found", 1),
        (owner.as_str(), &["key", "verify"], "bad_usage", 2),
        (owner.as_str(), &["migrate", "up"], "bad_usage", 2),
        ("octroi_admin_nonsense", &["client", "list"], "invalid_credentials", 1),
        (&bench.token("auditor"), &["client", "create", "x"], "forbidden", 1),
    ] {
        let output = remotely(&bench, token, arguments);
        let told: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        assert_eq!((&told["code"], output.status.code()), (&code.into(), Some(exit)), "{arguments:?}: {told}");
    }
}

#[test]
fn a_file_says_how_things_should_be() {
    let bench = Bench::sqlite();
    let key = bench.setup.key(&bench.client, &["--name", "ci"]);
    std::fs::write(
        bench.setup.path("wanted.toml"),
        format!(
            "[[plans]]\nname = \"gold\"\npolicies = [{{ name = \"gold\", rate = \"5/s\" }}]\n\
             [[clients]]\nname = \"acme\"\nplan = \"gold\"\nmetadata = {{ crm = 7 }}\n\
             [[clients.keys]]\nkey_id = \"{}\"\nscopes = [\"a:read\"]\n\
             [[clients]]\nname = \"hooli\"\nquota = \"10/day\"\n",
            key.public_id
        ),
    )
    .unwrap();
    let difference = bench.setup.octroi(&["--output", "json", "diff", "wanted.toml"]);
    assert_eq!(difference.status.code(), Some(1), "{}", text(&difference.stderr));
    let told: Value = serde_json::from_slice(&difference.stdout).unwrap();
    let names: Vec<_> = told["items"].as_array().unwrap().iter().map(|deed| deed["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gold", "acme", key.public_id.as_str(), "hooli"]);
    assert_eq!(bench.setup.json(&["plan", "list"])["items"].as_array().unwrap().len(), 0, "nothing was done yet");
    bench.setup.json(&["apply", "wanted.toml"]);
    assert_eq!(bench.setup.json(&["diff", "wanted.toml"])["items"].as_array().unwrap().len(), 0);
    let client = bench.setup.json(&["client", "show", "acme"]);
    assert_eq!(client["metadata"], json!({"crm": 7}));
    assert_eq!(client["plan_id"], bench.setup.json(&["plan", "show", "gold"])["id"]);
    assert_eq!(bench.setup.json(&["key", "show", &key.id])["scopes"], json!(["a:read"]));
    assert_eq!(bench.setup.json(&["client", "show", "hooli"])["quota"], "10/day");
    // Whoever did it on this machine is in the audit.
    let audit = bench.setup.json(&["audit", "--action", "plan.create"]);
    assert_eq!(audit["items"][0]["actor_kind"], "shell");
    // What is wrong anywhere is told before anything is changed.
    for (clients, exit, told) in [
        ("name = \"acme\"\nrat = \"5/s\"", 2, "there is no `rat`; known are rate"),
        ("name = \"acme\"\nrate = \"10\"", 2, "acme: rate: "),
        ("name = \"acme\"\nquota = \"3/week\"", 2, "acme: quota: "),
        ("name = \"new\"\nstatus = \"frozen\"", 2, "write `active` or `suspended`"),
        ("name = \"new\"\n[[clients]]\nname = \"new\"", 2, "stands there twice"),
        ("name = \"new\"\nplan = \"nosuch\"", 1, "there is no plan `nosuch` for the client new"),
    ] {
        let file = format!("[[plans]]\nname = \"half\"\npolicies = []\n[[clients]]\n{clients}\n");
        std::fs::write(bench.setup.path("wrong.toml"), file).unwrap();
        for command in ["diff", "apply"] {
            let wrong = bench.setup.octroi(&[command, "wrong.toml"]);
            assert_eq!(wrong.status.code(), Some(exit), "{command} {clients}: {}", text(&wrong.stderr));
            assert!(text(&wrong.stderr).contains(told), "{command} {clients}: {}", text(&wrong.stderr));
        }
    }
    assert_eq!(bench.setup.json(&["plan", "list"])["items"].as_array().unwrap().len(), 1, "something was done");
    // A new client is made with its status, though its keys are still to be made.
    let file = "[[clients]]\nname = \"new\"\nstatus = \"suspended\"\nplan = \"gold\"\n[[clients.keys]]\nname = \"first\"\nscopes = [\"b\"]\n";
    std::fs::write(bench.setup.path("new.toml"), file).unwrap();
    let owing = bench.setup.octroi(&["apply", "new.toml"]);
    assert_eq!(owing.status.code(), Some(1));
    assert!(text(&owing.stderr).contains("still without keys: new"), "{}", text(&owing.stderr));
    let made = bench.setup.json(&["client", "show", "new"]);
    assert_eq!(made["status"], "suspended");
    let first = bench.setup.key("new", &["--name", "first"]);
    bench.setup.json(&["apply", "new.toml"]);
    assert_eq!(bench.setup.json(&["key", "show", &first.id])["scopes"], json!(["b"]));
    std::fs::write(bench.setup.path("less.toml"), "[[clients]]\nname = \"new\"\nplan = \"none\"\n").unwrap();
    bench.setup.json(&["apply", "less.toml"]);
    assert_eq!(bench.setup.json(&["client", "show", "new"])["plan_id"], Value::Null);
}
