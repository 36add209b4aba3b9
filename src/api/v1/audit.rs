//! `/v1/audit`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{Problems, moment};
use crate::api::caller::Caller;
use crate::api::extract::Parameters;
use crate::api::fault::Result;
use crate::api::state::Api;
use crate::api::views::{AuditView, Listed};
use crate::model::audit::{AuditEntry, AuditFilter};
use crate::model::id::ClientId;
use crate::store::Page;

/// Which rows of the audit.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct AuditQuery {
    /// Only what belongs to this client.
    pub(in crate::api) client: Option<Uuid>,
    /// Only what this one did: a name or an id.
    pub(in crate::api) actor: Option<String>,
    /// Only this, like `key.revoke`; `key.` stands for all that begin so.
    pub(in crate::api) action: Option<String>,
    /// Only what was done to this: the id of a key, a plan, an operator, a token.
    pub(in crate::api) subject: Option<String>,
    /// From then on: RFC 3339, a day (UTC) or how long ago, like `-24h`.
    pub(in crate::api) from: Option<String>,
    /// Before then.
    pub(in crate::api) to: Option<String>,
    /// At most so many; 100 without it.
    #[param(minimum = 1, maximum = 1000)]
    pub(in crate::api) limit: Option<u32>,
    /// Only those before this one: `next` of the list before.
    pub(in crate::api) after: Option<Uuid>,
}

/// Who changed what, the latest first.
#[utoipa::path(get, path = "/v1/audit", tag = "operators", params(AuditQuery),
    responses((status = 200, body = Listed<AuditView>), Problems))]
pub(in crate::api) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Parameters(query): Parameters<AuditQuery>,
) -> Result<Json<Listed<AuditView>>> {
    let page = listed(&api, &caller, &query).await?;
    Ok(Json(Listed::of(&page, |entry| entry.id.to_string(), |entry| AuditView::from(entry))))
}

/// The rows that are asked for.
pub(in crate::api) async fn listed(api: &Api, caller: &Caller, query: &AuditQuery) -> Result<Page<AuditEntry>> {
    let now = api.clock.wall();
    let filter = AuditFilter {
        client: query.client.map(ClientId),
        actor: query.actor.clone(),
        action: query.action.clone(),
        subject: query.subject.clone(),
        from: moment("from", query.from.as_deref(), now)?,
        to: moment("to", query.to.as_deref(), now)?,
    };
    Ok(caller.store.trail.list(&filter, query.after, super::limit(query.limit)?).await?)
}
