//! Whether this pepper is the one the store was hashed with.
//!
//! A wrong pepper is silent: every key is simply unknown. So the store keeps a fingerprint of
//! each pepper it has seen, trusted on first use, and a process that comes with another stops
//! before it serves.

use jiff::Timestamp;
use thiserror::Error;

use crate::crypto::pepper::Peppers;
use crate::store::rotation::RotationStore;
use crate::store::{PepperStore, StoreError};

/// The numbers under which the live peppers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PepperVersions {
    /// The current one's.
    pub current: i32,
    /// The other one's, if there is one and the store knows it.
    pub previous: Option<i32>,
}

/// Why a process may not serve with its pepper.
#[derive(Debug, Error)]
pub enum PepperError {
    /// The store was hashed with another one.
    #[error(
        "the pepper is not the one this store's keys were hashed with: no key would be recognised. Start with the \
         former API_KEY_PEPPER; to change it, give the former one as API_KEY_PEPPER_PREVIOUS as well"
    )]
    Mismatch,
    /// Keys were hashed with a pepper that this process does not have.
    #[error(
        "{keys} keys are still hashed with {versions}, which this process does not have: they would stop working. \
         Give it as API_KEY_PEPPER_PREVIOUS until `octroi pepper status` counts none under it; keys that nobody uses \
         any more stay there until they are revoked"
    )]
    Needed {
        /// How many.
        keys: u64,
        /// Of which peppers, in words.
        versions: String,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Compares the live peppers with those the store has seen. The first pepper a store ever sees is
/// trusted, and so is a new one that comes with a known one as the previous.
///
/// # Errors
/// The store knows other peppers only, or could not be asked.
pub async fn guard_pepper(peppers: &Peppers, store: &dyn PepperStore) -> Result<PepperVersions, PepperError> {
    let known = store.list().await?;
    let version_of =
        |fingerprint: &str| known.iter().find(|record| record.fingerprint == fingerprint).map(|record| record.version);
    let current = peppers.current.fingerprint();
    let previous = peppers.previous.as_ref().and_then(|previous| version_of(&previous.fingerprint()));
    let current = match version_of(&current) {
        Some(version) => version,
        None if known.is_empty() || previous.is_some() => {
            let version = store.trust(&current).await?;
            tracing::info!(version, "this pepper was not seen before and is trusted from now on");
            version
        }
        None => return Err(PepperError::Mismatch),
    };
    Ok(PepperVersions { current, previous })
}

/// Sees that no key needs a pepper that is not alive any more. Keys whose pepper is not known yet
/// are not judged.
///
/// # Errors
/// Some do, or the store could not be asked.
pub async fn guard_hashes(
    versions: PepperVersions,
    store: &dyn RotationStore,
    now: Timestamp,
) -> Result<(), PepperError> {
    let counts = store.count_hashes(now).await?;
    let is_live = |version: i32| version == versions.current || versions.previous == Some(version);
    let needed: Vec<_> = counts.by_version.iter().filter(|(version, _)| !is_live(*version)).collect();
    if needed.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = needed.iter().map(|(version, _)| format!("pepper version {version}")).collect();
    let keys = needed.iter().map(|(_, keys)| keys).sum();
    Err(PepperError::Needed { keys, versions: named.join(" and ") })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::model::secret::SecretBytes;
    use crate::store::{PepperRecord, Result};

    #[derive(Default)]
    struct Fingerprints(Mutex<Vec<String>>);

    #[async_trait]
    impl PepperStore for Fingerprints {
        async fn list(&self) -> Result<Vec<PepperRecord>> {
            let fingerprints = self.0.lock().unwrap();
            let records = fingerprints.iter().zip(1..).map(|(fingerprint, version)| PepperRecord {
                version,
                fingerprint: fingerprint.clone(),
                retired_at: None,
            });
            Ok(records.collect())
        }

        async fn trust(&self, fingerprint: &str) -> Result<i32> {
            let mut fingerprints = self.0.lock().unwrap();
            fingerprints.push(fingerprint.into());
            Ok(i32::try_from(fingerprints.len()).unwrap())
        }
    }

    fn peppers(current: &str, previous: Option<&str>) -> Peppers {
        let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        Peppers::new(&secret(current), previous.map(secret).as_ref())
    }

    #[tokio::test]
    async fn a_pepper_is_trusted_first_and_then_guarded() {
        for (seen, current, previous, expected) in [
            (&[][..], "new", None, Some((1, None))),
            (&[], "new", Some("other"), Some((1, None))),
            (&["old"], "old", None, Some((1, None))),
            (&["old"], "new", None, None),
            (&["old"], "new", Some("old"), Some((2, Some(1)))),
            (&["old"], "new", Some("stranger"), None),
            (&["old", "new"], "new", Some("old"), Some((2, Some(1)))),
            (&["old", "new"], "old", None, Some((1, None))),
            (&["old"], "old", Some("new"), Some((1, None))),
        ] {
            let store = Fingerprints::default();
            for pepper in seen {
                store.trust(&peppers(pepper, None).current.fingerprint()).await.unwrap();
            }
            let outcome = guard_pepper(&peppers(current, previous), &store).await;
            let versions = outcome.as_ref().ok().map(|versions| (versions.current, versions.previous));
            assert_eq!(versions, expected, "{seen:?} seen, now {current} and {previous:?}");
            if expected.is_none() {
                assert!(matches!(outcome, Err(PepperError::Mismatch)));
                assert!(outcome.unwrap_err().to_string().contains("API_KEY_PEPPER_PREVIOUS"));
            }
        }
    }
}
