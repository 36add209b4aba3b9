//! A webhook: usage and the marks of quotas, signed as Standard Webhooks says.
//!
//! `{"type": "usage", "timestamp": …, "data": {"events": […]}}` for usage, and
//! `{"type": "quota.mark", "timestamp": …, "data": {…}}` for each mark.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::cloudevents::data;
use super::http::{Http, post};
use super::record::Record;
use super::signature::{Signer, message_id};
use super::{Failure, Refused, Sink};
use crate::server::outbound::Posts;

/// The receiver.
pub(super) struct Webhook {
    http: Http,
    signer: Signer,
}

impl Webhook {
    pub(super) fn new(http: Http, signer: Signer) -> Self {
        Self { http, signer }
    }

    async fn post(&self, posts: &mut Posts<'_>, records: &[Record]) -> Result<(), Failure> {
        let body = serde_json::to_vec(&message(records)).expect("values are JSON");
        let mut headers = self.http.headers("application/json");
        self.signer.sign(&message_id(records), &body, &mut headers);
        post(posts, &headers, body).await.map(drop)
    }
}

/// One message: of one mark, or of usage events only.
fn message(records: &[Record]) -> Value {
    if let [record @ Record::QuotaMark(mark)] = records {
        return json!({"type": "quota.mark", "timestamp": mark.reached_at, "data": data(record)});
    }
    // The last event's time: a repeat has the same body.
    let timestamp = records.iter().map(Record::since).max();
    let events: Vec<Value> = records
        .iter()
        .map(|record| {
            let mut event = data(record);
            event["id"] = record.id().into();
            event
        })
        .collect();
    json!({"type": "usage", "timestamp": timestamp, "data": {"events": events}})
}

/// Runs of usage, and each mark alone; in their order.
fn messages(records: &[Record]) -> impl Iterator<Item = &[Record]> {
    records.chunk_by(|left, right| matches!((left, right), (Record::Usage(_), Record::Usage(_))))
}

#[async_trait]
impl Sink for Webhook {
    async fn send(&self, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let mut posts = self.http.posts();
        for message in messages(records) {
            self.post(&mut posts, message).await?;
        }
        Ok(Vec::new())
    }
}
