//! Sinks: other places where usage goes, after it was committed.
//!
//! Owns the contract between a record and a receiver: at least once, in the order of commits, with
//! the event's id as its identity; a sink that is away delays only itself, within the bounds of the
//! outbox, and says so. Refuses to own what is committed (`delivery`) and what usage means.
//!
//! The way: `delivery` commits a batch and appends it to the [`outbox`]; one [`sender`] for each
//! sink reads it from there, at its own pace, and notes how far it is.
//!
//! To add one: a file with a type that implements [`Sink`], an arm in [`build`], a kind in
//! `config::sinks`, and a row in the contract suite (`tests/it/sinks.rs`).

mod cloudevents;
mod http;
pub(crate) mod hub;
mod lago;
mod nats;
mod ndjson;
pub(crate) mod outbox;
mod outbox_files;
pub(crate) mod record;
pub(crate) mod sender;
mod signature;
mod stripe;
mod webhook;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::sinks::{SinkConfig, SinkKind};
use crate::model::clock::SharedClock;
use crate::server::outbound::AuthorityFault;
use record::Record;

/// A receiver.
#[async_trait]
pub(crate) trait Sink: Send + Sync {
    /// Hands records over. All were taken, or taken before, but those that are named.
    async fn send(&self, records: &[Record]) -> Result<Vec<Refused>, Failure>;

    /// Whether something waits to be finished though no record comes: asked once in an interval.
    async fn idle(&self) {}

    /// Nothing more will come from this process.
    async fn close(&self) {}
}

/// A record that a receiver does not take, whenever it is sent.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its place among those that were sent.
    pub(crate) index: usize,
    /// What the receiver says.
    pub(crate) reason: String,
    /// Whether it is this record's fault beyond doubt, however many others are refused.
    pub(crate) certain: bool,
}

/// Why it is not known that records were taken.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not now: the same again later, not before so long.
    Away {
        /// What is wrong.
        reason: String,
        /// What the receiver asks for.
        after: Option<Duration>,
    },
    /// Something among them is not taken: to be found by sending less.
    Refused(String),
}

impl Failure {
    /// Away, for as long as we like.
    fn away(reason: impl Into<String>) -> Self {
        Self::Away { reason: reason.into(), after: None }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::away(error.to_string())
    }
}

/// The receiver that a configuration names.
pub(crate) fn build(config: &SinkConfig, clock: &SharedClock) -> Result<Arc<dyn Sink>, AuthorityFault> {
    Ok(match &config.kind {
        SinkKind::CloudEvents { endpoint, token, signing_secret, source, event_type } => {
            let signer = signing_secret.clone().map(|secret| signature::Signer::new(secret, clock));
            let http = http::Http::new(endpoint, token.as_ref())?;
            Arc::new(cloudevents::CloudEvents::new(http, signer, source, event_type))
        }
        SinkKind::Ndjson { dir, rotate_bytes, rotate_interval } => {
            Arc::new(ndjson::Ndjson::new(dir.clone(), *rotate_bytes, *rotate_interval, Arc::clone(clock)))
        }
        SinkKind::Webhook { endpoint, signing_secret } => {
            let signer = signature::Signer::new(signing_secret.clone(), clock);
            Arc::new(webhook::Webhook::new(http::Http::new(endpoint, None)?, signer))
        }
        SinkKind::Stripe { endpoint, token, event_name, value, customers } => {
            let http = http::Http::new(endpoint, Some(token))?;
            Arc::new(stripe::Stripe::new(http, event_name, *value, customers))
        }
        SinkKind::Lago { endpoint, token, code, customers } => {
            Arc::new(lago::Lago::new(http::Http::new(endpoint, Some(token))?, code, customers))
        }
        SinkKind::Nats { endpoint, subject, user, token } => {
            Arc::new(nats::Nats::new(endpoint, subject, user, token.as_ref())?)
        }
    })
}
