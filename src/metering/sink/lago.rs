//! Events of Lago (`POST /api/v1/events/batch`), for each event that cost something, and for each
//! interim record: that costs nothing, and has bytes that nothing else will tell.
//!
//! Lago takes up to 100 at a time, all or none: a 422 names the places at fault. Those that say
//! `value_already_exist` of their `transaction_id` were taken before; the others are set aside; the
//! rest is sent again.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::StatusCode;
use serde_json::{Value, json};

use super::http::{Http, failure, post_raw};
use super::record::{Record, Usage};
use super::{Failure, Refused, Sink};
use crate::model::usage::STREAM;

/// The receiver.
pub(super) struct Lago {
    http: Http,
    code: String,
    customers: BTreeMap<String, String>,
}

impl Lago {
    pub(super) fn new(http: Http, code: &str, customers: &BTreeMap<String, String>) -> Self {
        Self { http: http.below("/api/v1/events/batch"), code: code.to_owned(), customers: customers.clone() }
    }

    fn event(&self, usage: &Usage) -> Value {
        let client = usage.client_id.to_string();
        let milliseconds = usage.occurred_at.as_millisecond();
        json!({
            "transaction_id": usage.id,
            "external_subscription_id": self.customers.get(&client).unwrap_or(&client),
            "code": self.code,
            "timestamp": format!("{}.{:03}", milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000)),
            "properties": {
                "units": usage.units,
                "route": usage.route,
                "method": usage.method,
                "status": usage.status,
                "outcome": usage.outcome,
                "bytes_in": usage.bytes_in,
                "bytes_out": usage.bytes_out,
                "duration_us": usage.duration_us,
                "kind": usage.kind,
                "parent_id": usage.parent_id,
            },
        })
    }
}

#[async_trait]
impl Sink for Lago {
    async fn send(&self, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let headers = self.http.headers("application/json");
        let mut posts = self.http.posts();
        let mut waiting: Vec<(usize, Value)> = Vec::new();
        for (index, record) in records.iter().enumerate() {
            match record {
                Record::Usage(usage) if usage.units > 0 || usage.kind == STREAM => {
                    waiting.push((index, self.event(usage)));
                }
                _ => {}
            }
        }
        let mut refused = Vec::new();
        while !waiting.is_empty() {
            let events: Vec<&Value> = waiting.iter().map(|(_, event)| event).collect();
            let body = serde_json::to_vec(&json!({"events": events})).expect("values are JSON");
            let answer = post_raw(&mut posts, &headers, body).await?;
            if answer.status().is_success() {
                break;
            }
            let faults = faults(answer.status(), answer.body());
            if faults.keys().all(|place| *place >= waiting.len()) {
                return Err(failure(&answer));
            }
            let mut place = 0;
            waiting.retain(|(index, _)| {
                let fault = faults.get(&place);
                place += 1;
                match fault {
                    None => return true,
                    Some(fault) if is_repeat(fault) => {}
                    Some(fault) => refused.push(Refused { index: *index, reason: fault.to_string(), certain: false }),
                }
                false
            });
        }
        Ok(refused)
    }
}

/// What is wrong with which event, by its place in the batch.
fn faults(status: StatusCode, body: &[u8]) -> BTreeMap<usize, Value> {
    if status != StatusCode::UNPROCESSABLE_ENTITY {
        return BTreeMap::new();
    }
    let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let details = answer["error_details"].as_object().cloned().unwrap_or_default();
    details.into_iter().filter_map(|(place, fault)| Some((place.parse().ok()?, fault))).collect()
}

/// Whether nothing is wrong but that it was taken before.
fn is_repeat(fault: &Value) -> bool {
    let only = |fault: &serde_json::Map<String, Value>| fault.len() == 1;
    fault.as_object().is_some_and(only) && fault["transaction_id"] == json!(["value_already_exist"])
}
