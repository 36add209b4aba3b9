//! Passwords: argon2id (RFC 9106), made and checked on threads that may be kept busy.
//!
//! Parameters are OWASP's (Password Storage Cheat Sheet): 19 MiB, two passes, one lane; about 20 ms
//! of one core. At most two are computed at the same time, so that a flood of logins takes
//! neither the memory nor the cores that requests need.

use std::sync::{Arc, OnceLock};

use argon2::password_hash::phc::PasswordHash as Parsed;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::model::admin::PasswordHash;
use crate::model::secret::SecretText;
use crate::tasks;

/// How many hashes are computed at once.
const AT_ONCE: usize = 2;

/// NIST SP 800-63B asks for at least 8 and advises 15; nobody types an operator's password often.
pub const SHORTEST: usize = 12;

/// More is a mistake, or somebody who wants us to hash it.
const LONGEST: usize = 1_024;

/// A password that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WeakPassword {
    /// Shorter than [`SHORTEST`] characters.
    #[error("a password has at least {SHORTEST} characters")]
    Short,
    /// Longer than 1,024 bytes.
    #[error("a password has at most {LONGEST} bytes")]
    Long,
    /// It is the name, or one character again and again.
    #[error("this password is the first that anybody would try")]
    Obvious,
}

/// Checks what a password may be.
///
/// # Errors
/// Why it may not.
pub fn check(name: &str, password: &SecretText) -> Result<(), WeakPassword> {
    let text = password.expose();
    if text.chars().count() < SHORTEST {
        return Err(WeakPassword::Short);
    }
    if text.len() > LONGEST {
        return Err(WeakPassword::Long);
    }
    let first = text.chars().next();
    if text.eq_ignore_ascii_case(name) || text.chars().all(|letter| Some(letter) == first) {
        return Err(WeakPassword::Obvious);
    }
    Ok(())
}

/// Makes and checks hashes of passwords.
#[derive(Clone)]
pub(super) struct Passwords {
    room: Arc<Semaphore>,
    /// What is checked where there is nobody: a name that is unknown costs what a known one does. Made at
    /// the first login, whoever's it is: the 19 MiB that a hash takes and frees make the allocator keep
    /// more of what connections give back, and most processes never see a login.
    nobody: Arc<OnceLock<PasswordHash>>,
}

impl Passwords {
    pub(super) fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(AT_ONCE)), nobody: Arc::default() }
    }

    /// The hash of a password that was checked.
    pub(super) async fn hash(&self, password: &SecretText) -> PasswordHash {
        let password = password.clone();
        let _room = self.room.acquire().await;
        tasks::blocking(move || hash_here(password.expose())).await
    }

    /// Whether the password is the hash's; against none it is never, and takes as long.
    pub(super) async fn verify(&self, password: &SecretText, hash: Option<PasswordHash>) -> bool {
        let is_somebody = hash.is_some();
        let (password, nobody) = (password.clone(), Arc::clone(&self.nobody));
        if password.expose().len() > LONGEST {
            return false;
        }
        let _room = self.room.acquire().await;
        let fits = tasks::blocking(move || {
            let nobody = nobody.get_or_init(|| hash_here("nobody has this password"));
            let hash = hash.as_ref().unwrap_or(nobody);
            let parsed = Parsed::new(&hash.0);
            parsed.is_ok_and(|parsed| argon2().verify_password(password.expose().as_bytes(), &parsed).is_ok())
        })
        .await;
        fits && is_somebody
    }
}

/// The hash, computed on this thread: where nothing else waits.
///
/// # Panics
/// When the kernel gives no randomness, which it always does once it has booted.
#[must_use]
pub fn hash_here(password: &str) -> PasswordHash {
    let hash = argon2().hash_password(password.as_bytes());
    PasswordHash(hash.expect("the parameters are legal, and the kernel gives randomness").to_string())
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(19 * 1_024, 2, 1, None).expect("OWASP's parameters are legal");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_argon2id_with_owasps_parameters_and_a_salt_each() {
        let (one, other) = (hash_here("correct horse battery"), hash_here("correct horse battery"));
        assert!(one.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.0);
        assert_ne!(one, other);
        assert_eq!(format!("{one:?}"), "[password hash]");
    }

    #[tokio::test]
    async fn only_the_password_of_somebody_fits() {
        let passwords = Passwords::new();
        let hash = hash_here("correct horse battery");
        let text = |text: &str| SecretText::new(text.to_owned());
        assert!(passwords.verify(&text("correct horse battery"), Some(hash.clone())).await);
        assert!(!passwords.verify(&text("correct horse batterx"), Some(hash)).await);
        assert!(!passwords.verify(&text("correct horse battery"), Some(PasswordHash("$argon2id$".into()))).await);
        assert!(!passwords.verify(&text("nobody has this password"), None).await);
    }

    #[test]
    fn what_a_password_may_be() {
        for (text, weak) in [
            ("short", Some(WeakPassword::Short)),
            ("elevenchars", Some(WeakPassword::Short)),
            ("äöüäöüäöüäöü", None),
            ("aaaaaaaaaaaaaaaa", Some(WeakPassword::Obvious)),
            ("ANNA.MUSTERMANN", Some(WeakPassword::Obvious)),
            ("correct horse battery", None),
            (&"xy".repeat(600), Some(WeakPassword::Long)),
        ] {
            assert_eq!(check("anna.mustermann", &SecretText::new(text.to_owned())).err(), weak, "{text}");
        }
    }
}
