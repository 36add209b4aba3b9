//! Sends spans to a collector: OTLP over HTTP, protobuf.
//!
//! Owns the batches, what is tried again (what the specification calls retryable, a few times, ever
//! later) and what is given up and counted. A collector that is away costs spans and never a
//! request: while a batch is tried again the queue fills, and then spans are dropped where they are
//! made.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use thiserror::Error;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::outbound::{AuthorityFault, Outbound, OutboundRules, Posts};
use crate::config::traces::TracesConfig;
use crate::model::causes::with_causes;
use crate::tasks::Tasks;
use crate::telemetry::metrics::{Metrics, SpanCounters};
use crate::telemetry::traces::{Span, encode, read_answer};

/// The most spans of a post: the specification's default.
const BATCH: usize = 512;
/// How long spans gather after the first one came.
const GATHER: Duration = Duration::from_millis(500);
/// How often a batch is tried.
const TRIES: u32 = 4;
/// The pause after a first failure; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a collector may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_MAX: usize = 64 * 1024;

/// The task that sends, and how it ends.
#[derive(Debug)]
pub struct SpanSender {
    last: CancellationToken,
    // Taken once, when it ends.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl SpanSender {
    /// Starts it on the control runtime.
    ///
    /// # Errors
    /// The file of the collector's authorities cannot be used.
    pub fn start(
        config: &TracesConfig,
        waiting: Receiver<Span>,
        metrics: &Arc<Metrics>,
        tasks: &Tasks,
    ) -> Result<Self, AuthorityFault> {
        let outbound = Outbound::new(OutboundRules {
            deadline: config.timeout,
            body_max: ANSWER_MAX,
            // A collector stands beside what it collects from.
            allow_private_addresses: true,
            ca_file: config.ca_file.clone(),
        })?;
        let mut headers: HeaderMap = config.headers.iter().cloned().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let last = CancellationToken::new();
        let sending = Sending {
            outbound,
            config: config.clone(),
            headers,
            waiting,
            counters: metrics.spans(),
            last: last.clone(),
            away: false,
        };
        let hard = tasks.hard().clone();
        let task = tasks.spawn_control(async move {
            hard.run_until_cancelled(sending.run()).await;
        });
        Ok(Self { last, task: Mutex::new(Some(task)) })
    }

    /// Nothing more comes: sends what waits, each batch once, for at most `limit`.
    pub async fn finish(&self, limit: Duration) {
        self.last.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(limit, task).await;
        }
    }
}

struct Sending {
    outbound: Outbound,
    config: TracesConfig,
    headers: HeaderMap,
    waiting: Receiver<Span>,
    counters: SpanCounters,
    last: CancellationToken,
    /// So that it is told once when the collector is away, and once when it is back.
    away: bool,
}

/// Why a batch was not taken.
#[derive(Debug, Error)]
enum Failure {
    #[error("{reason}")]
    Away { reason: String, after: Option<Duration> },
    #[error("it answered {0}")]
    Refused(StatusCode),
}

impl Sending {
    async fn run(mut self) {
        let outbound = Outbound::clone(&self.outbound);
        let url = self.config.url.clone();
        let mut posts = outbound.to(&url);
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                () = self.last.cancelled() => {}
                taken = self.waiting.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    let _ = tokio::time::timeout(GATHER, self.last.cancelled()).await;
                }
            }
            let is_last = self.last.is_cancelled();
            loop {
                while batch.len() < BATCH
                    && let Ok(span) = self.waiting.try_recv()
                {
                    batch.push(span);
                }
                if batch.is_empty() {
                    break;
                }
                let was_full = batch.len() == BATCH;
                self.deliver(&mut posts, std::mem::take(&mut batch)).await;
                // Whatever came meanwhile gathers again, or each post would carry a few spans.
                if !was_full && !self.last.is_cancelled() {
                    break;
                }
            }
            if is_last {
                return;
            }
        }
    }

    async fn deliver(&mut self, posts: &mut Posts<'_>, batch: Vec<Span>) {
        let count = batch.len() as u64;
        let body = Bytes::from(encode(&self.config.resource, batch));
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.post(posts, body.clone()).await {
                Ok(answer) => return self.taken(count, &answer),
                Err(failure) => failure,
            };
            if !std::mem::replace(&mut self.away, true) {
                tracing::warn!(%failure, "the collector of traces does not take spans; requests go on without");
            }
            let (Failure::Away { after, .. }, false) = (&failure, tries >= TRIES || self.last.is_cancelled()) else {
                self.counters.failed.inc_by(count);
                return;
            };
            let pause = after.unwrap_or_default().max(PAUSE * 2_u32.pow(tries - 1)).min(PAUSE_MAX);
            let _ = tokio::time::timeout(pause, self.last.cancelled()).await;
        }
    }

    async fn post(&self, posts: &mut Posts<'_>, body: Bytes) -> Result<Bytes, Failure> {
        let response = posts.post(&self.headers, body).await;
        let response = response.map_err(|fault| Failure::Away { reason: with_causes(&fault), after: None })?;
        match response.status() {
            status if status.is_success() => Ok(response.into_body()),
            // What the specification calls retryable.
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => {
                Err(Failure::Away { reason: format!("it answered {status}"), after: retry_after(&response) })
            }
            status => Err(Failure::Refused(status)),
        }
    }

    fn taken(&mut self, count: u64, answer: &[u8]) {
        let answer = read_answer(answer);
        let rejected = answer.rejected.min(count);
        self.counters.sent.inc_by(count - rejected);
        self.counters.failed.inc_by(rejected);
        if rejected > 0 {
            tracing::warn!(spans = rejected, reason = answer.reason, "the collector of traces refused spans");
        }
        if std::mem::take(&mut self.away) {
            tracing::info!("the collector of traces takes spans again");
        }
    }
}

fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
