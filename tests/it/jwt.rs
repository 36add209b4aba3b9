//! Tokens of a real issuer over HTTP: who gets in, and what an issuer's troubles do to whom.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::callers::{Answer, fetch};
use crate::harness::{NO_BUDGET, Setup, eventually};
use crate::issuer::{Behaviour, Issuer};
use crate::signer::{Signer, key_set};
use crate::upstream::Upstream;

fn get(setup: &Setup, path: &str, credential: &str) -> Answer {
    fetch(setup.data, path, &[credential])
}

fn status(setup: &Setup, credential: &str) -> u16 {
    get(setup, "/", credential).status
}

/// A gateway's settings with issuers.
fn setup(upstream: &Upstream, issuers: &[&Issuer]) -> Setup {
    let issuers: String = issuers.iter().map(|issuer| issuer.config()).collect();
    Setup::sqlite_with(upstream.address, &format!("{NO_BUDGET}{issuers}"))
}

#[test]
fn a_good_token_is_its_client_and_the_upstream_learns_who() {
    let upstream = Upstream::start();
    let (rsa, ed) = (Signer::new("rsa", "RS256"), Signer::new("ed", "EdDSA"));
    let issuer = Issuer::publishing(&[&rsa, &ed]);
    let setup = setup(&upstream, &[&issuer]);
    let client = setup.client(&["acme"]);
    let gateway = setup.start();
    for (signer, named) in [(&rsa, "acme"), (&ed, client.as_str())] {
        let more = json!({ "scope": "orders:read orders:write", "sub": "Zoë" });
        let bearer = issuer.bearer(signer, named, &more);
        for _ in 0..2 {
            let answer = get(&setup, "/orders", &bearer);
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.header("ratelimit").is_some(), "the client's limit: {answer:?}");
            let seen = upstream.last();
            let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(header("x-octroi-client-id").as_deref(), Some(client.as_str()));
            assert_eq!(header("x-octroi-client-name").as_deref(), Some("acme"));
            assert_eq!(header("x-octroi-subject").as_deref(), Some("Zo%C3%AB"));
            assert_eq!(header("x-octroi-scopes").as_deref(), Some("orders:read orders:write"));
            assert!(header("x-octroi-key-id").is_none() && header("authorization").is_none(), "{seen:?}");
        }
        assert!(!gateway.log().contains(&bearer[40..]), "a token in the log");
    }
    assert_eq!(issuer.fetches(), 1);
    assert_eq!(gateway.stop(), 0);
    let usage = setup.usage("client");
    assert_eq!(usage["items"][0]["client"], client.as_str());
    assert_eq!(usage["total"]["requests"], 4);
}

#[test]
fn each_refusal_has_its_status_and_none_its_reason() {
    let upstream = Upstream::start();
    let (ed, stranger) = (Signer::new("ed", "EdDSA"), Signer::new("ed", "EdDSA"));
    let issuer = Issuer::publishing(&[&ed]);
    let setup = setup(&upstream, &[&issuer]);
    let routes = "[[routes]]\nname = \"keys\"\npath = \"/keys\"\nupstream = \"up\"\nauth = \"key\"\n\
                  [[routes]]\nname = \"tokens\"\npath = \"/tokens\"\nupstream = \"up\"\nauth = \"jwt\"\n\
                  [[routes]]\nname = \"writers\"\npath = \"/write\"\nupstream = \"up\"\nscopes = [\"orders:write\"]\n";
    setup.write_config(&(setup.config() + routes));
    let client = setup.client(&["acme"]);
    let key = format!("X-API-Key: {}", setup.key(&client, &[]).raw);
    setup.client(&["twin"]);
    setup.client(&["twin"]);
    setup.client(&["asleep"]);
    setup.json(&["client", "suspend", "asleep"]);
    let _gateway = setup.start();

    let says = |client: &str, more| issuer.bearer(&ed, client, &more);
    let good = says("acme", json!({ "scope": "orders:read" }));
    for (what, path, credential, expected) in [
        ("a token", "/", good.clone(), (200, "")),
        ("a token where tokens go", "/tokens", good.clone(), (200, "")),
        ("a key where keys go", "/keys", key.clone(), (200, "")),
        ("a token where keys go", "/keys", good.clone(), (401, "invalid_credentials")),
        ("a key where tokens go", "/tokens", key, (401, "invalid_credentials")),
        (
            "a token in a key's header",
            "/",
            good.replace("Authorization: Bearer", "X-API-Key:"),
            (401, "invalid_credentials"),
        ),
        ("a scope is missing", "/write", good, (403, "insufficient_scope")),
        ("forged", "/", issuer.bearer(&stranger, "acme", &json!({})), (401, "invalid_credentials")),
        ("expired", "/", says("acme", json!({ "exp": 1 })), (401, "invalid_credentials")),
        ("for somebody else", "/", says("acme", json!({ "aud": "billing" })), (401, "invalid_credentials")),
        (
            "of nobody we believe",
            "/",
            says("acme", json!({ "iss": "https://evil.example/" })),
            (401, "invalid_credentials"),
        ),
        ("nobody's", "/", says("nobody", json!({})), (401, "invalid_credentials")),
        (
            "the nil client's",
            "/",
            says("00000000-0000-0000-0000-000000000000", json!({})),
            (401, "invalid_credentials"),
        ),
        ("two clients'", "/", says("twin", json!({})), (401, "invalid_credentials")),
        ("a suspended client's", "/", says("asleep", json!({})), (403, "client_suspended")),
    ] {
        let answer = get(&setup, path, &credential);
        let code = if answer.status == 200 { String::new() } else { answer.problem() };
        assert_eq!((answer.status, code.as_str()), expected, "{what}");
        if answer.status == 401 {
            assert_eq!(
                answer.header("www-authenticate"),
                Some("Bearer realm=\"octroi\", error=\"invalid_token\""),
                "{what}"
            );
        }
    }
    let metrics = String::from_utf8(fetch(setup.admin, "/metrics", &[]).body).unwrap();
    for reason in
        ["jwt_signature", "jwt_expired", "jwt_audience", "jwt_issuer", "jwt_unknown_client", "jwt_ambiguous_client"]
    {
        assert!(metrics.contains(&format!("reason=\"{reason}\"")), "{reason} is not counted:\n{metrics}");
    }
}

