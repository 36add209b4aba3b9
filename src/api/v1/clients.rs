//! `/v1/clients`

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Problems;
use crate::api::caller::Caller;
use crate::api::extract::{Body, Held, IfMatch, Named, Parameters, Tagged};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{ClientView, Listed};
use crate::model::client::{Client, ClientChange, ClientStatus, NewClient, is_legal_name};
use crate::model::id::ClientId;
use crate::model::operator::Permission;
use crate::model::own_limit::{self, LimitChange};
use crate::model::quota::Quota;
use crate::model::rate::Rate;
use crate::store::{Page, Store};

/// Which clients.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ClientQuery {
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
    /// Only those of this name.
    pub(in crate::api) name: Option<String>,
}

/// A client that is to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ClientInput {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200)]
    pub(in crate::api) name: String,
    /// A rate of its own, like `100/s`.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,8}/[smhd]$")]
    pub(in crate::api) rate: Option<Rate>,
    /// How much of the rate may be spent at once; one second's worth without it.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000_000)]
    pub(in crate::api) burst: Option<NonZeroU32>,
    /// The plan it is on.
    #[serde(default)]
    pub(in crate::api) plan_id: Option<Uuid>,
    /// A quota of its own, like `1000000/month`, `5000/day@Europe/Berlin` or `1000000/month@15`.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,14}/(day|month)$")]
    pub(in crate::api) quota: Option<Quota>,
    /// How many requests it may have open at once.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub(in crate::api) concurrency: Option<NonZeroU32>,
    /// Whatever its owner keeps with it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(in crate::api) metadata: Option<Map<String, Value>>,
}

/// What is to be changed: members that are left out stay, null takes away.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ClientPatch {
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200)]
    pub(in crate::api) name: Option<String>,
    /// `active` or `suspended`.
    #[serde(default)]
    #[schema(pattern = "^(active|suspended)$")]
    pub(in crate::api) status: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,8}/[smhd]$")]
    pub(in crate::api) rate: Option<Option<Rate>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000_000)]
    pub(in crate::api) burst: Option<Option<NonZeroU32>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Uuid>)]
    pub(in crate::api) plan_id: Option<Option<Uuid>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, pattern = "^[1-9][0-9]{0,14}/(day|month)$")]
    pub(in crate::api) quota: Option<Option<Quota>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub(in crate::api) concurrency: Option<Option<NonZeroU32>>,
    /// Takes the place of all that was there.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(in crate::api) metadata: Option<Map<String, Value>>,
}

/// A member that is there, be it null.
pub(in crate::api) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    value: D,
) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// List clients, oldest first. Roles that are for some clients see those.
#[utoipa::path(get, path = "/v1/clients", tag = "clients", params(ClientQuery),
    responses((status = 200, body = Listed<ClientView>), Problems))]
pub(in crate::api) async fn list(
    caller: Caller,
    Parameters(query): Parameters<ClientQuery>,
) -> Result<Json<Listed<ClientView>>> {
    let page = listed(&caller, &query).await?;
    Ok(Json(Listed::of(&page, |client| client.id.to_string(), |client| ClientView::from(client))))
}

/// The clients that are asked for, of those that may be seen.
pub(in crate::api) async fn listed(caller: &Caller, query: &ClientQuery) -> Result<Page<Client>> {
    let limit = super::limit(query.limit)?;
    let store = &caller.store.clients;
    if let Some(name) = &query.name {
        let mut items = store.find_by_name(name).await?;
        items.retain(|client| caller.actor().may(Permission::ReadClients, Some(client.id)) || !is_confined(caller));
        return Ok(Page { items, more: false });
    }
    if !is_confined(caller) {
        let after = query.after.map(ClientId);
        if let Some(after) = after
            && store.find(after).await?.is_none()
        {
            return Err(super::no_cursor(after));
        }
        return Ok(store.list(after, limit).await?);
    }
    let mut items = Vec::new();
    for client in &caller.actor().clients {
        items.extend(store.find(*client).await?);
    }
    Ok(Page { items, more: false })
}

fn is_confined(caller: &Caller) -> bool {
    caller.actor().role.is_confined()
}

/// Make a client.
#[utoipa::path(post, path = "/v1/clients", tag = "clients", request_body = ClientInput,
    responses((status = 201, body = ClientView), Problems))]
pub(in crate::api) async fn create(
    caller: Caller,
    Body(input): Body<ClientInput>,
) -> Result<(StatusCode, Tagged<ClientView>)> {
    Ok((StatusCode::CREATED, Tagged(ClientView::from(&made(&caller.store, input).await?))))
}

