//! Meter events of Stripe (`POST /v1/billing/meter_events`), one for each event that cost
//! something.
//!
//! Stripe's rules, and what follows: an `identifier` counts once within a day or more, so a repeat
//! is answered by an error that says so and was taken; a `timestamp` lies within the past 35 days
//! and not 5 minutes ahead, so what waited for longer is refused and set aside. No
//! `Idempotency-Key`: under it Stripe repeats its own failures too, for a day.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::StatusCode;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::http::{Http, failure, post_raw, reason};
use super::record::{Record, Usage};
use super::{Failure, Refused, Sink};
use crate::config::sinks::MeteredValue;

/// The receiver.
pub(super) struct Stripe {
    http: Http,
    event_name: String,
    value: MeteredValue,
    customers: BTreeMap<String, String>,
}

impl Stripe {
    pub(super) fn new(http: Http, event_name: &str, value: MeteredValue, customers: &BTreeMap<String, String>) -> Self {
        let http = http.below("/v1/billing/meter_events");
        Self { http, event_name: event_name.to_owned(), value, customers: customers.clone() }
    }

    fn form(&self, usage: &Usage, customer: &str) -> Vec<u8> {
        let value = match self.value {
            MeteredValue::Units => usage.units,
            MeteredValue::Requests => 1,
        };
        let mut form = Serializer::new(String::new());
        form.append_pair("event_name", &self.event_name)
            .append_pair("identifier", &usage.id.to_string())
            .append_pair("timestamp", &usage.occurred_at.as_second().to_string())
            .append_pair("payload[stripe_customer_id]", customer)
            .append_pair("payload[value]", &value.to_string());
        form.finish().into_bytes()
    }

    /// Sends records one after the other on a connection of their own; `first`: the place of the
    /// first of them.
    async fn strand(&self, first: usize, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let headers = self.http.headers("application/x-www-form-urlencoded");
        let mut posts = self.http.posts();
        let mut refused = Vec::new();
        for (index, record) in (first..).zip(records) {
            let Record::Usage(usage) = record else { continue };
            if usage.units == 0 {
                continue;
            }
            let Some(customer) = self.customers.get(&usage.client_id.to_string()) else {
                let reason = format!("client {} is no customer: `customers` does not name it", usage.client_id);
                refused.push(Refused { index, reason, certain: true });
                continue;
            };
            let answer = post_raw(&mut posts, &headers, self.form(usage, customer)).await?;
            if answer.status().is_success() || is_repeat(answer.status(), answer.body()) {
                continue;
            }
            match failure(&answer) {
                Failure::Refused(_) => refused.push(Refused { index, reason: reason(&answer), certain: false }),
                away @ Failure::Away { .. } => return Err(away),
            }
        }
        Ok(refused)
    }
}

/// Whether an answer says that the identifier was taken before.
fn is_repeat(status: StatusCode, body: &[u8]) -> bool {
    let error = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let says = |key: &str, part: &str| error["error"][key].as_str().is_some_and(|text| text.contains(part));
    // Some answers bear no code; a 409 is another matter, and passes.
    status == StatusCode::BAD_REQUEST
        && (says("code", "duplicate_meter_event") || says("message", "already exists with identifier"))
}

#[async_trait]
impl Sink for Stripe {
    /// On four connections: an event is a request.
    async fn send(&self, records: &[Record]) -> Result<Vec<Refused>, Failure> {
        let quarter = records.len().div_ceil(4).max(1);
        let strand = |number: usize| {
            let first = (number * quarter).min(records.len());
            let end = (first + quarter).min(records.len());
            self.strand(first, &records[first..end])
        };
        let (first, second, third, fourth) = tokio::join!(strand(0), strand(1), strand(2), strand(3));
        let mut refused = first?;
        for more in [second, third, fourth] {
            refused.extend(more?);
        }
        Ok(refused)
    }
}
