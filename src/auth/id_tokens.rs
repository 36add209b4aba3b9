//! Identity tokens of operators' provider (OpenID Connect Core 1.0 §2), verified as every token is; none
//! of them opens a route.

use std::sync::Arc;

use super::jwt::{self, Issuers, Refused};
use crate::config::token_issuer::TokenIssuerConfig;
use crate::model::clock::SharedClock;
use crate::server::outbound::AuthorityFault;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

/// Verifies them.
#[derive(Debug)]
pub struct IdTokens {
    issuers: Issuers,
}

/// What one says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who, for good: `sub`.
    pub subject: String,
    /// What people call it.
    pub name: String,
    /// Its groups.
    pub groups: Vec<String>,
}

/// Why one is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenFault {
    /// It does not hold, or says nothing of whom it is.
    #[error("the identity token is not good: {0}")]
    Refused(&'static str),
    /// The provider's keys are not there.
    #[error("the keys of the provider are not there")]
    NoKeys,
}

impl IdTokens {
    /// Of one provider; its keys are fetched from now on.
    ///
    /// # Errors
    /// A file of authorities that cannot be used.
    pub fn follow(
        rules: &TokenIssuerConfig,
        clock: &SharedClock,
        tasks: &Tasks,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, AuthorityFault> {
        let issuers = Issuers::new(std::slice::from_ref(rules), clock)?;
        issuers.start(tasks, metrics);
        Ok(Self { issuers })
    }

    /// Who a token is of, that was made for `client_id` and with this `nonce` (§3.1.3.7).
    ///
    /// # Errors
    /// It is not believed.
    pub async fn verify(&self, token: &str, client_id: &str, nonce: &str) -> Result<Identity, IdTokenFault> {
        let verified = self.issuers.verify(token.as_bytes()).await.map_err(|refused| match refused {
            Refused::Fault(fault) => IdTokenFault::Refused(fault.as_str()),
            Refused::NoKeys => IdTokenFault::NoKeys,
        })?;
        let said = jwt::id_claims(token.as_bytes()).map_err(|fault| IdTokenFault::Refused(fault.as_str()))?;
        if said.nonce.as_deref() != Some(nonce) {
            return Err(IdTokenFault::Refused("it was made for another way of signing in"));
        }
        if said.authorized_party.map_or(said.audiences > 1, |party| party != client_id) {
            return Err(IdTokenFault::Refused("it was made for another party"));
        }
        if said.is_unverified {
            return Err(IdTokenFault::Refused("the provider has not verified its address"));
        }
        let facts = verified.facts;
        let subject = facts.subject.ok_or(IdTokenFault::Refused("it has no subject"))?;
        Ok(Identity { subject, name: facts.client, groups: facts.scopes.iter().map(ToOwned::to_owned).collect() })
    }
}
