//! The text of an operator's session: a JWT (RFC 7519) signed with `JWT_SECRET` (HS256).
//!
//! Its `typ` is its own, so that it passes for no other token that the secret signs, and none of
//! those passes for it. It only names a row, which decides: the signature keeps strangers from
//! asking for rows, and what reads the table from making tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::model::secret::{SecretBytes, SecretText};

/// Makes and reads the texts of sessions.
pub struct SessionTexts {
    keyed: Hmac<Sha256>,
    header: String,
}

/// What a session's text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionClaims {
    /// The operator's id.
    #[serde(rename = "sub")]
    pub operator: Uuid,
    /// The session's id.
    #[serde(rename = "sid")]
    pub session: Uuid,
    /// When it was begun, in seconds since 1970.
    pub iat: i64,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
}

/// `typ` of a session's text.
pub const SESSION_TYPE: &str = "octroi-session+jwt";

impl SessionTexts {
    /// `secret` is `JWT_SECRET`.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn new(secret: &SecretBytes) -> Self {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"typ":"{SESSION_TYPE}","alg":"HS256"}}"#));
        let keyed = Hmac::new_from_slice(secret.expose()).expect("HMAC takes keys of any length");
        Self { keyed, header }
    }

    /// The text of a session.
    ///
    /// # Panics
    /// Never: ids and numbers are JSON.
    #[must_use]
    pub fn make(&self, claims: &SessionClaims) -> SecretText {
        let payload = serde_json::to_vec(claims).expect("ids and numbers are JSON");
        let signed = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let signature = self.keyed.clone().chain_update(&signed).finalize().into_bytes();
        SecretText::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a text says that we made; none: we did not. Whether it has ended is not asked here.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<SessionClaims> {
        if text.len() > LONGEST {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        // Byte by byte the one that we write: nothing in it is a stranger's choice.
        if header != self.header {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.keyed.clone().chain_update(signed).verify_slice(&signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

impl std::fmt::Debug for SessionTexts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("[sessions]")
    }
}

/// More than any that we make.
const LONGEST: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::signing::SigningKey;

    fn claims() -> SessionClaims {
        SessionClaims { operator: Uuid::from_u128(1), session: Uuid::from_u128(2), iat: 1_000, exp: 2_000 }
    }

    #[test]
    fn a_session_reads_back_and_any_jwt_library_verifies_it() {
        let secret = SecretBytes::new(vec![7; 32]);
        let texts = SessionTexts::new(&secret);
        let text = texts.make(&claims());
        assert_eq!(texts.read(text.expose()), Some(claims()));
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
        rules.validate_exp = false;
        let key = jsonwebtoken::DecodingKey::from_secret(secret.expose());
        let read = jsonwebtoken::decode::<SessionClaims>(text.expose(), &key, &rules).unwrap();
        assert_eq!((read.claims, read.header.typ.as_deref()), (claims(), Some(SESSION_TYPE)));
    }

    #[test]
    fn no_other_token_passes_for_a_session() {
        let secret = SecretBytes::new(vec![7; 32]);
        let texts = SessionTexts::new(&secret);
        let text = texts.make(&claims()).expose().to_owned();
        let other_type = SigningKey::shared_secret(&secret).sign("at+jwt", &claims()).unwrap();
        let other_secret = SessionTexts::new(&SecretBytes::new(vec![8; 32])).make(&claims()).expose().to_owned();
        let more = SigningKey::shared_secret(&secret).sign(SESSION_TYPE, &serde_json::json!({"sub": Uuid::nil()}));
        let unsigned = format!("{}.", text.rsplit_once('.').unwrap().0);
        for wrong in [other_type, other_secret, more.unwrap(), unsigned, format!("{text}."), String::new()] {
            assert_eq!(texts.read(&wrong), None, "{wrong}");
        }
    }
}
