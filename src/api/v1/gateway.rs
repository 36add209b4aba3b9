//! `/v1/config`, `/v1/nodes`, `/v1/live`, `/v1/tail`, `/v1/peppers`, `/v1/migrations`: the process that answers, and the
//! others.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Interval, Sleep};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Problems;
use crate::api::caller::{Caller, REFRESH, identify};
use crate::api::extract::Parameters;
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::api::turns::Turn;
use crate::api::views::Listed;
use crate::auth::{KnownPepper, PepperCounts};
use crate::crypto::pepper::Peppers;
use crate::model::explanation::{Counts, EndpointView};
use crate::model::id::ClientId;
use crate::model::operator::Permission;
use crate::store::migrate::{Difference, MigrationStatus};
use crate::telemetry::tail::{Told, Watcher};

/// A process that serves, or has served and owes entries.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct NodeView {
    /// The machine's name.
    pub(in crate::api) node: String,
    /// Its journal.
    pub(in crate::api) journal: Uuid,
    /// All that arrived before is in the store.
    pub(in crate::api) clear_until: Timestamp,
    /// When it said so.
    pub(in crate::api) reported_at: Timestamp,
}

/// What goes on in the process that answers.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct LiveView {
    pub(in crate::api) counts: Counts,
    pub(in crate::api) endpoints: Vec<EndpointView>,
    /// Parts that are as they should be.
    pub(in crate::api) fine: Vec<&'static str>,
    /// Parts that are away or impaired, as `/readyz` names them.
    pub(in crate::api) degraded: Vec<&'static str>,
    /// Parts because of which requests are refused.
    pub(in crate::api) refusing: Vec<&'static str>,
}

/// Keys by the pepper that they need.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct PeppersView {
    /// Every pepper that the store has seen or a key names, as the process that answers knows them.
    items: Vec<KnownPepper>,
    /// There is no more.
    #[schema(value_type = Option<String>, required)]
    next: Option<()>,
    /// Keys that came in by SQL and say which pepper they need when they are first used.
    unknown: u64,
}

/// A migration.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct MigrationView {
    version: i64,
    name: String,
    /// When it was applied; null: it is pending.
    #[schema(required)]
    applied_at: Option<Timestamp>,
}

/// An applied migration whose text is not this program's.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct MigrationDifferenceView {
    version: i64,
    name: String,
    /// What differs.
    detail: String,
}

/// The migrations of the store.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct MigrationsView {
    /// Every known one, and those that were applied and are not known.
    items: Vec<MigrationView>,
    /// There is no more.
    #[schema(value_type = Option<String>, required)]
    next: Option<()>,
    /// Where the store is not as this program would have made it.
    differences: Vec<MigrationDifferenceView>,
}

/// The settings in force, secrets masked: as `octroi config show`.
#[utoipa::path(get, path = "/v1/config", tag = "gateway", responses((status = 200, body = Object), Problems))]
pub(in crate::api) async fn settings(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(api.settings.clone())
}

/// Processes and up to when each has handed over its usage.
#[utoipa::path(get, path = "/v1/nodes", tag = "gateway", responses((status = 200, body = Listed<NodeView>), Problems))]
pub(in crate::api) async fn nodes(caller: Caller) -> Result<Json<Listed<NodeView>>> {
    Ok(Json(Listed::whole(nodes_listed(&caller).await?)))
}

/// Processes that have a journal.
pub(in crate::api) async fn nodes_listed(caller: &Caller) -> Result<Vec<NodeView>> {
    let journals = caller.store.journals.journals().await?;
    let show = |journal: crate::store::journals::JournalRecord| NodeView {
        node: journal.node,
        journal: journal.id,
        clear_until: journal.clear_until,
        reported_at: journal.reported_at,
    };
    Ok(journals.into_iter().map(show).collect())
}

/// What goes on in the process that answers, in numbers since its start.
#[utoipa::path(get, path = "/v1/live", tag = "gateway", responses((status = 200, body = LiveView), Problems))]
pub(in crate::api) async fn live(State(api): State<Arc<Api>>) -> Json<LiveView> {
    Json(living(&api))
}

/// What goes on.
pub(in crate::api) fn living(api: &Api) -> LiveView {
    let report = api.readiness.report();
    LiveView {
        counts: api.gateway.counts(),
        endpoints: api.gateway.endpoints(),
        fine: report.fine,
        degraded: report.degraded,
        refusing: report.refusing,
    }
}

