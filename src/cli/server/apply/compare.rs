//! What is not as the file says, as deeds: each one request that makes it so.

use std::num::NonZeroU32;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::read::{Members, Wanted, WantedClient, WantedKey};
use crate::cli::server::{Server, items, path};
use crate::cli::{Exit, Failure};
use crate::model::own_limit::LimitChange;

/// One thing to do.
#[derive(Debug)]
pub(super) struct Deed {
    pub(super) what: &'static str,
    pub(super) name: String,
    pub(super) changes: Vec<String>,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
}

/// What is to be done of all that the file says.
///
/// # Errors
/// Something in it cannot be done, as things are.
pub(super) async fn deeds(server: &Server, wanted: &Wanted, now: Timestamp) -> Result<Vec<Deed>, Failure> {
    let mut deeds = plan_deeds(server, wanted).await?;
    for client in &wanted.clients {
        deeds.extend(deeds_of_client(server, wanted, client, now).await?.0);
    }
    Ok(deeds)
}

/// What is to be done of plans.
pub(super) async fn plan_deeds(server: &Server, wanted: &Wanted) -> Result<Vec<Deed>, Failure> {
    let mut deeds = Vec::new();
    for plan in &wanted.plans {
        let found = server.get_list(&path("/v1/plans", &[("name", &plan.name)])).await?;
        let mut members = plan.rest.clone();
        members.insert("name".to_owned(), plan.name.as_str().into());
        deeds.extend(match items(&found).first() {
            None => Some(made("plan", &plan.name, "/v1/plans", members)),
            Some(there) => changed("plan", &plan.name, there, &members, "/v1/plans/"),
        });
    }
    Ok(deeds)
}

/// What is to be done of a client and its keys, and whether it is new.
pub(super) async fn deeds_of_client(
    server: &Server,
    wanted: &Wanted,
    client: &WantedClient,
    now: Timestamp,
) -> Result<(Vec<Deed>, bool), Failure> {
    let mut members = client.rest.clone();
    members.insert("name".to_owned(), client.name.as_str().into());
    if let Some(plan) = &client.plan {
        members.insert("plan_id".to_owned(), plan_id(server, wanted, client, plan).await?);
    }
    let existing = existing_client(server, client).await?;
    check_limit(&client.name, existing.as_ref(), &members)?;
    let Some(existing) = existing else {
        // It is made active, and changed then.
        drop(members.remove("status"));
        return Ok((vec![made("client", &client.name, "/v1/clients", members)], true));
    };
    let mut deeds = Vec::new();
    deeds.extend(changed("client", &client.name, &existing, &members, "/v1/clients/"));
    deeds.extend(key_deeds(server, client, &existing, now).await?);
    Ok((deeds, false))
}

/// The id of the plan that a client names; in words, where the file makes it first.
async fn plan_id(server: &Server, wanted: &Wanted, client: &WantedClient, plan: &str) -> Result<Value, Failure> {
    if plan == "none" {
        return Ok(Value::Null);
    }
    let found = server.get_list(&path("/v1/plans", &[("name", plan)])).await?;
    if let Some(found) = items(&found).first() {
        return Ok(found["id"].clone());
    }
    if wanted.plans.iter().any(|made| made.name == plan) {
        return Ok(format!("the plan {plan}").into());
    }
    Err(Failure::not_found(format!("there is no plan `{plan}` for the client {}", client.name)))
}

async fn existing_client(server: &Server, client: &WantedClient) -> Result<Option<Value>, Failure> {
    if let Some(id) = &client.id {
        return server.get(&format!("/v1/clients/{id}")).await.map(Some);
    }
    let found = server.get_list(&path("/v1/clients", &[("name", &client.name)])).await?;
    match items(&found) {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let detail =
                format!("{} clients are named `{}`: say which with `id` beside the name", several.len(), client.name);
            Err(Failure::new(Exit::Failed, "ambiguous", detail))
        }
    }
}

async fn key_deeds(
    server: &Server,
    client: &WantedClient,
    existing: &Value,
    now: Timestamp,
) -> Result<Vec<Deed>, Failure> {
    if client.keys.is_empty() {
        return Ok(Vec::new());
    }
    let id = existing["id"].as_str().unwrap_or_default();
    let all = server.all(&format!("/v1/clients/{id}/keys")).await?;
    let mut deeds = Vec::new();
    for key in &client.keys {
        let row = existing_key(client, key, &all)?;
        let mut members = key.rest.clone();
        if let (Some(_), Some(name)) = (&key.key_id, &key.name) {
            members.insert("name".to_owned(), name.as_str().into());
        }
        check_limit(&client.name, Some(row), &members)?;
        check_end(&client.name, row, &members, now)?;
        deeds.extend(changed("key", named(key), row, &members, "/v1/keys/"));
    }
    Ok(deeds)
}

fn named(key: &WantedKey) -> &str {
    key.key_id.as_deref().or(key.name.as_deref()).unwrap_or_default()
}

