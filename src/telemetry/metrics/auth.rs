//! What is counted of credentials: who was let in, what the caches knew, what was issued.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ResultLabels;
use super::words::Words;

/// Authentications, by result and private reason.
#[derive(Debug)]
pub(super) struct Authentications {
    pub(super) passed: Counter,
    pub(super) refused: Words,
}

/// Look-ups in the caches.
pub(super) struct CacheCounters {
    pub(super) hit: Counter,
    pub(super) miss: Counter,
    pub(super) negative: Counter,
}

/// Tokens of our own.
pub(super) struct IssuedCounters {
    pub(super) to_keys: Counter,
    pub(super) to_refresh_tokens: Counter,
    pub(super) families_revoked: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AuthLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GrantLabels {
    grant: &'static str,
}

impl Authentications {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let auth = Family::<AuthLabels, Counter>::default();
        registry.register("auth", "Authentications, by result and private reason", auth.clone());
        Self {
            passed: auth.get_or_create_owned(&AuthLabels { result: "ok", reason: "" }),
            refused: Words::new(move |reason| auth.get_or_create_owned(&AuthLabels { result: "refused", reason })),
        }
    }
}

impl CacheCounters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let cache = Family::<ResultLabels, Counter>::default();
        registry.register("auth_cache", "Look-ups in the caches of credentials", cache.clone());
        let [hit, miss, negative] =
            ["hit", "miss", "negative"].map(|result| cache.get_or_create_owned(&ResultLabels { result }));
        Self { hit, miss, negative }
    }
}

impl IssuedCounters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let issued = Family::<GrantLabels, Counter>::default();
        registry.register("tokens_issued", "Verification tokens issued, by grant", issued.clone());
        let by = |grant| issued.get_or_create_owned(&GrantLabels { grant });
        let families_revoked = Counter::default();
        let help = "Families of refresh tokens revoked because one was used again";
        registry.register("token_families_revoked", help, families_revoked.clone());
        Self { to_keys: by("client_credentials"), to_refresh_tokens: by("refresh_token"), families_revoked }
    }
}

/// Attempts that ended well and badly, and the age of the oldest set.
pub(super) fn register_jwks(registry: &mut Registry) -> ([Counter; 2], Gauge<f64, AtomicU64>) {
    let refreshes = Family::<ResultLabels, Counter>::default();
    registry.register("jwks_refresh", "Attempts at the key set of an issuer, by result", refreshes.clone());
    let age = Gauge::<f64, AtomicU64>::default();
    registry.register("jwks_age_seconds", "For how long an issuer's key set was not confirmed", age.clone());
    (["ok", "failed"].map(|result| refreshes.get_or_create_owned(&ResultLabels { result })), age)
}
