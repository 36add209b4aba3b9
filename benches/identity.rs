//! What identity costs a request: a known key or token, one that must be looked up or verified, a
//! charge to a limit; beside a plain SHA-256 of the key. The store is a SQLite file, as a gateway
//! alone has it.
//!
//! `cargo bench --bench identity`

mod gate;
#[path = "../src/auth/jwt/testing.rs"]
#[expect(clippy::unwrap_used, reason = "the tests' own signer")]
mod signer;

use std::hint::black_box;
use std::iter::repeat_n;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::hmac;
use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use octroi::auth::{Issuers, OwnKeys};
use octroi::config::token_issuer::{KeyLocation, TokenIssuerConfig, TokenTypes};
use octroi::crypto::key_text::{Environment, generate};
use octroi::crypto::pepper::sha256;
use octroi::model::access::Scopes;
use octroi::model::id::{ApiKeyId, TokenId};
use octroi::model::issued::{Grant, NewToken};
use octroi::model::secret::SecretBytes;
use octroi::model::token::TokenAlgorithm;
use serde_json::json;
use uuid::Uuid;

use crate::gate::{Bench, Gate, peppers, request};
use crate::signer::{Signer, encode, key_set};

/// Credentials in rotation: more than fit the nearest caches, as many as a busy gateway sees.
const KNOWN: usize = 1_000;

/// Keys that are each asked for once before an authenticator is replaced by one that knows nobody.
const STRANGERS: usize = 20_000;

/// The same of tokens.
const TOKENS: usize = 2_000;

/// The secret of our own tokens.
const SECRET: [u8; 32] = [9; 32];

/// How long `iterations` requests take with credentials that are known by now.
fn hits(bench: &Bench, gate: &Gate, known: &[HeaderMap], iterations: u64) -> Duration {
    // One runtime entry for many requests, as a worker has it.
    bench.runtime.block_on(async {
        let started = bench.clock.monotonic();
        for headers in known.iter().cycle().take(usize::try_from(iterations).unwrap_or(usize::MAX)) {
            black_box(bench.call(gate, headers).await);
        }
        bench.clock.monotonic().since(started)
    })
}

/// How long `iterations` requests take with credentials that the authenticator never saw; it is
/// made beside the clock.
fn misses(bench: &Bench, make: impl Fn() -> Gate, strangers: &[HeaderMap], iterations: u64) -> Duration {
    let mut taken = Duration::ZERO;
    let mut left = usize::try_from(iterations).unwrap_or(usize::MAX);
    while left > 0 {
        let gate = make();
        let batch = left.min(strangers.len());
        taken += hits(bench, &gate, &strangers[..batch], batch as u64);
        left -= batch;
    }
    taken
}

fn keys(criterion: &mut Criterion) {
    let bench = Bench::new();
    let made = generate("octroi", Environment::Live);
    let raw = made.text.expose().as_bytes();
    let pepper = peppers().current;
    criterion.bench_function("key/plain SHA-256", |bencher| bencher.iter(|| sha256(black_box(raw))));
    criterion.bench_function("key/HMAC", |bencher| bencher.iter(|| pepper.hash(black_box(raw))));
    let requests = bench.keys(repeat_n(bench.client, STRANGERS), &Scopes::default());
    let gate = bench.gate(bench.no_issuers());
    let known = &requests[..KNOWN];
    hits(&bench, &gate, known, KNOWN as u64);
    criterion.bench_function("key/hit", |bencher| {
        bencher.iter_custom(|iterations| hits(&bench, &gate, known, iterations));
    });
    criterion.bench_function("key/miss", |bencher| {
        bencher.iter_custom(|iterations| misses(&bench, || bench.gate(bench.no_issuers()), &requests, iterations));
    });
    limits(criterion, &bench, &gate, &known[0]);
}

fn limits(criterion: &mut Criterion, bench: &Bench, gate: &Gate, known: &HeaderMap) {
    let principal = bench.runtime.block_on(bench.call(gate, known));
    let when = || octroi::limit::When { arrived: bench.clock.wall(), now: bench.clock.monotonic() };
    criterion.bench_function("limit/charge", |bencher| {
        bencher.iter(|| octroi::limit::charge(&principal, octroi::limit::Cost::ONE, when()));
    });
    let charge = octroi::limit::charge(&principal, octroi::limit::Cost::ONE, when()).expect("a billion a second");
    let mut headers = HeaderMap::with_capacity(8);
    criterion.bench_function("limit/write", |bencher| {
        bencher.iter(|| {
            headers.clear();
            charge.standing().write(&mut headers);
        });
    });
}