/// Makes a client.
pub(in crate::api) async fn made(store: &Store, input: ClientInput) -> Result<Client> {
    check_name(&input.name)?;
    own_limit::check(input.rate, input.burst)?;
    check_plan(store, input.plan_id).await?;
    let new = NewClient {
        name: input.name,
        rate: input.rate,
        burst: input.burst,
        plan_id: input.plan_id,
        quota: input.quota,
        concurrency: input.concurrency,
        metadata: Value::Object(input.metadata.unwrap_or_default()),
    };
    Ok(store.clients.create(new).await?)
}

/// Show a client.
#[utoipa::path(get, path = "/v1/clients/{id}", tag = "clients", params(("id" = Uuid, Path)),
    responses((status = 200, body = ClientView), Problems))]
pub(in crate::api) async fn show(caller: Caller, Named(id): Named<Uuid>) -> Result<Tagged<ClientView>> {
    Ok(Tagged(ClientView::from(&found(&caller, Permission::ReadClients, ClientId(id)).await?)))
}

/// The client, if it is there for whoever asks.
pub(in crate::api) async fn found(caller: &Caller, permission: Permission, id: ClientId) -> Result<Client> {
    caller.reach(permission, id)?;
    let found = caller.store.clients.find(id).await?;
    found.ok_or_else(|| Fault::not_found(format!("there is no client {id}")))
}

/// Change a client: what is left out stays. With `If-Match`, only if it is still as it was read.
#[utoipa::path(patch, path = "/v1/clients/{id}", tag = "clients", request_body = ClientPatch,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = ClientView), Problems))]
pub(in crate::api) async fn update(
    caller: Caller,
    Named(id): Named<Uuid>,
    condition: IfMatch,
    Body(patch): Body<ClientPatch>,
) -> Result<Tagged<ClientView>> {
    let client = found(&caller, Permission::WriteClients, ClientId(id)).await?;
    let client = condition.held::<ClientView, _>(client)?;
    Ok(Tagged(ClientView::from(&changed(&caller.store, &client, patch).await?)))
}

/// Changes a client.
pub(in crate::api) async fn changed(store: &Store, held: &Held<Client>, patch: ClientPatch) -> Result<Client> {
    let client = &held.row;
    patch.name.as_deref().map(check_name).transpose()?;
    let status = patch
        .status
        .as_deref()
        .map(|word| ClientStatus::parse(word).ok_or_else(|| Fault::bad_request("a status is `active` or `suspended`")));
    let limit = LimitChange { rate: patch.rate, burst: patch.burst }.of(client.rate, client.burst)?;
    check_plan(store, patch.plan_id.flatten()).await?;
    let change = ClientChange {
        name: patch.name,
        status: status.transpose()?,
        rate: limit.rate,
        burst: limit.burst,
        plan_id: patch.plan_id,
        quota: patch.quota,
        concurrency: patch.concurrency,
        metadata: patch.metadata.map(Value::Object),
        only_if: held.only_if(),
    };
    let changed = store.clients.update(client.id, change).await?;
    changed.ok_or_else(|| Fault::not_found(format!("there is no client {}", client.id)))
}

/// Erase a client's personal data for good: its name, metadata and keys. What it used stays billed.
#[utoipa::path(post, path = "/v1/clients/{id}/erase", tag = "clients", params(("id" = Uuid, Path)),
    responses((status = 200, body = ClientView), Problems))]
pub(in crate::api) async fn erase(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
) -> Result<Json<ClientView>> {
    Ok(Json(ClientView::from(&erased(&api, &caller, ClientId(id)).await?)))
}

/// Erases a client.
pub(in crate::api) async fn erased(api: &Api, caller: &Caller, id: ClientId) -> Result<Client> {
    caller.reach(Permission::EraseClients, id)?;
    let erased = caller.store.erasure.erase(id, api.clock.wall()).await?;
    api.gateway.refusals().forget(id);
    erased.ok_or_else(|| Fault::not_found(format!("there is no client {id}")))
}

/// A name of a client or a key.
pub(in crate::api) fn check_name(name: &str) -> Result<()> {
    if is_legal_name(name) {
        Ok(())
    } else {
        Err(Fault::bad_request("a name has 1 to 200 characters, none of them a control character"))
    }
}

async fn check_plan(store: &Store, plan: Option<Uuid>) -> Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    let found = store.plans.find(plan).await?;
    found.map(drop).ok_or_else(|| Fault::bad_request(format!("there is no plan {plan}")))
}
