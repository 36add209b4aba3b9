//! The text with which the command line shows a gateway on the same machine that it may read the same
//! files: a JWT (RFC 7519, HS256) under a key derived from the pepper and from a secret that the
//! gateway leaves in its folder, for its own user, when it starts.
//!
//! Whoever can read both, and so the store, can do everything already; the pepper alone opens nothing.
//! This lets `octroi top`, `explain` and their like ask the process that serves without a token being
//! made and kept. It lives a minute, its `typ` is its own, and it is good on loopback only, and not
//! through a proxy there (`api` sees to that).

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::model::secret::{SecretBytes, SecretText};

/// How long one is good, in seconds.
const LIFE: i64 = 60;

/// What it is made for: no other use of the pepper makes the same bytes.
const PURPOSE: &[u8] = b"octroi shell text v2";

/// The gateway's secret, in its folder.
pub const FILE: &str = "shell.secret";

/// The same before it is whole.
const PREPARING: &str = "shell.secret.new";

/// Its bytes.
const SECRET: usize = 32;

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
    /// Leaves a new secret in the gateway's folder: texts of one that served before are void.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn leave_secret(folder: &Path, pepper: &SecretBytes) -> io::Result<Self> {
        let mut secret = Zeroizing::new([0; SECRET]);
        getrandom::fill(&mut *secret).map_err(|error| io::Error::other(error.to_string()))?;
        fs::create_dir_all(folder)?;
        let (file, preparing) = (folder.join(FILE), folder.join(PREPARING));
        let _ = fs::remove_file(&preparing);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&preparing)?.write_all(&*secret)?;
        fs::rename(preparing, file)?;
        Ok(Self::new(pepper, &*secret))
    }

    /// Of the secret that the gateway of this folder left.
    ///
    /// # Errors
    /// It is not there, or not for whoever asks.
    pub fn of_folder(folder: &Path, pepper: &SecretBytes) -> io::Result<Self> {
        let secret = Zeroizing::new(fs::read(folder.join(FILE))?);
        if secret.len() != SECRET {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not what a gateway leaves there"));
        }
        Ok(Self::new(pepper, &secret))
    }

    fn new(pepper: &SecretBytes, secret: &[u8]) -> Self {
        let derive = Hmac::<Sha256>::new_from_slice(pepper.expose()).expect("HMAC takes keys of any length");
        let key = derive.chain_update(PURPOSE).chain_update(secret).finalize().into_bytes();
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
    use std::os::unix::fs::PermissionsExt as _;
    use uuid::Uuid;

    #[test]
    fn a_text_is_good_for_a_minute_under_the_same_pepper_and_secret() {
        let folder = tempfile::tempdir().unwrap();
        let pepper = SecretBytes::new(vec![7; 32]);
        assert!(ShellTexts::of_folder(folder.path(), &pepper).is_err(), "nobody serves there");
        let before = ShellTexts::leave_secret(folder.path(), &pepper).unwrap().make("root", 1_000);
        let serving = ShellTexts::leave_secret(folder.path(), &pepper).unwrap();
        assert_eq!(fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        let texts = ShellTexts::of_folder(folder.path(), &pepper).unwrap();
        assert_eq!(serving.read(texts.make("root", 1_000).expose(), 1_000).as_deref(), Some("root"));
        let text = texts.make("root", 1_000);
        for (now, user) in [(1_000, Some("root")), (1_059, Some("root")), (1_060, None), (800, None)] {
            assert_eq!(texts.read(text.expose(), now).as_deref(), user, "{now}");
        }
        let other = ShellTexts::of_folder(folder.path(), &SecretBytes::new(vec![8; 32])).unwrap().make("root", 1_000);
        let session = SessionTexts::new(&pepper).make(&SessionClaims {
            operator: Uuid::nil(),
            session: Uuid::nil(),
            iat: 1_000,
            exp: 1_050,
        });
        for wrong in [other.expose(), before.expose(), session.expose(), "", "a.b.c", &text.expose()[1..]] {
            assert_eq!(texts.read(wrong, 1_000), None, "{wrong}");
        }
    }
}
