//! `/v1/keys` and `/v1/clients/{id}/keys`

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Problems;
use super::bounds::{self, Wanted};
use super::clients::{self, check_name, present};
use crate::api::caller::Caller;
use crate::api::extract::{Body, Held, IfMatch, Named, Parameters, Tagged};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{KeyView, Listed, MadeKeyView};
use crate::config::units::{self, DURATION_FORM};
use crate::crypto::key_text::Environment;
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{ApiKey, KeyChange, KeyDefect, NewApiKey, NotRotated, Rotation};
use crate::model::operator::Permission;
use crate::model::own_limit::{self, LimitChange};
use crate::model::rate::{Rate, RateLimit};
use crate::store::Page;

/// Which keys.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct KeyQuery {
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
    /// Only this client's; roles that are for several clients say which.
    pub(in crate::api) client: Option<Uuid>,
    /// Only the one with this public id.
    pub(in crate::api) key_id: Option<String>,
}

/// Which of a client's keys.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ClientKeyQuery {
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
}

/// A key that is to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct KeyInput {
    /// What people call it; `default` without it.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(in crate::api) name: Option<String>,
    /// What its text says it is for: `live` or `test`.
    #[serde(default)]
    #[schema(pattern = "^(live|test)$")]
    pub(in crate::api) env: Option<String>,
    /// What it may do: visible ASCII without quote and backslash.
    #[serde(default)]
    pub(in crate::api) scopes: Option<Vec<String>>,
    /// A rate of its own, like `10/s`; the client's goes on to hold for all its keys together.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,8}/[smhd]$")]
    pub(in crate::api) rate: Option<Rate>,
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000_000)]
    pub(in crate::api) burst: Option<NonZeroU32>,
    /// From where it may be used, like `192.0.2.0/24`; from everywhere without it.
    #[serde(default)]
    pub(in crate::api) allowed_addresses: Option<Vec<String>>,
    /// When it stops working; never without it.
    #[serde(default)]
    pub(in crate::api) expires_at: Option<Timestamp>,
}

/// What is to be changed beside a key's text: members that are left out stay, null takes away.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct KeyPatch {
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(in crate::api) name: Option<String>,
    /// All that it may do.
    #[serde(default)]
    pub(in crate::api) scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,8}/[smhd]$")]
    pub(in crate::api) rate: Option<Option<Rate>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000_000)]
    pub(in crate::api) burst: Option<Option<NonZeroU32>>,
    #[serde(default)]
    pub(in crate::api) allowed_addresses: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Timestamp>)]
    pub(in crate::api) expires_at: Option<Option<Timestamp>>,
}

/// How a key is to be rotated.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct RotateInput {
    /// How much longer the old key works, at most, like `24h`, which it is without it; `0s` revokes it at once.
    #[serde(default)]
    #[schema(pattern = "^[0-9]{1,4}(s|m|h|d)$")]
    pub(in crate::api) grace: Option<String>,
    /// When the new key stops working; when the old one would have, without it.
    #[serde(default)]
    pub(in crate::api) expires_at: Option<Timestamp>,
}

/// List keys of all clients, oldest first. Roles that are for one client see its keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(KeyQuery),
    responses((status = 200, body = Listed<KeyView>), Problems))]
pub(in crate::api) async fn list(
    caller: Caller,
    Parameters(query): Parameters<KeyQuery>,
) -> Result<Json<Listed<KeyView>>> {
    if let Some(key_id) = &query.key_id {
        let found = caller.store.keys.find_by_key_id(key_id).await?;
        let asked = |key: &ApiKey| query.client.is_none_or(|client| client == key.client_id.0);
        let found = found.filter(|key| asked(key) && caller.reach(Permission::ReadKeys, key.client_id).is_ok());
        return Ok(Json(Listed::whole(found.iter().map(KeyView::from).collect())));
    }
    let client = caller.confined_to(Permission::ReadKeys, query.client.map(ClientId))?;
    shown(&caller, client, query.limit, query.after).await
}