/// The one of a client's keys that is meant.
fn existing_key<'a>(client: &WantedClient, key: &WantedKey, all: &'a [Value]) -> Result<&'a Value, Failure> {
    let is_meant = |row: &&Value| match (&key.key_id, &key.name) {
        (Some(key_id), _) => row["key_id"] == key_id.as_str(),
        (None, Some(name)) => {
            row["name"] == name.as_str() && row["revoked_at"].is_null() && row["replaced_by"].is_null()
        }
        (None, None) => false,
    };
    let found: Vec<&Value> = all.iter().filter(is_meant).collect();
    let (name, named) = (&client.name, named(key));
    let [row] = found.as_slice() else {
        return Err(Failure::not_found(match found.len() {
            0 => format!("the client {name} has no key `{named}`: make it with `octroi key create`"),
            count => format!("the client {name} has {count} keys `{named}`: say which with `key_id`"),
        }));
    };
    Ok(row)
}

/// Whether what will stand there is a limit: the file may name one half of it.
fn check_limit(whose: &str, existing: Option<&Value>, wanted: &Members) -> Result<(), Failure> {
    let rate = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let burst = |value: &Value| value.as_u64().and_then(|count| u32::try_from(count).ok()).and_then(NonZeroU32::new);
    let change = LimitChange { rate: wanted.get("rate").map(rate), burst: wanted.get("burst").map(burst) };
    let there = existing.map_or((None, None), |existing| (rate(&existing["rate"]), burst(&existing["burst"])));
    let made = change.of(there.0, there.1);
    made.map(drop).map_err(|error| Failure::usage(format!("{whose}: {error}")))
}

/// A key that is to end has to end later.
fn check_end(whose: &str, existing: &Value, wanted: &Members, now: Timestamp) -> Result<(), Failure> {
    let Some(text) = wanted.get("expires_at").filter(|at| **at != existing["expires_at"]).and_then(Value::as_str)
    else {
        return Ok(());
    };
    if text.parse::<Timestamp>().is_ok_and(|at| at <= now) {
        return Err(Failure::usage(format!("{whose}: expires_at: {text} lies in the past")));
    }
    Ok(())
}

/// Something that is not there yet.
fn made(what: &'static str, name: &str, list: &str, members: Members) -> Deed {
    let changes = vec!["it is made".to_owned()];
    Deed { what, name: name.to_owned(), changes, method: Method::POST, path: list.to_owned(), body: members.into() }
}

/// What is to be done that something is as it is wanted; none: it is.
fn changed(what: &'static str, name: &str, existing: &Value, wanted: &Members, one: &str) -> Option<Deed> {
    let differing: Members = wanted
        .iter()
        .filter(|(member, value)| existing[member.as_str()] != **value)
        .map(|(member, value)| (member.clone(), value.clone()))
        .collect();
    if differing.is_empty() {
        return None;
    }
    let tell = |(member, value): (&String, &Value)| format!("{member}: {} -> {value}", existing[member.as_str()]);
    let changes = differing.iter().map(tell).collect();
    let path = format!("{one}{}", existing["id"].as_str()?);
    Some(Deed { what, name: name.to_owned(), changes, method: Method::PATCH, path, body: json!(differing) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: &Value) -> Members {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_what_differs_is_changed() {
        let policies = json!([{"name": "gold", "rate": "5/s", "burst": 5, "mode": "enforce"}]);
        let there = json!({"id": "1", "name": "gold", "concurrency": null, "policies": policies});
        let told = |wanted: Value| changed("plan", "gold", &there, &members(&wanted), "/v1/plans/");
        assert!(told(json!({"name": "gold", "policies": policies})).is_none());
        let one = told(json!({"name": "gold", "concurrency": 3})).unwrap();
        assert_eq!((one.method, one.path.as_str()), (Method::PATCH, "/v1/plans/1"));
        assert_eq!(one.body, json!({"concurrency": 3}));
        let new = made("plan", "new", "/v1/plans", members(&json!({"name": "new"})));
        assert_eq!((new.method, new.path.as_str()), (Method::POST, "/v1/plans"));
    }

    #[test]
    fn halves_of_a_limit_are_judged_by_what_is_there() {
        for (there, wanted, can_be) in [
            (Some(json!({"rate": "5/s", "burst": null})), json!({"burst": 9}), true),
            (Some(json!({"rate": null, "burst": null})), json!({"burst": 9}), false),
            (None, json!({"burst": 9}), false),
            (None, json!({"rate": "5/s", "burst": 9}), true),
            (Some(json!({"rate": "5/s", "burst": 9})), json!({"rate": null}), true),
            (Some(json!({"rate": "5/s", "burst": 900})), json!({"rate": "1/d"}), false),
        ] {
            assert_eq!(check_limit("acme", there.as_ref(), &members(&wanted)).is_ok(), can_be, "{there:?} {wanted}");
        }
    }
}
