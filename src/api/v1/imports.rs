//! `/v1/keys/verify` and `/v1/keys/import`: rows to which raw keys are sent.
//!
//! A raw key is a secret from the moment it is read. It is in no log, audit, fault or answer, and in no
//! record of an Idempotency-Key: verifying has none, and that of an import is a hash under the pepper.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Problems;
use crate::api::caller::Caller;
use crate::api::extract::Confidential;
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::views::{ClientView, KeyView, ProblemView};
use crate::auth::import::{self, Checker, Hasher, Outcome, Row};
use crate::auth::verdict::{Examiner, Reason, Verdict};
use crate::model::operator::Permission;
use crate::model::secret::SecretText;

/// What rows that cannot be imported are told with.
const BAD_ROWS: &str = "bad_rows";

/// A key that is to be looked at.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct VerifyInput {
    /// The key itself: it is looked at, forgotten and not repeated.
    #[schema(value_type = String, format = Password, min_length = 1)]
    key: SecretText,
}

/// Whose a key is, and what a gateway would say to it now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyVerdict)]
pub(in crate::api) struct VerdictView {
    /// Whether a gateway would let it in.
    valid: bool,
    /// Why not.
    #[schema(required)]
    reason: Option<Reason>,
    /// The same in a sentence.
    detail: String,
    /// Under which pepper its hash stands: `current`, `previous`, or `none` for an imported one.
    #[schema(required)]
    pepper: Option<&'static str>,
    /// What is known of it; null: it is nobody's, or a client's own legacy hash.
    #[schema(required)]
    key: Option<KeyView>,
    /// Whose it is.
    #[schema(required)]
    client: Option<ClientView>,
}

impl From<&Verdict> for VerdictView {
    fn from(verdict: &Verdict) -> Self {
        Self {
            valid: verdict.is_valid(),
            reason: verdict.reason,
            detail: verdict.detail.clone(),
            pepper: verdict.pepper,
            key: verdict.key.as_ref().map(KeyView::from),
            client: verdict.client.as_ref().map(ClientView::from),
        }
    }
}

/// Keys that were made elsewhere.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ImportInput {
    /// The keys, as many as a body holds.
    items: Vec<Row>,
    /// Check everything and write nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Why nothing was imported, with all that is wrong.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct BadRowsView {
    #[serde(flatten)]
    problem: ProblemView,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Say whose a key is, and what a gateway would say to it now. A role that is for some clients is told of
/// others' keys what it is told of a key that never was.
#[utoipa::path(post, path = "/v1/keys/verify", tag = "keys", request_body = VerifyInput,
    responses((status = 200, body = VerdictView), Problems))]
pub(in crate::api) async fn verify(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Confidential(input): Confidential<VerifyInput>,
) -> Result<Json<VerdictView>> {
    let raw = input.key.expose().trim_ascii();
    if raw.is_empty() {
        return Err(Fault::bad_request("`key` is empty"));
    }
    let is_confined = caller.actor().role.is_confined();
    let examiner = Examiner {
        prefix: &api.prefix,
        peppers: &api.peppers,
        now: api.clock.wall(),
        sees: &|client| !is_confined || caller.actor().may(Permission::ReadKeys, Some(client)),
    };
    let verdict = examiner.examine(raw.as_bytes(), &caller.store).await?;
    Ok(Json(VerdictView::from(&verdict)))
}

/// Take over keys that were made elsewhere: all of them or none. Every row is checked first, and every bad
/// one is told with its line and without its values.
#[utoipa::path(post, path = "/v1/keys/import", tag = "keys", request_body = ImportInput,
    responses(Problems, (status = 200, body = Outcome),
        (status = 409, body = BadRowsView, content_type = "application/problem+json",
         description = "Some rows are bad (`bad_rows`): nothing was imported.")))]
pub(in crate::api) async fn import(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Confidential(input): Confidential<ImportInput>,
) -> Result<Response> {
    let hasher = Hasher::Ready { peppers: Box::new(api.peppers.clone()), version: api.mint.pepper_version() };
    let mut checker = Checker::new(hasher, api.prefix.clone());
    for (mut row, place) in input.items.into_iter().zip(1..) {
        if row.line == 0 {
            row.line = place;
        }
        checker.take(row);
    }
    let outcome = import::finish(checker, Vec::new(), input.dry_run, &caller.store).await?;
    Ok(match outcome.refusal() {
        None => Json(outcome).into_response(),
        Some(detail) => bad_rows(&caller, detail, outcome),
    })
}

fn bad_rows(caller: &Caller, detail: String, outcome: Outcome) -> Response {
    let status = StatusCode::CONFLICT;
    let problem = ProblemView {
        r#type: format!("urn:octroi:error:{BAD_ROWS}"),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        detail,
        code: BAD_ROWS.to_owned(),
        request_id: Some(caller.request_id.clone()),
    };
    let mut response = (status, Json(BadRowsView { problem, outcome })).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}