#[test]
fn a_client_that_is_suspended_is_out_within_a_second_and_one_that_resumes_is_in() {
    let upstream = Upstream::start_counting();
    let ed = Signer::new("ed", "EdDSA");
    let issuer = Issuer::publishing(&[&ed]);
    let setup = setup(&upstream, &[&issuer]);
    setup.client(&["acme"]);
    let _gateway = setup.start();
    let bearer = issuer.bearer(&ed, "acme", &json!({}));
    assert_eq!(status(&setup, &bearer), 200);
    for (command, expected) in [("suspend", 403), ("resume", 200)] {
        setup.json(&["client", command, "acme"]);
        let told = Instant::now();
        while status(&setup, &bearer) != expected {
            assert!(told.elapsed() < Duration::from_millis(1500), "{command} is not obeyed");
        }
    }
}

#[test]
fn keys_rotate_without_a_refusal_and_a_withdrawn_one_is_out() {
    let upstream = Upstream::start_counting();
    let (old, new) = (Signer::new("old", "ES256"), Signer::new("new", "ES256"));
    let issuer = Issuer::publishing(&[&old]);
    let setup = setup(&upstream, &[&issuer]);
    setup.client(&["acme"]);
    let _gateway = setup.start();
    let (first, second) = (issuer.bearer(&old, "acme", &json!({})), issuer.bearer(&new, "acme", &json!({})));
    assert_eq!(status(&setup, &first), 200);
    issuer.publish(&[&new]);
    assert_eq!(status(&setup, &first), 200, "nobody has looked yet");
    assert_eq!(status(&setup, &second), 200, "the first token of a new key waits for it");
    assert_eq!(status(&setup, &first), 401, "a withdrawn key's token is out, though it was verified before");
    assert_eq!(issuer.fetches(), 2);
}

#[test]
fn an_issuer_s_troubles_cost_nobody_whose_key_is_known() {
    let upstream = Upstream::start_counting();
    let ed = Signer::new("ed", "EdDSA");
    let elsewhere = Issuer::publishing(&[&Signer::new("unknown", "EdDSA")]);
    let troubles = [
        ("away", Behaviour::Away),
        ("slow", Behaviour::Slow),
        ("huge", Behaviour::Huge),
        ("garbage", Behaviour::Document("<html>no keys today</html>".to_owned())),
        ("empty", Behaviour::Document("{\"keys\":[]}".to_owned())),
        ("elsewhere", Behaviour::Redirect(format!("http://{}/", elsewhere.address))),
    ];
    let issuers: Vec<Issuer> = troubles.iter().map(|_| Issuer::publishing(&[&ed])).collect();
    let setup = setup(&upstream, &issuers.iter().collect::<Vec<_>>());
    setup.client(&["acme"]);
    let gateway = setup.start();
    let unknown = Signer::new("unknown", "EdDSA");
    for ((what, trouble), issuer) in troubles.into_iter().zip(&issuers) {
        let known = issuer.bearer(&ed, "acme", &json!({ "jti": "before" }));
        assert_eq!(status(&setup, &known), 200, "{what}");
        issuer.behave(trouble);
        let asked = Instant::now();
        assert_eq!(status(&setup, &issuer.bearer(&unknown, "acme", &json!({}))), 401, "{what}");
        assert!(asked.elapsed() < Duration::from_secs(4), "{what}: waited {:?}", asked.elapsed());
        assert_eq!(issuer.fetches(), 2, "{what}");
        assert_eq!(status(&setup, &known), 200, "{what}: a token that is cached");
        let fresh = issuer.bearer(&ed, "acme", &json!({ "jti": "after" }));
        assert_eq!(status(&setup, &fresh), 200, "{what}: a token that is not");
    }
    assert_eq!(elsewhere.fetches(), 0, "redirects are not followed");
    // The slow one's deadline passes.
    eventually("all six are told", || gateway.log().matches("no new keys").count() == 6);
    let ready = fetch(setup.data, "/.octroi/readyz", &[]);
    assert_eq!((ready.status, ready.json()["degraded"].clone()), (200, json!(["issuers"])));
    let metrics = String::from_utf8(fetch(setup.admin, "/metrics", &[]).body).unwrap();
    for line in ["octroi_jwks_refresh_total{result=\"ok\"} 6", "octroi_jwks_refresh_total{result=\"failed\"} 6"] {
        assert!(metrics.lines().any(|other| other == line), "{line} is not in {metrics}");
    }
    assert!(metrics.contains("\noctroi_jwks_age_seconds "), "{metrics}");
}

