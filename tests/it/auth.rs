//! Who gets in, what the upstream learns of them, and what the others are told.

use std::time::{Duration, Instant};

use crate::callers::{Crowd, fetch, send};
use crate::harness::Setup;
use crate::upstream::Upstream;

#[test]
fn a_good_key_passes_and_the_upstream_learns_who_and_never_the_key() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["Zoë & Söhne"]);
    let key = setup.key(&client, &["--scope", "orders:read", "--scope", "orders:write"]);
    let gateway = setup.start();
    for credential in [format!("X-API-Key: {}", key.raw), format!("Authorization: Bearer {}", key.raw)] {
        let answer = fetch(setup.data, "/orders/7?x=1", &[&credential]);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, b"ok");
        let seen = upstream.last();
        assert_eq!(seen.target, "/orders/7?x=1");
        let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("x-octroi-client-id").as_deref(), Some(client.as_str()));
        assert_eq!(header("x-octroi-client-name").as_deref(), Some("Zo%C3%AB%20&%20S%C3%B6hne"));
        assert_eq!(header("x-octroi-key-id").as_deref(), Some(key.public_id.as_str()));
        assert_eq!(header("x-octroi-scopes").as_deref(), Some("orders:read orders:write"));
        assert_eq!(header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(header("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(header("x-request-id").as_deref(), answer.header("x-request-id"));
        assert!(header("via").is_some());
        assert!(header("authorization").is_none() && header("x-api-key").is_none());
        let everything = format!("{:?}", seen.headers);
        assert!(!everything.contains(&key.raw[30..]), "{everything}");
    }
    assert!(!gateway.log().contains(&key.raw[30..]), "a raw key in the log");
}

#[test]
fn refusals_look_alike_and_name_the_remedy() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme"]);
    let good = setup.key(&client, &[]);
    let revoked = setup.key(&client, &[]);
    setup.json(&["key", "revoke", &revoked.id]);
    let other = setup.client(&["asleep"]);
    let suspended = setup.key(&other, &[]);
    setup.json(&["client", "suspend", "asleep"]);
    let _gateway = setup.start();

    let mut wrong = good.raw.clone().into_bytes();
    let last = wrong.len() - 1;
    wrong[last] = if wrong[last] == b'0' { b'1' } else { b'0' };
    let wrong = String::from_utf8(wrong).unwrap();
    let key = |raw: &str| format!("X-API-Key: {raw}");
    let bearer = |raw: &str| format!("Authorization: Bearer {raw}");
    let rows: Vec<(&str, Vec<String>, u16, &str)> = vec![
        ("nothing", vec![], 401, "missing_credentials"),
        ("another scheme is not ours", vec!["Authorization: Basic dTpw".into()], 401, "missing_credentials"),
        ("bad check digits", vec![key(&wrong)], 401, "invalid_credentials"),
        ("unknown legacy shape", vec![key("never-seen-before")], 401, "invalid_credentials"),
        ("too short", vec![key("short")], 401, "invalid_credentials"),
        ("revoked", vec![key(&revoked.raw)], 401, "invalid_credentials"),
        ("a JWT in a key header", vec![key("eyJhbGciOiJub25lIn0.e30.")], 401, "invalid_credentials"),
        ("two headers", vec![key(&good.raw), bearer(&good.raw)], 400, "ambiguous_credentials"),
        ("one header twice", vec![key(&good.raw), key(&good.raw)], 400, "ambiguous_credentials"),
        ("suspended", vec![key(&suspended.raw)], 403, "client_suspended"),
    ];
    for (what, headers, status, code) in rows {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = fetch(setup.data, "/", &headers);
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{what}");
        match code {
            "missing_credentials" => {
                assert!(!answer.header("www-authenticate").expect(what).contains("error"), "{what}");
            }
            "invalid_credentials" => {
                assert!(answer.header("www-authenticate").expect(what).contains("error=\"invalid_token\""), "{what}");
            }
            _ => {}
        }
    }
    let details: std::collections::BTreeSet<String> = [&wrong, "never-seen-before", &revoked.raw]
        .iter()
        .map(|raw| fetch(setup.data, "/", &[&key(raw)]).json()["detail"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(details.len(), 1, "unknown, revoked and forged must look alike: {details:?}");
    assert!(upstream.seen().is_empty(), "nothing refused may reach the upstream");
}

#[test]
fn a_caller_cannot_speak_in_our_name() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme"]);
    let key = setup.key(&client, &[]);
    let _gateway = setup.start();
    let answer = fetch(
        setup.data,
        "/",
        &[
            &format!("X-API-Key: {}", key.raw),
            "X-Octroi-Client-Id: 00000000-0000-0000-0000-00000000beef",
            "x_octroi_subject: root",
            "X-Octroi.Scopes: *",
            "X-Forwarded-For: 10.9.8.7",
            "X-Real-IP: 10.9.8.7",
            "Forwarded: for=10.9.8.7",
            "X-Request-Id: chosen-by-the-caller",
            "Connection: X-Octroi-Client-Id, X-Drop-Me",
            "X-Drop-Me: yes",
            "Keep-Alive: 5",
        ],
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = upstream.last();
    assert_eq!(seen.headers["x-octroi-client-id"], client.as_str());
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    assert_ne!(seen.headers["x-request-id"], "chosen-by-the-caller");
    for name in
        ["x_octroi_subject", "x-octroi.scopes", "x-octroi-scopes", "x-real-ip", "forwarded", "x-drop-me", "keep-alive"]
    {
        assert!(!seen.headers.contains_key(name), "{name} reached the upstream: {:?}", seen.headers);
    }
}

#[test]
fn an_open_route_must_say_so_and_is_metered_under_nobody() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let open = "\n[[routes]]\nname = \"open\"\npath = \"/public\"\nupstream = \"up\"\nauth = \"none\"\n\
                [[routes]]\nname = \"writers\"\npath = \"/write\"\nupstream = \"up\"\nscopes = [\"orders:write\"]\nmethods = [\"POST\"]\n";
    setup.write_config(&(setup.config() + open));
    let client = setup.client(&["acme"]);
    let reader = setup.key(&client, &["--scope", "orders:read"]);
    let writer = setup.key(&client, &["--scope", "orders:*"]);
    let gateway = setup.start();
    assert_eq!(fetch(setup.data, "/public/page", &[]).status, 200);
    assert!(!upstream.last().headers.contains_key("x-octroi-client-id"));
    assert_eq!(fetch(setup.data, "/publicity", &[]).problem(), "missing_credentials", "a prefix ends at a segment");

    let post = |raw: &str| send(setup.data, "POST", "/write", &[&format!("X-API-Key: {raw}")], b"{}");
    assert_eq!(post(&writer.raw).status, 200);
    let refused = post(&reader.raw);
    assert_eq!((refused.status, refused.problem().as_str()), (403, "insufficient_scope"));
    assert!(refused.header("www-authenticate").unwrap().contains("insufficient_scope"));
    let wrong_method = send(setup.data, "DELETE", "/write", &[&format!("X-API-Key: {}", writer.raw)], b"");
    assert_eq!((wrong_method.status, wrong_method.problem().as_str()), (405, "method_not_allowed"));
    assert_eq!(wrong_method.header("allow"), Some("POST"));

    assert_eq!(gateway.stop(), 0);
    let usage = setup.usage("client,route,outcome");
    let nobody = usage["items"].as_array().unwrap().iter().find(|row| row["route"] == "open").expect("the open route");
    assert_eq!(nobody["client"], "00000000-0000-0000-0000-000000000000");
    assert_eq!(nobody["requests"], 1);
}

#[test]
fn one_address_that_guesses_is_slowed_and_its_neighbours_are_not() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[auth.failures]\nrate = \"1/m\"\nburst = 5\n");
    let client = setup.client(&["acme"]);
    let key = setup.key(&client, &[]);
    let _gateway = setup.start();
    assert_eq!(fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status, 200);
    let guess = |number: u32| fetch(setup.data, "/", &[&format!("X-API-Key: guess-number-{number}")]);
    let statuses: Vec<u16> = (0..8).map(|number| guess(number).status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
    let refused = guess(9);
    assert_eq!(refused.problem(), "too_many_failures");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status, 200, "a known key always passes");
}

