//! Tokens that the gateway issues: who gets one, what it opens, and how it ends.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::books::Books;
use crate::callers::{Answer, fetch, send};
use crate::database::TestDatabase;
use crate::harness::{Gateway, Key, NO_BUDGET, Setup, eventually};
use crate::upstream::Upstream;

mod guesses;
mod published;
mod refresh;

/// 64 characters, as `openssl rand -hex 32` makes them.
const JWT_SECRET: &str = "5f0c2a7be1d94386a0b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f80917263";

/// A gateway that issues tokens, one client and its key.
struct Bench {
    upstream: Upstream,
    setup: Setup,
    client: String,
    key: Key,
    gateway: Gateway,
}

impl Bench {
    fn sqlite(issuer: &str) -> Self {
        Self::on("sqlite:octroi.db", issuer)
    }

    fn on(store_url: &str, issuer: &str) -> Self {
        Self::with(store_url, NO_BUDGET, issuer)
    }

    fn with(store_url: &str, failures: &str, issuer: &str) -> Self {
        let upstream = Upstream::start();
        let more = format!("{failures}[issuer]\n{issuer}\n");
        let mut setup = Setup::new(upstream.address, store_url, &more);
        setup.set("JWT_SECRET", JWT_SECRET);
        let client = setup.client(&["acme", "--rate", "100000/s", "--burst", "100000"]);
        let key = setup.key(&client, &["--scope", "orders:*", "--scope", "reports:read"]);
        let gateway = setup.start();
        Self { upstream, setup, client, key, gateway }
    }

    fn ask(&self, form: &str) -> Answer {
        self.post("/.octroi/token", &[&format!("X-API-Key: {}", self.key.raw)], form)
    }

    fn post(&self, path: &str, headers: &[&str], form: &str) -> Answer {
        let mut with_type = vec!["Content-Type: application/x-www-form-urlencoded"];
        with_type.extend(headers);
        send(self.setup.data, "POST", path, &with_type, form.as_bytes())
    }

