//! Tokens and key sets of strangers: nothing verifies but what was signed.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use super::keys::KeySet;
use super::{Issuers, OwnKeys};
use crate::config::token_issuer::{KeyLocation, TokenIssuerConfig, TokenTypes};
use crate::model::clock::ManualClock;
use crate::model::secret::SecretBytes;
use crate::model::token::TokenAlgorithm;

/// The public halves of two keys whose private ones nobody has any more.
const KEY_SET: &str = include_str!("../../../fuzz/corpus/jwt/key_set");
/// What they signed, and what the secret signed.
const SIGNED: [&str; 3] = [
    include_str!("../../../fuzz/corpus/jwt/signed_eddsa"),
    include_str!("../../../fuzz/corpus/jwt/signed_es256"),
    include_str!("../../../fuzz/corpus/jwt/signed_hs256"),
];
const SECRET: &[u8] = b"f3b1a4c2d5e6978812aa34bb56cc78dd90ee12ff34ab56cd78ef90a1b2c3d4e5";
/// When those tokens hold.
const NOW: i64 = 1_800_000_000;

/// `T` and a token; `K` and a key set; `J` and three lines: header, claims, and the signature's text.
///
/// # Panics
/// A promise is broken.
pub(crate) fn check(data: &[u8]) {
    match data.split_first() {
        Some((b'T', token)) => check_token(token),
        Some((b'K', set)) => check_set(set),
        Some((b'J', lines)) => {
            let mut lines = lines.splitn(3, |byte| *byte == b'\n');
            let mut next = || lines.next().unwrap_or_default();
            let encoded = [next(), next()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            check_token(&[encoded.as_bytes(), b".", next()].concat());
        }
        _ => {}
    }
}

fn check_token(token: &[u8]) {
    if verifies(token) {
        let signed = |token: &[u8]| token.iter().rposition(|byte| *byte == b'.').map(|end| token[..end].to_vec());
        let known = SIGNED.iter().any(|known| signed(&known.as_bytes()[1..]) == signed(token));
        assert!(known, "nobody signed {}", token.escape_ascii());
    }
}

/// Whether a token holds. Our own keys are here: nothing is waited for.
fn verifies(token: &[u8]) -> bool {
    let verified = pin!(issuers().verify(token)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(verified) = verified else { panic!("the keys are here already") };
    verified.is_ok()
}

fn check_set(text: &[u8]) {
    let Ok(set) = KeySet::parse(text, &TokenAlgorithm::PUBLIC) else { return };
    assert!(set.len() > 0);
    for key in set.into_keys() {
        assert!(key.algorithm() != TokenAlgorithm::HS256, "a shared secret in a public set");
        // A stranger's key believes nothing that it did not sign, however it is broken.
        let token = &SIGNED[0][1..];
        let (signed, signature) = token.rsplit_once('.').expect("it has a signature");
        assert!(!key.verifies(signed.as_bytes(), signature) || holds(text));
        assert!(!key.verifies(signed.as_bytes(), ""));
    }
}

/// Whether the set still holds the key that signed.
fn holds(text: &[u8]) -> bool {
    const POINT: &[u8] = b"TVtCmpAFJQi2u5eeylH9s7eWGadjgWIrQTqWUoSg-SA";
    text.windows(POINT.len()).any(|window| window == POINT)
}

fn issuers() -> &'static Issuers {
    static ISSUERS: OnceLock<Issuers> = OnceLock::new();
    ISSUERS.get_or_init(|| {
        let rules = TokenIssuerConfig {
            issuer: "https://id.example.com/".to_owned(),
            audiences: vec!["api".to_owned()],
            algorithms: Vec::new(),
            keys: KeyLocation::Own,
            client_claim: "azp".to_owned(),
            scopes_claim: "scope".to_owned(),
            leeway: Duration::from_secs(30),
            max_lifetime: Duration::from_hours(1),
            types: TokenTypes { named: vec!["at+jwt".to_owned()], absent: true },
        };
        let clock = ManualClock::at(Timestamp::from_second(NOW).expect("a time"));
        let secret = SecretBytes::new(SECRET.to_vec());
        let none = Issuers { issuers: Vec::new(), clock };
        none.with_own(rules, OwnKeys { secret: Some(&secret), public: Some(&KEY_SET.as_bytes()[1..]) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_verifies_so_that_the_rest_means_something() {
        for token in SIGNED {
            assert!(verifies(&token.as_bytes()[1..]), "{token}");
        }
    }
}
