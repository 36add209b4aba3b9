//! What our own endpoints ask: who presents a key there, and what a token of ours is worth.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use super::Authenticator;
use crate::auth::credential::{self, Credential};
use crate::auth::error::{AuthError, InvalidReason};
use crate::auth::failures::Reservation;
use crate::clients::Principal;
use crate::model::clock::Monotonic;
use crate::model::issued::TokenRecord;

/// An attempt that was charged to an address in advance.
#[derive(Debug)]
pub struct Attempt(Reservation);

impl Attempt {
    /// It was no guess: the charge is given back.
    pub fn was_good(self) {
        self.0.give_back();
    }
}

impl Authenticator {
    /// The principal behind a key at one of our endpoints; none where nothing is presented. `beside`
    /// is a key that came elsewhere than in a header. Tokens are refused: none begets another.
    ///
    /// # Errors
    /// The private reason.
    pub async fn authenticate_key(
        &self,
        headers: &HeaderMap,
        beside: Option<&[u8]>,
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Option<Arc<Principal>>, AuthError> {
        let outcome = self.identify_at_endpoint(headers, beside, address, now).await;
        match &outcome {
            Ok(Some(_)) => self.metrics.auth_passed(),
            Ok(None) => {}
            Err(error) => self.metrics.auth_failed(error.reason()),
        }
        outcome
    }

    async fn identify_at_endpoint(
        &self,
        headers: &HeaderMap,
        beside: Option<&[u8]>,
        address: IpAddr,
        now: Monotonic,
    ) -> Result<Option<Arc<Principal>>, AuthError> {
        let raw = match (credential::extract(&self.looks_at, headers)?, beside) {
            // Headers bring no certificate; whoever shows one for the connection has to bring a key too.
            (Credential::Absent | Credential::Certificate(_), None) => return Ok(None),
            (Credential::Jwt(_), None) => return Err(AuthError::invalid(InvalidReason::WrongKind)),
            (Credential::Key(raw), None) | (Credential::Absent, Some(raw)) => raw,
            (_, Some(_)) => return Err(AuthError::Ambiguous("a header and the body carry one each")),
        };
        let cached = self.identify_key(raw, address, now).await?;
        self.judge(&cached)?;
        let principal = Arc::clone(&cached.principal);
        if !principal.may_call_from(address) {
            return Err(AuthError::AddressDenied);
        }
        Ok(Some(principal))
    }

    /// Charges an address for presenting something that could be guessed, before it is looked for.
    ///
    /// # Errors
    /// Its failure budget is spent.
    pub async fn charge_attempt(&self, address: IpAddr) -> Result<Attempt, AuthError> {
        match self.charge(address, || None).await? {
            Ok(reservation) => Ok(Attempt(reservation)),
            Err(_) => Err(AuthError::Unavailable),
        }
    }

    /// The row of a token that we signed and that has not ended, whomever it is for; none: it is no
    /// such token. Whether it was revoked is for the caller to judge.
    ///
    /// # Errors
    /// The store could not say.
    pub async fn inspect(&self, token: &[u8]) -> Result<Option<TokenRecord>, AuthError> {
        let Ok(verified) = self.issuers.verify_own(token).await else { return Ok(None) };
        let Some(id) = verified.facts.issued_id() else { return Ok(None) };
        let issued = Arc::clone(&self.issued);
        let found = self.tasks.spawn_control(async move { issued.find(id).await }).await;
        found.map_err(|_| AuthError::Unavailable)?.map_err(|_| AuthError::Unavailable)
    }
}
