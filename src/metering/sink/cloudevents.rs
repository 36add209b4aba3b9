//! CloudEvents 1.0 in batches over HTTP, as OpenMeter takes them: the event's id is `id`, the
//! client's is `subject`.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::http::{Http, post};
use super::record::Record;
use super::signature::{Signer, message_id};
use super::{Failure, Refused, Sink};

/// The receiver.
pub(super) struct CloudEvents {
    http: Http,
    signer: Option<Signer>,
    source: String,
    event_type: String,
}

impl CloudEvents {
    pub(super) fn new(http: Http, signer: Option<Signer>, source: &str, event_type: &str) -> Self {
        Self { http, signer, source: source.to_owned(), event_type: event_type.to_owned() }
    }

    fn event(&self, record: &Record) -> Value {
        let (subject, time, event_type) = match record {
            Record::Usage(usage) => (usage.client_id, usage.occurred_at, self.event_type.clone()),
            Record::QuotaMark(mark) => (mark.client_id, mark.reached_at, format!("{}.quota_mark", self.event_type)),
        };
        json!({
            "specversion": "1.0",
            "id": record.id(),
            "source": self.source,
            "type": event_type,
            "subject": subject,
            "time": time,
            "datacontenttype": "application/json",
            "data": data(record),
        })
    }
}

/// The columns that say what happened.
pub(super) fn data(record: &Record) -> Value {
    let mut data = match record {
        Record::Usage(usage) => serde_json::to_value(usage),
        Record::QuotaMark(mark) => serde_json::to_value(mark),
    }
    .expect("a record is JSON");
    if let Some(data) = data.as_object_mut() {
        data.remove("id");
    }
    data
}

#[async_trait]
impl Sink for CloudEvents {
    async fn send(&self, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let events: Vec<Value> = records.iter().map(|record| self.event(record)).collect();
        let body = serde_json::to_vec(&events).expect("values are JSON");
        let mut headers = self.http.headers("application/cloudevents-batch+json");
        if let Some(signer) = &self.signer {
            signer.sign(&message_id(records), &body, &mut headers);
        }
        post(&mut self.http.posts(), &headers, body).await.map(|_| Vec::new())
    }
}