/// List a client's keys, oldest first.
#[utoipa::path(get, path = "/v1/clients/{id}/keys", tag = "keys", params(("id" = Uuid, Path), ClientKeyQuery),
    responses((status = 200, body = Listed<KeyView>), Problems))]
pub(in crate::api) async fn list_of_client(
    caller: Caller,
    Named(id): Named<Uuid>,
    Parameters(query): Parameters<ClientKeyQuery>,
) -> Result<Json<Listed<KeyView>>> {
    let client = clients::found(&caller, Permission::ReadKeys, ClientId(id)).await?;
    shown(&caller, Some(client.id), query.limit, query.after).await
}

async fn shown(
    caller: &Caller,
    client: Option<ClientId>,
    limit: Option<u32>,
    after: Option<Uuid>,
) -> Result<Json<Listed<KeyView>>> {
    let page = listed(caller, client, limit, after).await?;
    Ok(Json(Listed::of(&page, |key| key.id.to_string(), |key| KeyView::from(key))))
}

/// Keys of a client, or of all.
pub(in crate::api) async fn listed(
    caller: &Caller,
    client: Option<ClientId>,
    limit: Option<u32>,
    after: Option<Uuid>,
) -> Result<Page<ApiKey>> {
    let after = after.map(ApiKeyId);
    if let Some(after) = after {
        let key = caller.store.keys.find(after).await?;
        // One that is another client's is no cursor for who is not to know of it.
        let is_there = key.is_some_and(|key| caller.reach(Permission::ReadKeys, key.client_id).is_ok());
        if !is_there {
            return Err(super::no_cursor(after));
        }
    }
    Ok(caller.store.keys.list(client, after, super::limit(limit)?).await?)
}

/// Make a key; it is shown this once.
#[utoipa::path(post, path = "/v1/clients/{id}/keys", tag = "keys", request_body = KeyInput, params(("id" = Uuid, Path)),
    responses((status = 201, body = MadeKeyView), Problems))]
pub(in crate::api) async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Body(input): Body<KeyInput>,
) -> Result<(StatusCode, Json<MadeKeyView>)> {
    Ok((StatusCode::CREATED, Json(made(&api, &caller, ClientId(id), input).await?)))
}

/// Makes a key.
pub(in crate::api) async fn made(api: &Api, caller: &Caller, client: ClientId, input: KeyInput) -> Result<MadeKeyView> {
    let client = clients::found(caller, Permission::WriteKeys, client).await?;
    let name = input.name.unwrap_or_else(|| "default".to_owned());
    check_name(&name)?;
    own_limit::check(input.rate, input.burst)?;
    let environment = match input.env.as_deref() {
        None => Environment::Live,
        Some(word) => Environment::parse(word).ok_or_else(|| Fault::bad_request("env is `live` or `test`"))?,
    };
    let scopes = scopes(input.scopes.unwrap_or_default())?;
    let allowed_addresses = ranges(&input.allowed_addresses.unwrap_or_default())?;
    check_end(api, input.expires_at)?;
    let wanted = Wanted {
        scopes: &scopes,
        addresses: &allowed_addresses,
        expires_at: input.expires_at,
        limit: input.rate.map(|rate| RateLimit::new(rate, input.burst)),
        is_new: true,
        in_place_of: None,
    };
    bounds::check(api, caller, &client, &wanted).await?;
    let made = api.mint.make(environment);
    let new = NewApiKey {
        client_id: client.id,
        name,
        key_id: Some(made.key_id),
        hash: made.hash,
        pepper_version: Some(api.mint.pepper_version()),
        scopes,
        rate: input.rate,
        burst: input.burst,
        allowed_addresses,
        expires_at: input.expires_at,
    };
    let key = caller.store.keys.create(new).await?;
    Ok(MadeKeyView { key: Some(made.text.expose().to_owned()), row: KeyView::from(&key) })
}

/// Show what is known of a key.
#[utoipa::path(get, path = "/v1/keys/{id}", tag = "keys", params(("id" = Uuid, Path)),
    responses((status = 200, body = KeyView), Problems))]
