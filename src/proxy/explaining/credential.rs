//! Who a request would be from, and what that lets it do.

use std::sync::Arc;

use super::{Gateway, Outcome, Rejection, Route, Walk, Weighed};
use crate::auth::{AuthError, InvalidReason, Remembered};
use crate::clients::Principal;
use crate::config::route::RouteAuth;
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::Client;
use crate::model::explanation::Proof;
use crate::model::key::{ApiKey, KeyDefect};

/// A path, and what is in force there.
type Setting<'a> = Option<(&'a str, &'a str)>;

/// Whoever a request was found to be from.
pub(super) struct Bearer<'a> {
    /// What it came with, in a word.
    noun: &'static str,
    /// What it may do; none: that is not known any more.
    scopes: Option<&'a Scopes>,
    /// From where it may come; none: from everywhere.
    addresses: Option<&'a AddressRanges>,
    /// As this process knows it; none: it does not yet.
    pub(super) principal: Option<Arc<Principal>>,
}

impl Gateway {
    /// Whoever it is from; none: nobody is asked for.
    pub(super) fn explain_credential<'a>(
        &self,
        walk: &mut Walk<'a>,
        route: &Route,
        path: &str,
    ) -> Outcome<Option<Bearer<'a>>> {
        let auth = format!("{path}.auth");
        let by_auth = Some((auth.as_str(), word(route.config.auth)));
        if let Some(client) = walk.asked.client {
            walk.told.client_id = Some(client.id.0);
            walk.told.client_name = Some(client.name.clone());
            walk.told.plan = client.allowance.plan.as_ref().map(|plan| plan.name.clone());
        }
        walk.told.api_key_id = walk.asked.key.map(|key| key.id.0);
        if route.config.auth == RouteAuth::None {
            walk.pass("credential", "the route asks for none: whoever calls is nobody", by_auth);
            return Ok(None);
        }
        let bearer = match (&walk.asked.question.proof, walk.asked.token) {
            (Proof::Nothing, _) => {
                let why = format!("there is no credential: the route looks for one in {}", places(route));
                return walk.refuse("credential", &AuthError::Missing.into(), &why, by_auth);
            }
            (Proof::Unknown { status, code, reason }, _) => {
                let why = format!("nobody was found by what it came with ({reason}), which is not kept");
                return walk.end("credential", *status, code, &why, by_auth);
            }
            (Proof::Token(_), Some(weighed)) => explain_token(walk, route, by_auth, weighed)?,
            (Proof::Key(_), _) => self.explain_key(walk, route, by_auth)?,
            (Proof::Token(_) | Proof::Client(..), _) => self.explain_known(walk)?,
        };
        let Some(client) = walk.asked.client else { return Ok(None) };
        explain_client(walk, client)?;
        Ok(Some(bearer))
    }

    fn explain_key<'a>(&self, walk: &mut Walk<'a>, route: &Route, by_auth: Setting<'_>) -> Outcome<Bearer<'a>> {
        let Some(key) = walk.asked.key else {
            let unknown = AuthError::invalid(InvalidReason::Unknown).into();
            return walk.refuse("credential", &unknown, "there is no such key any more", by_auth);
        };
        if route.config.auth == RouteAuth::Jwt {
            let refusal = AuthError::invalid(InvalidReason::WrongKind).into();
            return walk.refuse("credential", &refusal, "the route takes tokens only, and this is a key", by_auth);
        }
        explain_defect(walk, key)?;
        let remembered = self.authenticator.remembered(key.id);
        let why = format!(
            "the key {} is good{}; the route looks for it in {}",
            public_name(key),
            known_for(remembered.as_ref()),
            places(route)
        );
        walk.pass("credential", &why, by_auth);
        Ok(of_key(key, remembered))
    }

    /// What it came with is not kept: what can be said is said of the client and the key.
    fn explain_known<'a>(&self, walk: &mut Walk<'a>) -> Outcome<Bearer<'a>> {
        let Some(client) = walk.asked.client else {
            let unknown = AuthError::invalid(InvalidReason::Unknown).into();
            return walk.refuse("credential", &unknown, "its client is there no more", None);
        };
        if let Some(key) = walk.asked.key {
            explain_defect(walk, key)?;
            let remembered = self.authenticator.remembered(key.id);
            let why = format!(
                "it came with the key {}, or with a token of it{}",
                public_name(key),
                known_for(remembered.as_ref())
            );
            walk.pass("credential", &why, None);
            return Ok(of_key(key, remembered));
        }
        walk.note(
            "credential",
            "it came with a token of the client, which is not kept: whether it still holds is not said",
            None,
        );
        let principal = self.authenticator.remembered_client(client.id, None);
        Ok(Bearer { noun: "the token", scopes: None, addresses: None, principal })
    }

    pub(super) fn explain_access(walk: &mut Walk<'_>, route: &Route, path: &str, bearer: &Bearer<'_>) -> Outcome<()> {
        let noun = bearer.noun;
        if let Some(ranges) = bearer.addresses.filter(|ranges| !ranges.is_empty()) {
            match walk.asked.question.address {
                None => walk.note("addresses", &format!("{noun} may be used from {ranges} only"), None),
                Some(address) if ranges.admit(address) => {
                    walk.pass("addresses", &format!("{address} is among {ranges}"), None);
                }
                Some(address) => {
                    let why = format!("{address} is not among {ranges}");
                    return walk.refuse("addresses", &AuthError::AddressDenied.into(), &why, None);
                }
            }
        }
        let (asks, setting) = (&route.config.scopes, format!("{path}.scopes"));
        let by = Some((setting.as_str(), asks.to_string()));
        let by = by.as_ref().map(|(path, value)| (*path, value.as_str()));
        match bearer.scopes {
            _ if asks.is_empty() => {}
            None => walk.note("scopes", &format!("the route asks for `{asks}`"), by),
            Some(has) if has.contain_all(asks) => {
                walk.pass("scopes", &format!("{noun} has what the route asks for: `{asks}`"), by);
            }
            Some(has) => {
                let why = format!("the route asks for `{asks}`, {noun} has `{has}`");
                return walk.refuse("scopes", &AuthError::InsufficientScope.into(), &why, by);
            }
        }
        Ok(())
    }
}

