//! `/v1/tokens`: admin tokens, for machines and for clients that manage their own keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Problems;
use super::operators::reach;
use crate::api::caller::Caller;
use crate::api::extract::{Body, Named, Parameters, Tagged};
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{Listed, MadeTokenView, TokenView};
use crate::model::admin::AdminToken;
use crate::operators::create_token;
use crate::store::Page;

/// Which tokens.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct TokenQuery {
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those after this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
    /// Only the one with this public id.
    pub(in crate::api) token_id: Option<String>,
}

/// A token that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct TokenInput {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200)]
    pub(in crate::api) name: String,
    /// `owner`, `operator`, `auditor`, `support` or `client`.
    #[schema(pattern = "^(owner|operator|auditor|support|client)$")]
    pub(in crate::api) role: String,
    /// The clients that a support or client role is for.
    #[serde(default)]
    pub(in crate::api) clients: Vec<Uuid>,
    /// When it stops working; never without it.
    #[serde(default)]
    pub(in crate::api) expires_at: Option<Timestamp>,
}

/// List admin tokens, oldest first.
#[utoipa::path(get, path = "/v1/tokens", tag = "operators", params(TokenQuery),
    responses((status = 200, body = Listed<TokenView>), Problems))]
pub(in crate::api) async fn list(
    caller: Caller,
    Parameters(query): Parameters<TokenQuery>,
) -> Result<Json<Listed<TokenView>>> {
    let page = listed(&caller, &query).await?;
    Ok(Json(Listed::of(&page, |token| token.id.to_string(), |token| TokenView::from(token))))
}

/// The tokens that are asked for.
pub(in crate::api) async fn listed(caller: &Caller, query: &TokenQuery) -> Result<Page<AdminToken>> {
    if let Some(token_id) = &query.token_id {
        let found = caller.store.admin_tokens.find_by_token_id(token_id).await?;
        return Ok(Page { items: found.into_iter().collect(), more: false });
    }
    if let Some(after) = query.after
        && caller.store.admin_tokens.find(after).await?.is_none()
    {
        return Err(super::no_cursor(after));
    }
    Ok(caller.store.admin_tokens.list(query.after, super::limit(query.limit)?).await?)
}

/// Make an admin token; it is shown this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "operators", request_body = TokenInput,
    responses((status = 201, body = MadeTokenView), Problems))]
pub(in crate::api) async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body(input): Body<TokenInput>,
) -> Result<(StatusCode, Json<MadeTokenView>)> {
    Ok((StatusCode::CREATED, Json(made(&api, &caller, input).await?)))
}

/// Makes a token.
pub(in crate::api) async fn made(api: &Api, caller: &Caller, input: TokenInput) -> Result<MadeTokenView> {
    if input.expires_at.is_some_and(|at| at <= api.clock.wall()) {
        return Err(Fault::bad_request("`expires_at` lies in the past"));
    }
    let reach = reach(caller, &input.role, &input.clients).await?;
    let made = create_token(&caller.store, &input.name, reach, input.expires_at).await?;
    Ok(MadeTokenView { token: Some(made.text.expose().to_owned()), row: TokenView::from(&made.token) })
}

/// Show what is known of an admin token.
#[utoipa::path(get, path = "/v1/tokens/{id}", tag = "operators", params(("id" = Uuid, Path)),
    responses((status = 200, body = TokenView), Problems))]
pub(in crate::api) async fn show(caller: Caller, Named(id): Named<Uuid>) -> Result<Tagged<TokenView>> {
    let found = caller.store.admin_tokens.find(id).await?;
    found.as_ref().map(|token| Tagged(TokenView::from(token))).ok_or_else(|| missing(id))
}

/// Revoke an admin token. One revoked already keeps its time.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "operators", params(("id" = Uuid, Path)),
    responses((status = 200, body = TokenView), Problems))]
pub(in crate::api) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Named(id): Named<Uuid>,
) -> Result<Json<TokenView>> {
    let revoked = api.operators.revoke_token(&caller.store, id).await?;
    revoked.as_ref().map(|token| Json(TokenView::from(token))).ok_or_else(|| missing(id))
}

fn missing(id: Uuid) -> Fault {
    Fault::not_found(format!("there is no admin token {id}"))
}