    /// A token for the key, with what else is asked for.
    fn token(&self, more: &str) -> Value {
        let answer = self.ask(&format!("grant_type=client_credentials{more}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The same with a refresh token.
    fn family(&self) -> Value {
        self.family_of("")
    }

    fn family_of(&self, more: &str) -> Value {
        self.token(&format!("&scope=offline_access{more}"))
    }

    fn call(&self, token: &str) -> u16 {
        fetch(self.setup.data, "/orders", &[&format!("Authorization: Bearer {token}")]).status
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}

/// What a token says, unverified.
fn claims(token: &str) -> Value {
    part(token, 1)
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a token has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn basic(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

#[test]
fn a_key_is_exchanged_for_a_token_however_it_is_presented() {
    let bench = Bench::sqlite("");
    let (key, client) = (&bench.key.raw, &bench.client);
    let grant = "grant_type=client_credentials";
    for (what, header, form) in [
        ("the key's header", format!("X-API-Key: {key}"), grant.to_owned()),
        ("a bearer", format!("Authorization: Bearer {key}"), grant.to_owned()),
        ("a password of the client's name", basic("acme", key), grant.to_owned()),
        ("a password of the client's id", basic(client, key), grant.to_owned()),
        ("a password of the key's id", basic(&bench.key.public_id, key), grant.to_owned()),
        ("a password alone", basic("", key), grant.to_owned()),
        ("a parameter", "Accept: */*".to_owned(), format!("{grant}&client_id=acme&client_secret={key}")),
    ] {
        let answer = bench.post("/.octroi/token", &[&header], &form);
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        assert!(answer.header("ratelimit").is_some() && answer.header("x-request-id").is_some(), "{what}");
        let body = answer.json();
        assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(300)), "{what}");
        assert_eq!(body["scope"], "orders:* reports:read", "{what}");
        assert!(body.get("refresh_token").is_none(), "{what}");
        assert_eq!(bench.call(&text(&body["access_token"])), 200, "{what}");
    }
    assert!(!bench.gateway.log().contains(key.as_str()));
}

#[test]
fn a_token_says_what_the_contract_says_and_the_upstream_learns_it() {
    let bench = Bench::sqlite("");
    let token = text(&bench.token("&scope=orders:read")["access_token"]);
    assert_eq!(part(&token, 0), json!({ "typ": "at+jwt", "alg": "HS256" }));
    let claims = claims(&token);
    let (issued_at, jti) = (claims["iat"].as_i64().unwrap(), text(&claims["jti"]));
    assert_eq!(
        claims,
        json!({
            "iss": "octroi", "aud": "octroi", "sub": bench.client, "client_id": bench.client,
            "scope": "orders:read", "iat": issued_at, "exp": issued_at + 300, "jti": jti,
        })
    );
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, JWT_SECRET.as_bytes());
    hmac::verify(&secret, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();

    assert_eq!(bench.call(&token), 200);
    let seen = bench.upstream.last();
    let header =
        |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    assert_eq!(header("x-octroi-client-id"), bench.client);
    assert_eq!(header("x-octroi-key-id"), bench.key.public_id);
    assert_eq!(header("x-octroi-subject"), bench.client);
    assert_eq!(header("x-octroi-scopes"), "orders:read");
    assert!(seen.headers.get("authorization").is_none());

    assert_eq!(bench.gateway.stop(), 0);
    let books = Books::sqlite(&bench.setup.path("octroi.db"));
    let row = "SELECT client_id || ' ' || api_key_id || ' ' || scopes FROM verification_tokens";
    assert_eq!(books.text(row), [format!("{} {} [\"orders:read\"]", bench.client, bench.key.id)]);
    let event = "SELECT token_id || ' ' || api_key_id FROM usage_events";
    assert_eq!(books.text(event), [format!("{jti} {}", bench.key.id)], "billed to the key, and to the token");
}

#[test]
fn what_is_asked_for_is_granted_or_refused_in_oauth_s_words() {
    let bench = Bench::sqlite("");
    let key = format!("X-API-Key: {}", bench.key.raw);
    let token = text(&bench.token("")["access_token"]);
    let bearer = format!("Authorization: Bearer {token}");
    let wrong = "X-API-Key: never-seen-before".to_owned();
    let other = bench.setup.client(&["other"]);
    bench.setup.client(&["asleep"]);
    let asleep = format!("X-API-Key: {}", bench.setup.key("asleep", &[]).raw);
    bench.setup.json(&["client", "suspend", "asleep"]);
    let afar = format!("X-API-Key: {}", bench.setup.key(&bench.client, &["--allow", "203.0.113.0/24"]).raw);
    let grant = "grant_type=client_credentials";
    for (what, header, form, status, error) in [
        ("nothing presented", "Accept: */*", grant, 401, "invalid_client"),
        ("an unknown key", &wrong, grant, 401, "invalid_client"),
        ("a token for a token", &bearer, grant, 401, "invalid_client"),
        ("two keys", &key, &format!("{grant}&client_secret=whatever"), 400, "invalid_request"),
        ("another's name", &basic(&other, &bench.key.raw), grant, 401, "invalid_client"),
        ("a suspended client", &asleep, grant, 403, "unauthorized_client"),
        ("from elsewhere", &afar, grant, 403, "unauthorized_client"),
        ("no grant", &key, "", 400, "invalid_request"),
        ("another grant", &key, "grant_type=password", 400, "unsupported_grant_type"),
        ("a parameter twice", &key, &format!("{grant}&{grant}"), 400, "invalid_request"),
        ("a scope too many", &key, &format!("{grant}&scope=orders:read+admin"), 400, "invalid_scope"),
        ("more than is held", &key, &format!("{grant}&scope=*"), 400, "invalid_scope"),
        ("a scope that is none", &key, &format!("{grant}&scope=%22"), 400, "invalid_request"),
        ("an audience that is none", &key, &format!("{grant}&audience=a+b"), 400, "invalid_target"),
        ("no refresh token", &key, "grant_type=refresh_token", 400, "invalid_request"),
        (
            "a refresh token that is none",
            &key,
            "grant_type=refresh_token&refresh_token=octroi_refresh_x",
            400,
            "invalid_grant",
        ),
    ] {
        let answer = bench.post("/.octroi/token", &[header], form);
        let body = answer.json();
        assert_eq!((answer.status, &body["error"]), (status, &json!(error)), "{what}: {answer:?}");
        assert!(body["error_description"].is_string() && body["request_id"].is_string(), "{what}: {body}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
        let challenges = answer.headers.iter().filter(|(name, _)| name == "www-authenticate").count();
        assert_eq!(challenges, if status == 401 { 2 } else { 0 }, "{what}: Bearer and Basic");
    }
    let media_type = send(bench.setup.data, "POST", "/.octroi/token", &[&key], grant.as_bytes());
    assert_eq!((media_type.status, &media_type.json()["error"]), (400, &json!("invalid_request")));
    let method = fetch(bench.setup.data, "/.octroi/token", &[&key]);
    assert_eq!((method.status, method.header("allow")), (405, Some("POST")));
    let large = bench.post("/.octroi/token", &[&key], &"a=b&".repeat(5_000));
    assert_eq!(large.status, 413);
}

#[test]
fn a_token_for_somebody_else_is_no_credential_here() {
    let bench = Bench::sqlite("audiences = [\"gateway\", \"orders\"]");
    for (asked, audience, status) in [
        ("", json!(["gateway", "orders"]), 200),
        ("&audience=orders", json!("orders"), 200),
        ("&audience=billing", json!("billing"), 401),
        ("&audience=billing&audience=gateway", json!(["billing", "gateway"]), 200),
        ("&audience=orders&audience=orders", json!("orders"), 200),
    ] {
        let token = text(&bench.token(asked)["access_token"]);
        assert_eq!(claims(&token)["aud"], audience, "{asked}");
        assert_eq!(bench.call(&token), status, "{asked}");
    }
    let bench = Bench::sqlite("audiences = [\"gateway\"]\nallowed_audiences = [\"orders\"]");
    for (asked, status) in [("orders", 200), ("gateway", 200), ("billing", 400), ("orders&audience=billing", 400)] {
        let answer = bench.ask(&format!("grant_type=client_credentials&audience={asked}"));
        assert_eq!(answer.status, status, "{asked}");
        assert!(status == 200 || answer.json()["error"] == "invalid_target", "{asked}: {answer:?}");
    }
}

#[test]
fn a_token_may_no_more_than_its_key_may_now() {
    let bench = Bench::sqlite("");
    let routes =
        "[[routes]]\nname = \"reports\"\npath = \"/reports\"\nupstream = \"up\"\nscopes = [\"reports:read\"]\n";
    bench.setup.write_config(&(bench.setup.config() + routes));
    let Bench { upstream: _upstream, setup, key, gateway, .. } = bench;
    assert_eq!(gateway.stop(), 0);
    let _gateway = setup.start();
    let ask = |form: &str| {
        let headers = ["Content-Type: application/x-www-form-urlencoded", &format!("X-API-Key: {}", key.raw)];
        let answer = send(setup.data, "POST", "/.octroi/token", &headers, form.as_bytes());
        text(&answer.json()["access_token"])
    };
    let call = |token: &str| fetch(setup.data, "/reports", &[&format!("Authorization: Bearer {token}")]).status;
    let (narrow, wide) = (ask("grant_type=client_credentials&scope=orders:read"), ask("grant_type=client_credentials"));
    assert_eq!((call(&narrow), call(&wide)), (403, 200));
    let books = Books::sqlite(&setup.path("octroi.db"));
    books.execute(&format!("UPDATE api_keys SET scopes = '[\"orders:*\"]' WHERE id = '{}'", key.id));
    eventually("the key may less, and so may its token", || call(&wide) == 403);
}

/// How each token ends, and within what: the promise is a second, and half of one is the test
/// machine's.
fn tokens_end_with_what_they_came_from(bench: &Bench, execute: impl Fn(&str)) {
    let ends = |what: &str, token: &str, status: u16, change: &dyn Fn()| {
        assert_eq!(bench.call(token), 200, "{what}");
        change();
        let changed = Instant::now();
        eventually(what, || bench.call(token) == status);
        assert!(changed.elapsed() < Duration::from_millis(1500), "{what}: {:?}", changed.elapsed());
    };
    let fresh = || {
        let key = bench.setup.key(&bench.client, &[]);
        let form = format!("grant_type=client_credentials&client_secret={}", key.raw);
        let answer = bench.post("/.octroi/token", &[], &form);
        assert_eq!(answer.status, 200, "{answer:?}");
        (key, text(&answer.json()["access_token"]))
    };
    let (bystander_key, bystander) = fresh();
    let (key, token) = fresh();
    ends("its key is revoked", &token, 401, &|| drop(bench.setup.json(&["key", "revoke", &key.public_id])));
    let (key, token) = fresh();
    ends("its key expires", &token, 401, &|| {
        execute(&format!("UPDATE api_keys SET expires_at = CURRENT_TIMESTAMP WHERE id = '{}'", key.id));
    });
    let (_, token) = fresh();
    ends("it is revoked by whoever holds it", &token, 401, &|| {
        assert_eq!(bench.post("/.octroi/revoke", &[], &format!("token={token}")).status, 200);
    });
    let (_, token) = fresh();
    ends("it is revoked in the table", &token, 401, &|| {
        let jti = text(&claims(&token)["jti"]);
        execute(&format!("UPDATE verification_tokens SET revoked_at = CURRENT_TIMESTAMP WHERE jti = '{jti}'"));
    });
    let (_, token) = fresh();
    ends("its row goes", &token, 401, &|| {
        execute(&format!("DELETE FROM verification_tokens WHERE jti = '{}'", text(&claims(&token)["jti"])));
    });
    let (_, token) = fresh();
    assert_eq!((bench.call(&bystander), bench.call(&token)), (200, 200), "others go on");
    ends("its client is suspended", &token, 403, &|| drop(bench.setup.json(&["client", "suspend", "acme"])));
    bench.setup.json(&["client", "resume", "acme"]);
    eventually("the client is back", || bench.call(&bystander) == 200);
    drop(bystander_key);
}

#[test]
fn tokens_end_with_what_they_came_from_on_sqlite() {
    let bench = Bench::sqlite("");
    let books = Books::sqlite(&bench.setup.path("octroi.db"));
    tokens_end_with_what_they_came_from(&bench, |sql| books.execute(sql));
}

#[test]
fn tokens_end_with_what_they_came_from_on_postgres() {
    let database = TestDatabase::create();
    let bench = Bench::on(&database.url(), "");
    tokens_end_with_what_they_came_from(&bench, |sql| database.execute(sql));
}

#[test]
fn a_token_ends_by_its_own_time_to_the_second() {
    let bench = Bench::sqlite("token_lifetime = \"2s\"");
    let answer = bench.token("");
    assert_eq!(answer["expires_in"], 2);
    let token = text(&answer["access_token"]);
    assert_eq!(bench.call(&token), 200);
    let asked = Instant::now();
    eventually("its time is over", || bench.call(&token) == 401);
    assert!(asked.elapsed() < Duration::from_millis(2_500), "no leeway for our own: {:?}", asked.elapsed());
}

#[test]
fn without_a_secret_nothing_is_issued_and_nothing_else_changes() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme"]);
    let key = format!("X-API-Key: {}", setup.key(&client, &[]).raw);
    let _gateway = setup.start();
    for (method, path) in [
        ("POST", "/.octroi/token"),
        ("POST", "/.octroi/revoke"),
        ("POST", "/.octroi/introspect"),
        ("GET", "/.octroi/jwks.json"),
        ("GET", "/.well-known/oauth-authorization-server"),
    ] {
        let answer = send(setup.data, method, path, &[&key], b"");
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("auth_unavailable")), "{path}");
        assert!(answer.header("retry-after").is_some(), "{path}");
    }
    assert_eq!(fetch(setup.data, "/", &[&key]).status, 200);
    assert_eq!(fetch(setup.data, "/.octroi/livez", &[]).status, 200);
    assert_eq!(fetch(setup.data, "/.octroi/nothing", &[&key]).status, 404);
}