/// How many keys were hashed under which pepper; revoked and expired ones are not counted.
#[utoipa::path(get, path = "/v1/peppers", tag = "gateway", responses((status = 200, body = PeppersView), Problems))]
pub(in crate::api) async fn peppers(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<PeppersView>> {
    let Peppers { current, previous } = &api.peppers;
    let counts = PepperCounts::of(&caller.store, Some(current), previous.as_ref(), api.clock.wall()).await?;
    Ok(Json(PeppersView { items: counts.items, next: None, unknown: counts.unknown }))
}

/// Migrations, when each was applied, and which of them are not those of the process that answers.
#[utoipa::path(get, path = "/v1/migrations", tag = "gateway",
    responses((status = 200, body = MigrationsView), Problems))]
pub(in crate::api) async fn migrations(caller: Caller) -> Result<Json<MigrationsView>> {
    let store = &caller.store.migrations;
    let (items, differences) = (store.status().await?, store.verify().await?);
    let show =
        |one: MigrationStatus| MigrationView { version: one.version, name: one.name, applied_at: one.applied_at };
    let differs =
        |one: Difference| MigrationDifferenceView { version: one.version, name: one.name, detail: one.detail };
    Ok(Json(MigrationsView {
        items: items.into_iter().map(show).collect(),
        next: None,
        differences: differences.into_iter().map(differs).collect(),
    }))
}

/// What to watch.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct TailQuery {
    /// Only this client's.
    client: Option<Uuid>,
    /// End after so many; without it, never.
    #[param(minimum = 1, maximum = 1_000_000)]
    limit: Option<u32>,
    /// End after so many seconds.
    #[param(minimum = 1, maximum = 600)]
    seconds: Option<u32>,
}

/// Watch requests of the process that answers as they end: one JSON object a line (NDJSON).
#[utoipa::path(get, path = "/v1/tail", tag = "gateway", params(TailQuery),
    responses((status = 200, content_type = "application/x-ndjson", body = String), Problems))]
pub(in crate::api) async fn tail(
    State(api): State<Arc<Api>>,
    caller: Caller,
    mut head: Parts,
    Parameters(query): Parameters<TailQuery>,
) -> Result<Response> {
    let client = caller.confined_to(Permission::ReadUsage, query.client.map(ClientId))?;
    if !(1..=600).contains(&query.seconds.unwrap_or(1)) || !(1..=1_000_000).contains(&query.limit.unwrap_or(1)) {
        return Err(Fault::bad_request("`seconds` is 1 to 600, `limit` 1 to 1000000"));
    }
    let enough = || Fault::unavailable("too_many_watchers", "enough watch already: end one of them");
    let actor = caller.actor();
    let place = actor.role.is_confined().then(|| api.watching.take(actor.id).ok_or_else(enough)).transpose()?;
    let watcher = api.gateway.tail().watch(!actor.role.is_confined()).ok_or_else(enough)?;
    let seconds = query.seconds.unwrap_or(600);
    // From here on it is asked by itself.
    head.headers.insert(REFRESH, HeaderValue::from_static("1"));
    let until = Box::pin(tokio::time::sleep(Duration::from_secs(seconds.into())));
    let again = tokio::time::interval(ASKED_AGAIN);
    let lines =
        Lines { watcher, _place: place, client, left: query.limit.unwrap_or(u32::MAX), until, api, head, again };
    let body = Body::new(StreamBody::new(stream(lines)));
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], body).into_response())
}

struct Lines {
    watcher: Watcher,
    _place: Option<Turn>,
    client: Option<ClientId>,
    left: u32,
    until: Pin<Box<Sleep>>,
    api: Arc<Api>,
    head: Parts,
    again: Interval,
}

/// How often it is asked anew whether somebody may still watch.
const ASKED_AGAIN: Duration = Duration::from_secs(5);

type Line = std::result::Result<Frame<Bytes>, std::convert::Infallible>;

/// The lines, as they come.
fn stream(lines: Lines) -> impl futures_util::Stream<Item = Line> {
    futures_util::stream::unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok(Frame::data(Bytes::from(line))), lines))
    })
}

impl Lines {
    /// None: its session or token ended, or its role is another.
    async fn may_go_on(&self) -> Option<()> {
        let caller = identify(&self.api, &self.head).await.ok()?;
        caller.confined_to(Permission::ReadUsage, self.client).ok().map(|_| ())
    }

    async fn next(&mut self) -> Option<String> {
        if self.left == 0 {
            return None;
        }
        loop {
            let told = tokio::select! {
                told = self.watcher.next() => told?,
                () = self.until.as_mut() => return None,
                _ = self.again.tick() => {
                    self.may_go_on().await?;
                    continue;
                }
            };
            match told {
                Told::Missed(count) => return Some(format!("{}\n", json!({ "missed": count }))),
                Told::Request(tailed) => {
                    if self.client.is_some_and(|client| client != tailed.client_id) {
                        continue;
                    }
                    self.left -= 1;
                    return Some(format!("{}\n", serde_json::to_string(tailed.as_ref()).unwrap_or_default()));
                }
            }
        }
    }
}