/// A token that was brought along.
fn explain_token<'a>(
    walk: &mut Walk<'a>,
    route: &Route,
    by_auth: Setting<'_>,
    weighed: &'a Weighed,
) -> Outcome<Bearer<'a>> {
    if route.config.auth == RouteAuth::Key {
        let refusal = AuthError::invalid(InvalidReason::WrongKind).into();
        return walk.refuse("credential", &refusal, "the route takes keys only, and this is a token", by_auth);
    }
    let principal = match weighed {
        Ok(principal) => principal,
        Err(AuthError::ClientSuspended { .. }) => {
            let Some(client) = walk.asked.client else { return Err(super::Refused) };
            walk.pass("credential", "the token holds", by_auth);
            return explain_client(walk, client).and(Err(super::Refused));
        }
        Err(error) => {
            let why = match error {
                AuthError::Invalid { reason: InvalidReason::Malformed, .. } => "this is no JWT".to_owned(),
                AuthError::Invalid { reason: InvalidReason::WrongKind, .. } => {
                    "no tokens are taken: no [[auth.issuers]] is configured, and none are issued".to_owned()
                }
                error => error.to_string(),
            };
            return walk.refuse(
                "credential",
                &error.clone().into(),
                &why,
                Some(("auth.issuers", "whose tokens are believed")),
            );
        }
    };
    let whose =
        if walk.asked.key.is_some() { "issued here for a key that works" } else { "of an issuer that is believed" };
    let why = format!("the token holds: it is {whose}; the route looks for it in {}", places(route));
    walk.pass("credential", &why, by_auth);
    Ok(Bearer {
        noun: "the token",
        scopes: Some(&principal.scopes),
        addresses: principal.allowed_addresses.as_deref(),
        principal: Some(Arc::clone(principal)),
    })
}

fn explain_defect(walk: &mut Walk<'_>, key: &ApiKey) -> Outcome<()> {
    let time = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let (reason, why) = match key.defect(walk.now) {
        None => return Ok(()),
        Some(KeyDefect::Revoked) => (InvalidReason::Revoked, format!("was revoked at {}", time(key.revoked_at))),
        Some(KeyDefect::Expired) => (InvalidReason::Expired, format!("expired at {}", time(key.expires_at))),
    };
    let why = format!("the key {} {why}", public_name(key));
    walk.refuse("credential", &AuthError::invalid(reason).into(), &why, None)
}

fn explain_client(walk: &mut Walk<'_>, client: &Client) -> Outcome<()> {
    if client.is_suspended() {
        let why = format!("the client `{}` is suspended (octroi client resume {})", client.name, client.id);
        let refusal = AuthError::ClientSuspended { client: client.id, key: crate::model::id::ApiKeyId::NIL };
        return walk.refuse("client", &Rejection::from(refusal), &why, None);
    }
    walk.pass("client", &format!("the client `{}` is active", client.name), None);
    Ok(())
}

fn of_key(key: &ApiKey, remembered: Option<Remembered>) -> Bearer<'_> {
    Bearer {
        noun: "the key",
        scopes: Some(&key.scopes),
        addresses: Some(&key.allowed_addresses),
        principal: remembered.map(|remembered| remembered.principal),
    }
}

/// What people call a key.
fn public_name(key: &ApiKey) -> String {
    key.key_id.clone().unwrap_or_else(|| key.id.to_string())
}

fn known_for(remembered: Option<&Remembered>) -> String {
    match remembered {
        None => "; this process does not know it yet: its next request looks it up".to_owned(),
        Some(seen) if seen.is_confirmed => format!("; known to this process for {} s", seen.age.as_secs()),
        Some(seen) => {
            format!("; known to this process for {} s, and to be confirmed with the store", seen.age.as_secs())
        }
    }
}

/// Where a route looks for credentials.
fn places(route: &Route) -> String {
    let headers = route.config.credentials.iter().map(ToString::to_string);
    let certificate = route.config.certificate.then(|| "the caller's certificate".to_owned());
    headers.chain(certificate).collect::<Vec<_>>().join(", ")
}

fn word(auth: RouteAuth) -> &'static str {
    match auth {
        RouteAuth::Required => "required",
        RouteAuth::Key => "key",
        RouteAuth::Jwt => "jwt",
        RouteAuth::None => "none",
    }
}
