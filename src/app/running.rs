//! The gateway as the admin API sees it: what it asks of a gateway, answered by the one that serves
//! beside it and by the store.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::api::RunningGateway;
use crate::auth::AuthError;
use crate::config::written::Written;
use crate::model::client::Client;
use crate::model::clock::SharedClock;
use crate::model::explanation::{
    CodeCount, Counts, EndpointView, Explanation, LimitState, Proof, Question, RouteCounts, Setting,
};
use crate::model::key::ApiKey;
use crate::model::rate::RateLimit;
use crate::proxy::{Asked, Gateway, Weighed};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::refusals::Refusals;
use crate::telemetry::snapshot::Snapshot;
use crate::telemetry::tail::Tail;

/// See the module.
pub(super) struct Running {
    pub(super) gateway: Arc<Gateway>,
    pub(super) store: Store,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) tail: Arc<Tail>,
    pub(super) written: Written,
    pub(super) since: Timestamp,
    pub(super) default_limit: RateLimit,
}

/// What the store knows of whom a question is about.
#[derive(Default)]
struct Known {
    client: Option<Client>,
    key: Option<ApiKey>,
    token: Option<Weighed>,
    quotas: Vec<LimitState>,
}

impl Running {
    async fn look_up(&self, proof: &Proof) -> Result<Known, StoreError> {
        let mut known = Known::default();
        let (client, key) = match proof {
            Proof::Nothing | Proof::Unknown { .. } => (None, None),
            Proof::Key(key) => (None, Some(*key)),
            Proof::Client(client, key) => (Some(*client), *key),
            Proof::Token(token) => {
                let whose = match known.token.insert(self.gateway.weigh(token).await) {
                    Ok(principal) => (Some(principal.client.id), Some(principal.api_key_id)),
                    Err(AuthError::Invalid { client, key, .. }) => (*client, *key),
                    Err(AuthError::ClientSuspended { client, key }) => (Some(*client), Some(*key)),
                    Err(_) => (None, None),
                };
                (whose.0, whose.1.filter(|key| !key.is_nil()))
            }
        };
        if let Some(key) = key {
            known.key = self.store.keys.find(key).await?;
        }
        if let Some(client) = client.or(known.key.as_ref().map(|key| key.client_id)) {
            known.client = self.store.clients.find(client).await?;
        }
        if let Some(client) = &known.client {
            known.quotas = self.quotas(client).await?;
        }
        Ok(known)
    }

    /// What is left of a client's quotas by the ledger, also where no request of it was seen here.
    async fn quotas(&self, client: &Client) -> Result<Vec<LimitState>, StoreError> {
        let now = self.clock.wall();
        let mut states = Vec::new();
        for (policy, quota) in client.enforced_quotas() {
            let window = quota.period.window(now);
            let used = u64::try_from(self.store.quotas.units(client.id, window).await?).unwrap_or(0);
            states.push(LimitState {
                policy: policy.into_owned(),
                kind: "quota".to_owned(),
                allows: format!("{} in {} s", quota.units, window.seconds()),
                left: quota.units.get().saturating_sub(used),
                resets_in: window.seconds_left(now),
            });
        }
        Ok(states)
    }
}

#[async_trait]
impl RunningGateway for Running {
    async fn explain(&self, question: Question) -> Explanation {
        let known = match self.look_up(&question.proof).await {
            Ok(known) => known,
            Err(error) => {
                let detail = format!("the store does not answer: {error}");
                return Explanation { verdict: detail, ..Explanation::default() };
            }
        };
        self.gateway.explain(&Asked {
            question: &question,
            client: known.client.as_ref(),
            key: known.key.as_ref(),
            token: known.token.as_ref(),
            written: &self.written,
            quotas: known.quotas,
            default_limit: self.default_limit,
        })
    }

    fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }

    fn endpoints(&self) -> Vec<EndpointView> {
        self.gateway.endpoints()
    }

    fn setting_of_route(&self, name: &str) -> Option<Setting> {
        self.gateway.setting_of_route(name, &self.written)
    }

    fn counts(&self) -> Counts {
        let snapshot = Snapshot::read(&self.metrics.encode().unwrap_or_default());
        let count = |name: &str, labels: &[(&str, &str)]| whole(snapshot.sum(name, labels));
        let all = |labels: &[(&str, &str)]| count("octroi_requests_total", labels);
        let refused = all(&[("outcome", "rejected")]);
        let refusals = snapshot.by("octroi_refusals_total", "code");
        Counts {
            at: self.clock.wall(),
            since: self.since,
            requests: all(&[]) - refused,
            errors: all(&[("status_class", "5xx")]),
            refused,
            in_flight: count("octroi_requests_in_flight", &[]),
            connections: count("octroi_connections_open", &[]),
            metering_lag_seconds: snapshot.sum("octroi_metering_lag_seconds", &[]),
            journal_bytes: count("octroi_metering_journal_bytes", &[]),
            journal_bytes_max: count("octroi_metering_journal_max_bytes", &[]),
            metering_lost: count("octroi_metering_lost_total", &[]),
            routes: routes(&snapshot),
            refusals: refusals.into_iter().map(|(code, count)| CodeCount { code, count: whole(count) }).collect(),
        }
    }
}

/// The counts of each route.
fn routes(snapshot: &Snapshot) -> Vec<RouteCounts> {
    let durations = snapshot.parts("octroi_request_duration_seconds_bucket", "route");
    let requests = snapshot.parts("octroi_requests_total", "route");
    let counts = requests.into_iter().map(|(route, requests)| {
        let refused = whole(requests.sum(&[("outcome", "rejected")]));
        let quantile = |share| durations.get(route)?.quantile(share);
        RouteCounts {
            requests: whole(requests.sum(&[])) - refused,
            errors: whole(requests.sum(&[("status_class", "5xx")])),
            refused,
            median_seconds: quantile(0.5),
            p99_seconds: quantile(0.99),
            route: route.to_owned(),
        }
    });
    counts.collect()
}

/// A count, which metrics hold as a number with a fraction.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and not below zero")]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}
