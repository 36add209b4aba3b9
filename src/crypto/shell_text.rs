//! The text with which the command line shows a gateway on the same machine that it holds the same
//! settings: a JWT (RFC 7519, HS256) under a key derived from the pepper.
//!
//! Whoever has the pepper and the store can do everything already; this lets `octroi top`, `explain`
//! and their like ask the process that serves without a token being made and kept. It lives a
//! minute, its `typ` is its own, and it is good on loopback only (`api` sees to that).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::model::secret::{SecretBytes, SecretText};

/// How long one is good, in seconds.
const LIFE: i64 = 60;

/// What it is made for: no other use of the pepper makes the same bytes.
const PURPOSE: &[u8] = b"octroi shell text v1";

/// More than any that we make.
const LONGEST: usize = 1_024;

/// Makes and reads such texts.
pub struct ShellTexts {
    keyed: Hmac<Sha256>,
    header: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    sub: String,
    exp: i64,
}

impl ShellTexts {
    /// Under a key that is derived from the pepper.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn new(pepper: &SecretBytes) -> Self {
        let derive = Hmac::<Sha256>::new_from_slice(pepper.expose()).expect("HMAC takes keys of any length");
        let key = derive.chain_update(PURPOSE).finalize().into_bytes();
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        Self { keyed, header: URL_SAFE_NO_PAD.encode(r#"{"typ":"octroi-shell+jwt","alg":"HS256"}"#) }
    }

    /// A text of this user, made at `now` (seconds since 1970).
    ///
    /// # Panics
    /// Never: a text and a number are JSON.
    #[must_use]
    pub fn make(&self, user: &str, now: i64) -> SecretText {
        let user = user.chars().take(64).collect();
        let claims = serde_json::to_vec(&Claims { sub: user, exp: now + LIFE }).expect("a text and a number are JSON");
        let signed = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let signature = self.keyed.clone().chain_update(&signed).finalize().into_bytes();
        SecretText::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whose text it is, if it is ours and still good at `now`.
    #[must_use]
    pub fn read(&self, text: &str, now: i64) -> Option<String> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if header != self.header {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.keyed.clone().chain_update(signed).verify_slice(&signature).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        // One that lives longer than any that we make is none of ours.
        (claims.exp > now && claims.exp <= now + 2 * LIFE).then_some(claims.sub)
    }
}

impl std::fmt::Debug for ShellTexts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[shell texts]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::session_text::{SessionClaims, SessionTexts};
    use uuid::Uuid;

    #[test]
    fn a_text_is_good_for_a_minute_under_the_same_pepper() {
        let pepper = SecretBytes::new(vec![7; 32]);
        let texts = ShellTexts::new(&pepper);
        let text = texts.make("root", 1_000);
        for (now, user) in [(1_000, Some("root")), (1_059, Some("root")), (1_060, None), (800, None)] {
            assert_eq!(texts.read(text.expose(), now).as_deref(), user, "{now}");
        }
        let other = ShellTexts::new(&SecretBytes::new(vec![8; 32])).make("root", 1_000);
        let session = SessionTexts::new(&pepper).make(&SessionClaims {
            operator: Uuid::nil(),
            session: Uuid::nil(),
            iat: 1_000,
            exp: 1_050,
        });
        for wrong in [other.expose(), session.expose(), "", "a.b.c", &text.expose()[1..]] {
            assert_eq!(texts.read(wrong, 1_000), None, "{wrong}");
        }
    }
}
