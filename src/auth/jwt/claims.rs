//! What a token says, and whether that holds now.
//!
//! [`Claims::read`] looks at types only, [`Claims::judge`] at the times and the audience. Scopes
//! are what is granted here, not what is enough for a route: that is judged for every request.

use std::time::Duration;

use jiff::Timestamp;

use super::Audience;
use super::fault::TokenFault;
use super::members::{Members, WrongType};
use crate::config::token_issuer::TokenIssuerConfig;
use crate::model::access::Scopes;
use crate::model::id::TokenId;

/// Claims of their types.
#[derive(Debug)]
pub(super) struct Claims {
    expires_at: Option<f64>,
    not_before: Option<f64>,
    issued_at: Option<f64>,
    audiences: Vec<String>,
    subject: Option<String>,
    id: Option<String>,
    client: Option<String>,
    scopes: Scopes,
}

/// What remains of a token that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::auth) struct Facts {
    /// The client, by id or name, as the token names it.
    pub(in crate::auth) client: String,
    /// Who acts for the client.
    pub(in crate::auth) subject: Option<String>,
    /// The token's own id.
    pub(in crate::auth) id: Option<String>,
    /// What it grants.
    pub(in crate::auth) scopes: Scopes,
    /// From then on it does not hold; the leeway is in it.
    pub(in crate::auth) expires_at: Timestamp,
}

impl Facts {
    /// The row of a token of our own.
    pub(in crate::auth) fn issued_id(&self) -> Option<TokenId> {
        self.id.as_deref()?.parse().ok()
    }
}

impl Claims {
    pub(super) fn read(members: &Members, issuer: &TokenIssuerConfig) -> Result<Self, TokenFault> {
        let wrong = |WrongType| TokenFault::Claim;
        let bounded = |name: &str, longest: usize| match members.text(name).map_err(wrong)? {
            Some(text) if text.is_empty() || text.len() > longest => Err(TokenFault::Claim),
            text => Ok(text.map(ToOwned::to_owned)),
        };
        let audiences = members.texts("aud").map_err(wrong)?.unwrap_or_default();
        Ok(Self {
            expires_at: members.seconds("exp").map_err(wrong)?,
            not_before: members.seconds("nbf").map_err(wrong)?,
            issued_at: members.seconds("iat").map_err(wrong)?,
            audiences: audiences.into_iter().map(ToOwned::to_owned).collect(),
            subject: bounded("sub", SUBJECT_MAX)?,
            id: bounded("jti", ID_MAX)?,
            client: bounded(&issuer.client_claim, CLIENT_MAX)?,
            scopes: scopes(members, &issuer.scopes_claim)?,
        })
    }

    /// Whether they hold at `now`, for whom they should.
    pub(super) fn judge(
        self,
        issuer: &TokenIssuerConfig,
        audience: Audience,
        now: Timestamp,
    ) -> Result<Facts, TokenFault> {
        let for_us = || self.audiences.iter().any(|audience| issuer.audiences.contains(audience));
        if audience == Audience::Us && !for_us() {
            return Err(TokenFault::Audience);
        }
        let (now, leeway) = (seconds_of(now), issuer.leeway.as_secs_f64());
        let expires_at = self.expires_at.ok_or(TokenFault::NoExpiry)?;
        if expires_at + leeway <= now {
            return Err(TokenFault::Expired);
        }
        if self.not_before.is_some_and(|at| at > now + leeway) {
            return Err(TokenFault::NotYetValid);
        }
        if self.issued_at.is_some_and(|at| at > now + leeway) {
            return Err(TokenFault::IssuedInFuture);
        }
        // Without `iat`, what remains is all that is known; the clocks may differ by the leeway.
        let begins_at = self.issued_at.unwrap_or(now + leeway);
        if expires_at - begins_at > issuer.max_lifetime.as_secs_f64() {
            return Err(TokenFault::Lifetime);
        }
        Ok(Facts {
            client: self.client.ok_or(TokenFault::NoClient)?,
            subject: self.subject,
            id: self.id,
            scopes: self.scopes,
            expires_at: end(expires_at, issuer.leeway).ok_or(TokenFault::Claim)?,
        })
    }
}

/// Text with spaces between (RFC 8693 §4.2), or a list.
fn scopes(members: &Members, claim: &str) -> Result<Scopes, TokenFault> {
    let texts = members.texts(claim).map_err(|WrongType| TokenFault::Claim)?.unwrap_or_default();
    let names: Vec<String> =
        texts.iter().flat_map(|text| text.split_ascii_whitespace()).map(ToOwned::to_owned).collect();
    if names.len() > SCOPES_MAX {
        return Err(TokenFault::Claim);
    }
    Scopes::new(names).map_err(|_| TokenFault::Claim)
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double's 53 bits for ever")]
fn seconds_of(time: Timestamp) -> f64 {
    time.as_second() as f64 + f64::from(time.subsec_nanosecond()) / 1e9
}

#[expect(clippy::cast_possible_truncation, reason = "the seconds were bounded when they were read")]
fn end(seconds: f64, leeway: Duration) -> Option<Timestamp> {
    Timestamp::from_microsecond((seconds * 1e6) as i64).ok()?.checked_add(leeway).ok()
}

/// OpenID Connect bounds a subject so; it becomes a header, three times as long when encoded.
const SUBJECT_MAX: usize = 255;

/// Ids of tokens are UUIDs or digests.
const ID_MAX: usize = 255;

/// Clients' names are not longer.
const CLIENT_MAX: usize = 512;

/// They become a header.
const SCOPES_MAX: usize = 64;
