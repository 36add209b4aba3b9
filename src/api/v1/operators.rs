//! `/v1/operators`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Problems;
use crate::api::caller::Caller;
use crate::api::extract::{Body, Held, IfMatch, Named, Parameters, Tagged};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{Listed, OperatorView};
use crate::model::admin::{Operator, OperatorChange, Reach};
use crate::model::id::ClientId;
use crate::model::operator::Role;
use crate::model::secret::SecretText;
use crate::operators::{NewPerson, OperatorFault, create_operator};
use crate::store::Page;

/// Which of a list.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ListQuery {
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
}

/// An operator that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct OperatorInput {
    /// What it signs in with.
    #[schema(min_length = 1, max_length = 200)]
    pub(in crate::api) name: String,
    /// Its password: at least 12 characters.
    #[schema(min_length = 12, max_length = 1000, format = Password)]
    pub(in crate::api) password: String,
    /// `owner`, `operator`, `auditor` or `support`; `client` is for tokens.
    #[schema(pattern = "^(owner|operator|auditor|support)$")]
    pub(in crate::api) role: String,
    /// The clients that the role support is for.
    #[serde(default)]
    pub(in crate::api) clients: Vec<Uuid>,
}

/// What is to be changed: members that are left out stay.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct OperatorPatch {
    #[serde(default)]
    #[schema(pattern = "^(owner|operator|auditor|support)$")]
    pub(in crate::api) role: Option<String>,
    /// The clients that the role support is for.
    #[serde(default)]
    pub(in crate::api) clients: Option<Vec<Uuid>>,
    /// Whether it may sign in no more; its sessions end.
    #[serde(default)]
    pub(in crate::api) disabled: Option<bool>,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct PasswordInput {
    #[schema(min_length = 12, max_length = 1000, format = Password)]
    password: String,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct EndedView {
    id: Uuid,
    /// How many sessions were ended.
    sessions: u64,
}

/// List operators, oldest first.
#[utoipa::path(get, path = "/v1/operators", tag = "operators", params(ListQuery),
    responses((status = 200, body = Listed<OperatorView>), Problems))]
pub(in crate::api) async fn list(
    caller: Caller,
    Parameters(query): Parameters<ListQuery>,
) -> Result<Json<Listed<OperatorView>>> {
    let page = listed(&caller, &query).await?;
    Ok(Json(Listed::of(&page, |operator| operator.id.to_string(), |operator| OperatorView::from(operator))))
}

/// The operators that are asked for.
pub(in crate::api) async fn listed(caller: &Caller, query: &ListQuery) -> Result<Page<Operator>> {
    if let Some(after) = query.after
        && caller.store.operators.find(after).await?.is_none()
    {
        return Err(super::no_cursor(after));
    }
    Ok(caller.store.operators.list(query.after, super::limit(query.limit)?).await?)
}

/// Make an operator who signs in with a password.
#[utoipa::path(post, path = "/v1/operators", tag = "operators", request_body = OperatorInput,
    responses((status = 201, body = OperatorView), Problems))]
pub(in crate::api) async fn create(
    caller: Caller,
    Body(input): Body<OperatorInput>,
) -> Result<(StatusCode, Tagged<OperatorView>)> {
    Ok((StatusCode::CREATED, Tagged(OperatorView::from(&made(&caller, input).await?))))
}

/// Makes an operator.
pub(in crate::api) async fn made(caller: &Caller, input: OperatorInput) -> Result<Operator> {
    let reach = reach_of_person(caller, &input.role, &input.clients).await?;
    let person = NewPerson { name: input.name, reach, password: SecretText::new(input.password) };
    Ok(create_operator(&caller.store, person).await?)
}

