//! Who pays for tokens that are presented without a key, or again and again.

use super::{Bench, text};

/// So many failures from one address, and one more each minute.
const BUDGET: &str = "[auth.failures]\nrate = \"1/m\"\nburst = 5\n";

/// More than the budget, and less than a client's limit.
const TRIES: usize = 20;

fn statuses(ask: impl Fn() -> u16) -> Vec<u16> {
    (0..TRIES).map(|_| ask()).collect()
}

/// So many answers of `before`, then 429 for ever.
fn assert_slowed(statuses: &[u16], before: u16, what: &str) {
    let answered = statuses.iter().take_while(|status| **status == before).count();
    assert!((1..=5).contains(&answered), "{what}: {statuses:?}");
    assert!(statuses[answered..].iter().all(|status| *status == 429), "{what}: {statuses:?}");
}

/// What is left of the client's limit, as the gateway tells with each answer.
fn remaining(bench: &Bench) -> u64 {
    let answer = bench.ask("grant_type=client_credentials");
    let told = answer.header("ratelimit").unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    let remaining = told.split(';').find_map(|part| part.trim().strip_prefix("r=")).unwrap().to_owned();
    remaining.parse().unwrap()
}

#[test]
fn a_dead_refresh_token_spends_nobody_s_limit_but_the_address_s_budget() {
    let bench = Bench::with("sqlite:octroi.db", BUDGET, "refresh_grace = \"0s\"");
    bench.setup.json(&["client", "update", "acme", "--rate", "1/h", "--burst", "100"]);
    let dead = text(&bench.family()["refresh_token"]);
    let alive = text(&bench.refreshed(&dead)["refresh_token"]);
    let before = remaining(&bench);
    let again = statuses(|| bench.refresh(&dead, "").status);
    assert_slowed(&again, 400, "used up long ago");
    assert_eq!(remaining(&bench), before - 1, "only the question itself was paid for");
    assert_eq!(bench.refresh(&alive, "").status, 429, "the address is slowed for all it may guess");
}

#[test]
fn a_token_is_revoked_once_and_then_it_is_a_guess() {
    let bench = Bench::with("sqlite:octroi.db", BUDGET, "");
    for _ in 0..TRIES {
        let token = text(&bench.token("")["access_token"]);
        assert_eq!(bench.post("/.octroi/revoke", &[], &format!("token={token}")).status, 200);
    }
    let token = text(&bench.token("")["access_token"]);
    let again = statuses(|| bench.post("/.octroi/revoke", &[], &format!("token={token}")).status);
    assert_slowed(&again[1..], 200, "revoked before");
}

#[test]
fn who_presents_a_key_pays_with_its_limit_and_not_with_the_budget() {
    let bench = Bench::with("sqlite:octroi.db", BUDGET, "");
    bench.setup.json(&["client", "update", "acme", "--rate", "1/h", "--burst", "100"]);
    let before = remaining(&bench);
    let key = format!("X-API-Key: {}", bench.key.raw);
    let unknown = "grant_type=refresh_token&refresh_token=octroi_refresh_x";
    let guessed = statuses(|| bench.post("/.octroi/token", &[&key], unknown).status);
    assert_eq!(guessed, [400; TRIES]);
    assert_eq!(remaining(&bench), before - 1 - TRIES as u64);
    let refresh = text(&bench.family()["refresh_token"]);
    assert_eq!(bench.refreshed(&refresh)["token_type"], "Bearer", "its address has its whole budget");
}
