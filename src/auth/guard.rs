//! The pepper guard: a process started with the wrong pepper must not serve.
//!
//! With it every key would look unknown, and keys made meanwhile would be lost to all others.
//! Fingerprints are trusted on first use and compared ever after.

use thiserror::Error;

use crate::crypto::pepper::Peppers;
use crate::store::{PepperStore, StoreError};

/// The pepper is not one the store's hashes were made with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the pepper is not the one this store's keys were hashed with (its fingerprint is {fingerprint}, the store knows {known}); \
     start with the pepper of before; to rotate it, set API_KEY_PEPPER to the new one and API_KEY_PEPPER_PREVIOUS to the old"
)]
pub struct PepperMismatch {
    fingerprint: String,
    known: String,
}

/// The versions under which the store knows the peppers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PepperVersions {
    /// Of the current one.
    pub current: i32,
    /// Of the other one, where there is one that the store knows.
    pub previous: Option<i32>,
}

/// Compares the peppers with what the store was hashed with; notes them where that is legal.
///
/// The outer error is the store's; the inner one is a pepper that must not be used.
pub async fn guard_pepper(
    peppers: &Peppers,
    store: &dyn PepperStore,
) -> Result<Result<PepperVersions, PepperMismatch>, StoreError> {
    let known = store.list().await?;
    let fingerprint = peppers.current.fingerprint();
    let previous = peppers.previous.as_ref().map(super::super::crypto::pepper::Pepper::fingerprint);
    let is_known = |print: &str| known.iter().any(|record| record.fingerprint == print);
    let trusted = known.is_empty() || is_known(&fingerprint) || previous.as_deref().is_some_and(is_known);
    if !trusted {
        let known: Vec<_> = known.into_iter().map(|record| record.fingerprint).collect();
        return Ok(Err(PepperMismatch { fingerprint, known: known.join(", ") }));
    }
    let current = store.trust(&fingerprint).await?;
    let previous = match previous {
        Some(fingerprint) => Some(store.trust(&fingerprint).await?),
        None => None,
    };
    Ok(Ok(PepperVersions { current, previous }))
}