/// A role with its clients, which must be there.
pub(in crate::api) async fn reach(caller: &Caller, role: &str, clients: &[Uuid]) -> Result<Reach> {
    let role: Role =
        role.parse().map_err(|error: crate::model::operator::UnknownRole| Fault::bad_request(error.to_string()))?;
    for client in clients {
        if caller.store.clients.find(ClientId(*client)).await?.is_none() {
            return Err(Fault::bad_request(format!("there is no client {client}")));
        }
    }
    let clients = clients.iter().copied().map(ClientId).collect();
    Reach::new(role, clients).map_err(|fault| OperatorFault::Reach(fault).into())
}

async fn reach_of_person(caller: &Caller, role: &str, clients: &[Uuid]) -> Result<Reach> {
    let reach = reach(caller, role, clients).await?;
    reach.of_person().map_err(|fault| OperatorFault::Reach(fault).into())
}

/// Show an operator.
#[utoipa::path(get, path = "/v1/operators/{id}", tag = "operators", params(("id" = Uuid, Path)),
    responses((status = 200, body = OperatorView), Problems))]
pub(in crate::api) async fn show(caller: Caller, Named(id): Named<Uuid>) -> Result<Tagged<OperatorView>> {
    Ok(Tagged(OperatorView::from(&found(&caller, id).await?)))
}

async fn found(caller: &Caller, id: Uuid) -> Result<Operator> {
    let found = caller.store.operators.find(id).await?;
    found.ok_or_else(|| Fault::not_found(format!("there is no operator {id}")))
}

/// Change an operator. With `If-Match`, only if it is still as it was read.
#[utoipa::path(patch, path = "/v1/operators/{id}", tag = "operators", request_body = OperatorPatch,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = OperatorView), Problems))]
pub(in crate::api) async fn update(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    condition: IfMatch,
    Body(patch): Body<OperatorPatch>,
) -> Result<Tagged<OperatorView>> {
    let operator = condition.held::<OperatorView, _>(found(&caller, id).await?)?;
    Ok(Tagged(OperatorView::from(&changed(&api, &caller, &operator, patch).await?)))
}

/// Changes an operator.
pub(in crate::api) async fn changed(
    api: &Api,
    caller: &Caller,
    held: &Held<Operator>,
    patch: OperatorPatch,
) -> Result<Operator> {
    let operator = &held.row;
    let reach = if patch.role.is_some() || patch.clients.is_some() {
        let role = patch.role.as_deref().unwrap_or(operator.role.as_str());
        let same: Vec<Uuid> = operator.clients.iter().map(|client| client.0).collect();
        Some(reach_of_person(caller, role, patch.clients.as_deref().unwrap_or(&same)).await?)
    } else {
        None
    };
    // What is not named of its role and clients is the row's.
    let by_row = reach.as_ref().map(|_| Box::new(operator.clone()));
    let only_if = held.only_if().or(by_row);
    let change = OperatorChange { reach, disabled: patch.disabled, password: None, only_if };
    let changed = api.operators.update(&caller.store, operator.id, change).await?;
    changed.ok_or_else(|| Fault::not_found(format!("there is no operator {}", operator.id)))
}

/// Give an operator another password; its sessions end.
#[utoipa::path(put, path = "/v1/operators/{id}/password", tag = "operators", request_body = PasswordInput,
    params(("id" = Uuid, Path)), responses((status = 200, body = OperatorView), Problems))]
pub(in crate::api) async fn reset_password(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
    Body(input): Body<PasswordInput>,
) -> Result<Json<OperatorView>> {
    let password = SecretText::new(input.password);
    Ok(Json(OperatorView::from(&api.operators.reset_password(&caller.store, id, &password).await?)))
}

/// End all sessions of an operator.
#[utoipa::path(delete, path = "/v1/operators/{id}/sessions", tag = "operators", params(("id" = Uuid, Path)),
    responses((status = 200, body = EndedView), Problems))]
pub(in crate::api) async fn logout(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
) -> Result<Json<EndedView>> {
    let operator = found(&caller, id).await?;
    let ended = api.operators.logout_everywhere(operator.id, &caller.known, Some(&caller.request_id)).await?;
    Ok(Json(EndedView { id, sessions: ended }))
}