pub(in crate::api) async fn show(caller: Caller, Named(id): Named<Uuid>) -> Result<Tagged<KeyView>> {
    Ok(Tagged(KeyView::from(&found(&caller, Permission::ReadKeys, ApiKeyId(id)).await?)))
}

/// The key, if it is there for whoever asks.
pub(in crate::api) async fn found(caller: &Caller, permission: Permission, id: ApiKeyId) -> Result<ApiKey> {
    let missing = || Fault::not_found(format!("there is no key {id}"));
    let key = caller.store.keys.find(id).await?.ok_or_else(missing)?;
    // Another client's key is as little there as one that never was.
    caller.reach(permission, key.client_id).map_err(|fault| match fault.code {
        "not_found" => missing(),
        _ => fault,
    })?;
    Ok(key)
}

/// Change what stands beside a key's text. With `If-Match`, only if it is still as it was read.
#[utoipa::path(patch, path = "/v1/keys/{id}", tag = "keys", request_body = KeyPatch,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = KeyView), Problems))]
pub(in crate::api) async fn update(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    condition: IfMatch,
    Body(patch): Body<KeyPatch>,
) -> Result<Tagged<KeyView>> {
    let key = found(&caller, Permission::WriteKeys, ApiKeyId(id)).await?;
    let key = condition.held::<KeyView, _>(key)?;
    Ok(Tagged(KeyView::from(&changed(&api, &caller, &key, patch).await?)))
}

/// Changes what stands beside a key's text.
pub(in crate::api) async fn changed(
    api: &Api,
    caller: &Caller,
    held: &Held<ApiKey>,
    patch: KeyPatch,
) -> Result<ApiKey> {
    let key = &held.row;
    patch.name.as_deref().map(check_name).transpose()?;
    let limit = LimitChange { rate: patch.rate, burst: patch.burst }.of(key.rate, key.burst)?;
    check_end(api, patch.expires_at.flatten())?;
    let change = KeyChange {
        name: patch.name,
        scopes: patch.scopes.map(scopes).transpose()?,
        rate: limit.rate,
        burst: limit.burst,
        allowed_addresses: patch.allowed_addresses.as_deref().map(ranges).transpose()?,
        expires_at: patch.expires_at,
        // What is not named is the row's, and how far the whole of it may go was judged by that.
        only_if: held.only_if().or_else(|| caller.actor().role.is_confined().then(|| Box::new(key.clone()))),
    };
    let client = clients::found(caller, Permission::WriteKeys, key.client_id).await?;
    let after = as_changed(key, &change);
    // One that was over and works again is one more.
    let is_new = key.defect(api.clock.wall()).is_some();
    bounds::check(api, caller, &client, &Wanted { is_new, ..Wanted::of(&after) }).await?;
    let changed = caller.store.keys.update(key.id, change).await?;
    changed.ok_or_else(|| Fault::not_found(format!("there is no key {}", key.id)))
}

/// The key as it will be.
fn as_changed(key: &ApiKey, change: &KeyChange) -> ApiKey {
    ApiKey {
        scopes: change.scopes.clone().unwrap_or_else(|| key.scopes.clone()),
        rate: change.rate.unwrap_or(key.rate),
        burst: change.burst.unwrap_or(key.burst),
        allowed_addresses: change.allowed_addresses.clone().unwrap_or_else(|| key.allowed_addresses.clone()),
        expires_at: change.expires_at.unwrap_or(key.expires_at),
        ..key.clone()
    }
}

/// Revoke a key: it opens nothing from now on. One revoked already keeps its time.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys", params(("id" = Uuid, Path)),
    responses((status = 200, body = KeyView), Problems))]
pub(in crate::api) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
) -> Result<Json<KeyView>> {
    Ok(Json(KeyView::from(&revoked(&api, &caller, ApiKeyId(id)).await?)))
}

