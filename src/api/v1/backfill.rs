//! `/v1/backfill`: raw keys of an adopted database become hashes.
//!
//! A process that was asked for any of it writes no core dump from then on, and is closed to debuggers:
//! it reads raw keys. On a store without a column for them it reads none, and says so.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Problems;
use crate::api::caller::Caller;
use crate::api::extract::Body;
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::auth::backfill::{
    self, BATCH, BATCH_MAX, Backfill, Difference, Finished, NO_COLUMN, Ran, Rules, Status, Totals,
};

/// How to go about it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct BackfillInput {
    /// Only count what would be done.
    #[serde(default)]
    dry_run: bool,
    /// Clients at a time; 5000 without it.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 50_000)]
    batch: Option<u32>,
}

/// Raw keys that are not keys of their clients.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct DifferencesView {
    items: Vec<Difference>,
    /// There is no more.
    #[schema(value_type = Option<String>, required)]
    next: Option<()>,
    /// How many clients have a raw key.
    clients: u64,
}

/// What became of the raw keys.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct FinishedView {
    /// Raw keys that are gone.
    forgotten: u64,
    /// Raw keys that were written meanwhile: run it, and finish, again.
    remaining: u64,
}

/// Count the raw keys of an adopted database (`clients.api_key`), and those that are migrated.
#[utoipa::path(get, path = "/v1/backfill", tag = "keys", responses((status = 200, body = Status), Problems))]
pub(in crate::api) async fn status(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<Status>> {
    Ok(Json(Status::from(&verified(&api, &caller).await?)))
}

/// Make a key named `migrated-legacy` of each raw key; it may be broken off and repeated.
#[utoipa::path(post, path = "/v1/backfill/run", tag = "keys", request_body = BackfillInput,
    responses((status = 200, body = Ran), Problems))]
pub(in crate::api) async fn run(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Body(input): Body<BackfillInput>,
) -> Result<Json<Ran>> {
    let batch = input.batch.unwrap_or(BATCH);
    if !(1..=BATCH_MAX).contains(&batch) {
        return Err(Fault::bad_request(format!("`batch` is a whole number from 1 to {BATCH_MAX}")));
    }
    let backfill = open(&api, &caller, batch).await?.ok_or_else(|| Fault::conflict(NO_COLUMN))?;
    if !input.dry_run {
        backfill.note("backfill.run", &caller.store).await?;
    }
    let totals = backfill.run(input.dry_run, &mut |_| ()).await?;
    Ok(Json(Ran::of(&totals, input.dry_run)))
}

/// See that each raw key is a key of its client: those that are not, and why.
#[utoipa::path(get, path = "/v1/backfill/differences", tag = "keys",
    responses((status = 200, body = DifferencesView), Problems))]
pub(in crate::api) async fn differences(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<DifferencesView>> {
    let totals = verified(&api, &caller).await?;
    Ok(Json(DifferencesView { items: totals.differences, next: None, clients: totals.clients }))
}

/// Forget the raw keys for good, once each is a key of its client (409 `not_verified` before).
#[utoipa::path(post, path = "/v1/backfill/finish", tag = "keys",
    responses((status = 200, body = FinishedView), Problems))]
pub(in crate::api) async fn finish(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<FinishedView>> {
    let backfill = open(&api, &caller, BATCH).await?.ok_or_else(|| Fault::conflict(NO_COLUMN))?;
    backfill.note("backfill.finish", &caller.store).await?;
    match backfill.finish(&mut |_| ()).await? {
        Finished::Forgotten { forgotten, left } => Ok(Json(FinishedView { forgotten, remaining: left })),
        Finished::Refused(totals) => {
            let why = backfill::refusal(totals.clients, &totals.differences);
            Err(Fault::not_verified(why.unwrap_or_default()))
        }
    }
}

async fn verified(api: &Api, caller: &Caller) -> Result<Totals> {
    match open(api, caller, BATCH).await? {
        None => Ok(Totals::default()),
        Some(backfill) => Ok(backfill.verify(&mut |_| ()).await?),
    }
}

/// None: there is no column to read raw keys from.
async fn open(api: &Api, caller: &Caller, batch: u32) -> Result<Option<Backfill>> {
    let Some(legacy) = backfill::raw_keys(&caller.store).await? else { return Ok(None) };
    let rules =
        Rules { peppers: api.peppers.clone(), pepper_version: api.mint.pepper_version(), prefix: api.prefix.clone() };
    Backfill::new(legacy, rules, batch).map(Some).map_err(|error| {
        tracing::error!(%error, "raw keys are not read, since core dumps could not be switched off");
        Fault::internal()
    })
}