#[test]
fn guessing_at_full_speed_reaches_the_store_at_the_budget_s_pace_and_disturbs_nobody() {
    const BURST: usize = 20;
    let upstream = Upstream::start_counting();
    let setup = Setup::sqlite_with(upstream.address, "[auth.failures]\nrate = \"10/s\"\nburst = 20\n");
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let key = setup.key(&client, &[]);
    let revoked = setup.key(&client, &[]);
    setup.json(&["key", "revoke", &revoked.id]);
    let _gateway = setup.start();
    let status = |raw: &str| fetch(setup.data, "/", &[&format!("X-API-Key: {raw}")]).status;
    assert_eq!(status(&key.raw), 200);
    let look_ups = || {
        let text = String::from_utf8(fetch(setup.admin, "/metrics", &[]).body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("octroi_auth_cache_total{result=\"miss\"} "));
        line.map_or(0, |count| count.parse::<usize>().unwrap())
    };
    let before = look_ups();
    let began = Instant::now();
    // From the same address: one who is known, one who guesses, one with a key that was revoked.
    let known = Crowd::start(setup.data, 2, "/", &key.raw, Duration::from_millis(1));
    let former = Crowd::start(setup.data, 1, "/", &revoked.raw, Duration::ZERO);
    let mut guesses = Vec::new();
    while began.elapsed() < Duration::from_secs(3) {
        guesses.push(status(&format!("guess-number-{}", guesses.len())));
    }
    let (known, former) = (known.stop(), former.stop());
    // Whatever came back of the budget while this ran, rounded up.
    let allowed = BURST + usize::try_from(began.elapsed().as_millis()).unwrap() / 100 + 1;
    assert!(known.count() > 200 && known.other_than(200) == 0, "a known key was refused");
    let judged = guesses.iter().filter(|status| **status == 401).count() + former.count() - former.other_than(401);
    assert!((BURST..=allowed).contains(&judged), "{judged} of {allowed} guesses were judged");
    assert!(guesses.iter().all(|status| [401, 429].contains(status)));
    assert!(guesses.len() + former.count() > 2 * allowed, "too slow to show anything");
    let asked = look_ups() - before;
    assert!(asked <= allowed, "{asked} look-ups for a budget of {allowed}");
}