/// Revokes a key.
pub(in crate::api) async fn revoked(api: &Api, caller: &Caller, id: ApiKeyId) -> Result<ApiKey> {
    let key = found(caller, Permission::WriteKeys, id).await?;
    let revoked = caller.store.keys.revoke(key.id, api.clock.wall()).await?;
    revoked.ok_or_else(|| Fault::not_found(format!("there is no key {id}")))
}

/// Make a key that takes another's place; it is shown this once.
#[utoipa::path(post, path = "/v1/keys/{id}/rotate", tag = "keys", request_body = RotateInput, params(("id" = Uuid, Path)),
    responses((status = 201, body = MadeKeyView), Problems))]
pub(in crate::api) async fn rotate(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Body(input): Body<RotateInput>,
) -> Result<(StatusCode, Json<MadeKeyView>)> {
    Ok((StatusCode::CREATED, Json(rotated(&api, &caller, ApiKeyId(id), input).await?)))
}

/// Rotates a key.
pub(in crate::api) async fn rotated(
    api: &Api,
    caller: &Caller,
    id: ApiKeyId,
    input: RotateInput,
) -> Result<MadeKeyView> {
    let old = found(caller, Permission::WriteKeys, id).await?;
    let at = api.clock.wall();
    if let Some(refusal) = old.rotation_refusal(at) {
        return Err(not_rotated(&old, refusal));
    }
    let grace = match input.grace.as_deref() {
        None => Duration::from_hours(24),
        Some(text) => units::parse_duration(text)
            .ok_or_else(|| Fault::bad_request(format!("`{text}` is not a duration: write {DURATION_FORM}")))?,
    };
    check_end(api, input.expires_at)?;
    let client = clients::found(caller, Permission::WriteKeys, old.client_id).await?;
    let expires_at = input.expires_at.or(old.expires_at);
    // Without a grace there is no moment at which both work.
    let is_new = !grace.is_zero();
    let wanted = Wanted { expires_at, is_new, in_place_of: Some(&old), ..Wanted::of(&old) };
    bounds::check(api, caller, &client, &wanted).await?;
    let old_until = at.checked_add(grace).map_err(|_| Fault::bad_request("`grace` lies beyond the calendar"))?;
    let made = api.mint.make(api.mint.kind_of(&old));
    let rotation = Rotation {
        key_id: Some(made.key_id),
        hash: made.hash,
        pepper_version: Some(api.mint.pepper_version()),
        expires_at: input.expires_at,
        at,
        old_until,
    };
    let successor = caller.store.keys.rotate(id, rotation).await?.map_err(|refusal| not_rotated(&old, refusal))?;
    Ok(MadeKeyView { key: Some(made.text.expose().to_owned()), row: KeyView::from(&successor) })
}

fn not_rotated(old: &ApiKey, why: NotRotated) -> Fault {
    let id = old.id;
    match why {
        NotRotated::Unknown => Fault::not_found(format!("there is no key {id}")),
        NotRotated::Defect(KeyDefect::Revoked) => Fault::conflict("this key is revoked: make a new one instead"),
        NotRotated::Defect(KeyDefect::Expired) => Fault::conflict("this key has expired: make a new one instead"),
        NotRotated::Replaced(successor) => {
            Fault::conflict(format!("this key was replaced by {successor} already: rotate that one"))
        }
    }
}

fn scopes(names: Vec<String>) -> Result<Scopes> {
    Scopes::new(names).map_err(|name| {
        Fault::bad_request(format!("`{name}` is not a scope: visible ASCII without blank, quote, backslash"))
    })
}

fn ranges(texts: &[String]) -> Result<AddressRanges> {
    AddressRanges::new(texts).map_err(|error| Fault::bad_request(error.to_string()))
}

/// A key whose time is over when it is made is a mistake.
fn check_end(api: &Api, expires_at: Option<Timestamp>) -> Result<()> {
    match expires_at {
        Some(at) if at <= api.clock.wall() => Err(Fault::bad_request("`expires_at` lies in the past")),
        _ => Ok(()),
    }
}