#[test]
fn without_keys_at_start_an_issuer_s_tokens_wait_and_others_do_not() {
    let upstream = Upstream::start_counting();
    let ed = Signer::new("ed", "EdDSA");
    let (absent, present) = (Issuer::new(Behaviour::Away), Issuer::publishing(&[&ed]));
    let setup = setup(&upstream, &[&absent, &present]);
    let client = setup.client(&["acme"]);
    let key = format!("X-API-Key: {}", setup.key(&client, &[]).raw);
    let _gateway = setup.start();
    let bearer = absent.bearer(&ed, "acme", &json!({}));
    let refused = get(&setup, "/", &bearer);
    assert_eq!((refused.status, refused.problem().as_str()), (503, "auth_unavailable"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(status(&setup, &key), 200);
    assert_eq!(status(&setup, &present.bearer(&ed, "acme", &json!({}))), 200);
    absent.publish(&[&ed]);
    eventually("the issuer is tried again", || status(&setup, &bearer) == 200);
    let ready = fetch(setup.data, "/.octroi/readyz", &[]);
    assert_eq!(ready.json()["degraded"], json!([]));
}

#[test]
fn a_stampede_of_unknown_keys_is_one_fetch() {
    let upstream = Upstream::start_counting();
    let ed = Signer::new("ed", "EdDSA");
    let issuer = Issuer::publishing(&[&ed]);
    let setup = setup(&upstream, &[&issuer]);
    setup.client(&["acme"]);
    let _gateway = setup.start();
    let good = issuer.bearer(&ed, "acme", &json!({}));
    assert_eq!(status(&setup, &good), 200);
    assert_eq!(issuer.fetches(), 1);
    let began = Instant::now();
    let refused = AtomicU16::new(0);
    std::thread::scope(|scope| {
        for crowd in 0..8 {
            let (setup, issuer, refused) = (&setup, &issuer, &refused);
            scope.spawn(move || {
                for number in 0..125 {
                    let unknown = Signer::new(&format!("unknown-{crowd}-{number}"), "EdDSA");
                    let answer = status(setup, &issuer.bearer(&unknown, "acme", &json!({})));
                    assert_eq!(answer, 401);
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(refused.load(Ordering::Relaxed), 1_000);
    // One at the start; then one for each half minute that the crowd may have taken on a slow machine.
    let windows = 1 + began.elapsed().as_secs() / 30;
    assert!(issuer.fetches() <= 1 + windows, "{} fetches in {:?}", issuer.fetches(), began.elapsed());
    assert_eq!(status(&setup, &good), 200);
}

#[test]
fn who_forges_is_slowed_and_known_tokens_pass() {
    let upstream = Upstream::start_counting();
    let (ed, stranger) = (Signer::new("ed", "EdDSA"), Signer::new("ed", "EdDSA"));
    let issuer = Issuer::publishing(&[&ed]);
    let more = format!("[auth.failures]\nrate = \"1/m\"\nburst = 3\n{}", issuer.config());
    let setup = Setup::sqlite_with(upstream.address, &more);
    setup.client(&["acme"]);
    let _gateway = setup.start();
    let good = issuer.bearer(&ed, "acme", &json!({}));
    assert_eq!(status(&setup, &good), 200);
    let forge = |number: u32| status(&setup, &issuer.bearer(&stranger, "acme", &json!({ "jti": number.to_string() })));
    let statuses: Vec<u16> = (0..5).map(forge).collect();
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    assert_eq!(status(&setup, &good), 200);
}

#[test]
fn keys_in_a_file_serve_and_are_looked_for_at_start() {
    let upstream = Upstream::start_counting();
    let ed = Signer::new("ed", "EdDSA");
    let issuer = Issuer::new(Behaviour::Away);
    let config = issuer
        .config()
        .replace(&format!("jwks_url = \"http://{}/jwks.json\"", issuer.address), "jwks_file = \"keys.json\"");
    let setup = Setup::unmigrated(upstream.address, "sqlite:octroi.db", &config);
    let output = setup.octroi(&["serve"]);
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(setup.path("keys.json"), key_set(&[&ed])).unwrap();
    assert!(setup.octroi(&["migrate", "up"]).status.success());
    setup.client(&["acme"]);
    let _gateway = setup.start();
    assert_eq!(status(&setup, &issuer.bearer(&ed, "acme", &json!({}))), 200);
    assert_eq!(issuer.fetches(), 0);
}