/// An issuer's rules; its keys lie in a file.
fn rules(algorithm: Option<TokenAlgorithm>, keys: PathBuf) -> TokenIssuerConfig {
    TokenIssuerConfig {
        issuer: "issuer".into(),
        audiences: vec!["api".into()],
        algorithms: algorithm.into_iter().collect(),
        keys: KeyLocation::File(keys),
        client_claim: "client_id".into(),
        scopes_claim: "scope".into(),
        leeway: Duration::from_secs(30),
        max_lifetime: Duration::from_hours(24),
        types: TokenTypes { named: vec!["at+jwt".into()], absent: true },
    }
}

/// A request with a token that holds for an hour. `signer` none: one of our own, which has a row.
fn bearer(bench: &Bench, signer: Option<&Signer>, key: ApiKeyId) -> HeaderMap {
    let (now, id) = (bench.clock.wall(), Uuid::new_v4());
    let client = if signer.is_some() { "Acme".to_owned() } else { bench.client.to_string() };
    let claims = json!({ "iss": "issuer", "aud": "api", "exp": now.as_second() + 3_600, "jti": id, "sub": "user-4711",
                         "client_id": client, "scope": "orders:read orders:write" });
    let token = if let Some(signer) = signer {
        signer.token(&claims)
    } else {
        let signed = format!("{}.{}", encode(r#"{"alg":"HS256","typ":"at+jwt"}"#), encode(claims.to_string()));
        let grant = Grant { client_id: bench.client, api_key_id: Some(key), scopes: Scopes::default(), audience: None };
        let row = NewToken {
            id: TokenId(id),
            grant,
            family_id: None,
            subject: "user-4711".into(),
            issued_at: now,
            expires_at: now + Duration::from_hours(1),
        };
        bench.control.block_on(bench.store.tokens.issue(row, None)).expect("a row is stored");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
        format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes())))
    };
    request("authorization", &format!("Bearer {token}"))
}

fn tokens(criterion: &mut Criterion) {
    let bench = Bench::new();
    let file = bench.folder.path().join("keys.json");
    bench.keys(repeat_n(bench.client, 1), &Scopes::default());
    let keys = bench.control.block_on(bench.store.keys.list(None, None, 1)).expect("keys are listed");
    let key = keys.items[0].id;
    for (name, algorithm) in [
        ("HS256", None),
        ("EdDSA", Some(TokenAlgorithm::EdDSA)),
        ("ES256", Some(TokenAlgorithm::ES256)),
        ("ES384", Some(TokenAlgorithm::ES384)),
        ("RS256", Some(TokenAlgorithm::RS256)),
        ("PS256", Some(TokenAlgorithm::PS256)),
    ] {
        let signer = algorithm.map(|_| Signer::new("k", name));
        if let Some(signer) = &signer {
            std::fs::write(&file, key_set(&[signer])).expect("the folder is ours");
        }
        let tokens: Vec<HeaderMap> = (0..TOKENS).map(|_| bearer(&bench, signer.as_ref(), key)).collect();
        let rules = rules(algorithm, file.clone());
        // One more token makes the issuer's keys and the client known: what is measured is the token.
        let first = bearer(&bench, signer.as_ref(), key);
        let make = || {
            let issuers = if algorithm.is_some() {
                Issuers::new(std::slice::from_ref(&rules), &bench.clock).expect("it has no authorities")
            } else {
                bench
                    .no_issuers()
                    .with_own(rules.clone(), OwnKeys { secret: Some(&SecretBytes::new(SECRET.to_vec())), public: None })
            };
            let gate = bench.gate(issuers);
            bench.runtime.block_on(bench.call(&gate, &first));
            gate
        };
        criterion.bench_function(&format!("token/{name}/first"), |bencher| {
            bencher.iter_custom(|iterations| misses(&bench, make, &tokens, iterations));
        });
        if algorithm.is_none_or(|algorithm| algorithm == TokenAlgorithm::ES256) {
            let gate = make();
            let known = &tokens[..KNOWN];
            hits(&bench, &gate, known, KNOWN as u64);
            criterion.bench_function(&format!("token/{name}/hit"), |bencher| {
                bencher.iter_custom(|iterations| hits(&bench, &gate, known, iterations));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = keys, tokens
}
criterion_main!(benches);
