//! What a role that is for some clients may give their keys: no more than one of the client's working
//! keys has. An operator gives a client its first key; what the client, or who supports it, makes of
//! that is never wider: not in scopes, nor in addresses, nor in time, nor in rate.

use crate::api::caller::Caller;
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::Client;
use crate::model::key::ApiKey;
use crate::model::operator::Role;
use crate::model::rate::RateLimit;
use jiff::Timestamp;

/// So many working keys may such a role make for one client: what people hold, and room for rotation.
const KEYS: usize = 100;

/// So many working keys are looked at, the newest; an operator may have made more than [`KEYS`].
const LOOKED_AT: u32 = 1_000;

/// What a key is to be able to do.
pub(super) struct Wanted<'a> {
    pub(super) scopes: &'a Scopes,
    pub(super) addresses: &'a AddressRanges,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) limit: Option<RateLimit>,
    /// Whether it is one more.
    pub(super) is_new: bool,
    /// The working key whose place it takes: what that one has is no wider for it.
    pub(super) in_place_of: Option<&'a ApiKey>,
}

impl<'a> Wanted<'a> {
    /// A key as it is.
    pub(super) fn of(key: &'a ApiKey) -> Self {
        let limit = key.rate.map(|rate| RateLimit::new(rate, key.burst));
        Self {
            scopes: &key.scopes,
            addresses: &key.allowed_addresses,
            expires_at: key.expires_at,
            limit,
            is_new: false,
            in_place_of: None,
        }
    }

    /// Whether it can do nothing that this cannot.
    fn is_within(&self, key: &Wanted<'_>) -> bool {
        let in_time = match (self.expires_at, key.expires_at) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(wanted), Some(has)) => wanted <= has,
        };
        let in_rate = match (self.limit, key.limit) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(wanted), Some(has)) => wanted.rate.interval() >= has.rate.interval() && wanted.burst <= has.burst,
        };
        in_time && in_rate && key.scopes.contain_all(self.scopes) && self.addresses.are_within(key.addresses)
    }
}

/// That whoever asks may make, or change, a key of this client into this.
///
/// # Errors
/// Its role is for some clients, and this is wider than any of this client's working keys.
pub(super) async fn check(api: &Api, caller: &Caller, client: &Client, wanted: &Wanted<'_>) -> Result<()> {
    let role = caller.actor().role;
    if !role.is_confined() {
        return Ok(());
    }
    if role == Role::Client && client.is_suspended() {
        return Err(Fault::forbidden("this client is suspended: it cannot change its keys"));
    }
    let now = api.clock.wall();
    let turn = caller.turn(api).await?;
    let working = caller.store.keys.working(client.id, now, LOOKED_AT).await?.items;
    drop(turn);
    if wanted.is_new && working.len() >= KEYS {
        return Err(Fault::conflict(format!("this client has {KEYS} working keys: revoke some first")));
    }
    if working.iter().chain(wanted.in_place_of).any(|key| wanted.is_within(&Wanted::of(key))) {
        return Ok(());
    }
    Err(Fault::forbidden(format!(
        "a role {role} gives a key no more than one of the client's working keys has: scopes, addresses, end and rate; \
         ask an operator for more"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::api_key;

    type Change = fn(&mut ApiKey);

    #[test]
    fn what_is_wider_in_anything_is_wider() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let mut has = api_key(1);
        has.scopes = Scopes::new(["orders:*".into()]).unwrap();
        has.allowed_addresses = AddressRanges::new(["192.0.2.0/24"]).unwrap();
        has.expires_at = at(1_000);
        (has.rate, has.burst) = (Some("10/s".parse().unwrap()), None);
        let changes: [(Change, bool); 12] = [
            (|_| {}, true),
            (|key| key.scopes = Scopes::new(["orders:read".into()]).unwrap(), true),
            (|key| key.scopes = Scopes::default(), true),
            (|key| key.scopes = Scopes::new(["orders:read".into(), "users:read".into()]).unwrap(), false),
            (|key| key.allowed_addresses = AddressRanges::new(["192.0.2.7"]).unwrap(), true),
            (|key| key.allowed_addresses = AddressRanges::new(["192.0.2.7", "192.0.3.7"]).unwrap(), false),
            (|key| key.allowed_addresses = AddressRanges::default(), false),
            (|key| key.expires_at = Some(Timestamp::from_second(999).unwrap()), true),
            (|key| key.expires_at = Some(Timestamp::from_second(1_001).unwrap()), false),
            (|key| key.expires_at = None, false),
            (|key| key.rate = Some("5/s".parse().unwrap()), true),
            (|key| key.rate = Some("11/s".parse().unwrap()), false),
        ];
        for (number, (change, fits)) in changes.into_iter().enumerate() {
            let mut wanted = has.clone();
            change(&mut wanted);
            assert_eq!(Wanted::of(&wanted).is_within(&Wanted::of(&has)), fits, "{number}");
        }
    }
}
