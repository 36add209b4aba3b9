//! The admin API over HTTP: the real program, and what it answers to whom.

use serde_json::{Value, json};

use crate::callers::{Answer, fetch, send};
use crate::database::TestDatabase;
use crate::harness::{Gateway, Setup, eventually, text};
use crate::upstream::Upstream;
use afar::{both_ways, from_afar, remote, remotely, remotely_as, told};

mod afar;
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
mod roles;
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
