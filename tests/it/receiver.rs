//! Receivers behind sinks in tests: each enforces the rules that its product publishes, and can be
//! away, forget to answer, or refuse a record for good.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What messages are signed with, as the file holds it.
pub(crate) const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr";
/// Who we are.
pub(crate) const TOKEN: &str = "sk_test_4eC39HqLyjWDarjtT1zdp7dc";

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    OpenMeter,
    Webhook,
    Stripe,
    Lago,
}

/// A receiver; it ends when dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

struct State {
    rules: Rules,
    away: bool,
    /// Takes the next batch and answers that it failed.
    forgetful: bool,
    /// The id that will come so many-th is refused for good.
    poison_at: Option<usize>,
    poison: Option<String>,
    seen: HashSet<String>,
    taken: Vec<String>,
    records: BTreeMap<String, Value>,
    repeats: usize,
    violations: Vec<String>,
}

type Answer = (StatusCode, Value);

impl Receiver {
    pub(crate) fn start(rules: Rules) -> Self {
        let state = State {
            rules,
            away: false,
            forgetful: false,
            poison_at: None,
            poison: None,
            seen: HashSet::new(),
            taken: Vec::new(),
            records: BTreeMap::new(),
            repeats: 0,
            violations: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, runtime: Some(runtime) }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no panic holds it"))
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.with(|state| state.away = away);
    }

    pub(crate) fn forget_once(&self) {
        self.with(|state| state.forgetful = true);
    }

    pub(crate) fn refuse_nth(&self, number: usize) {
        self.with(|state| state.poison_at = Some(number));
    }

    pub(crate) fn poison(&self) -> Option<String> {
        self.with(|state| state.poison.clone())
    }

    /// Ids in the order in which they were taken, each once.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.with(|state| state.taken.clone())
    }

    /// What was taken, by id.
    pub(crate) fn records(&self) -> BTreeMap<String, Value> {
        self.with(|state| state.records.clone())
    }

    /// How often something came that was taken before.
    pub(crate) fn repeats(&self) -> usize {
        self.with(|state| state.repeats)
    }

    /// Rules that were broken.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.with(|state| state.violations.clone())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("descriptors are left");
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&state)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let (status, said) = {
        let mut state = state.lock().expect("no panic holds it");
        if state.away {
            (StatusCode::SERVICE_UNAVAILABLE, json!({"error": "away"}))
        } else {
            let answer = state.judge(head.uri.path(), &head.headers, &body);
            if std::mem::take(&mut state.forgetful) { (StatusCode::BAD_GATEWAY, json!(null)) } else { answer }
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(said.to_string())));
    *response.status_mut() = status;
    Ok(response)
}

impl State {
    fn judge(&mut self, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        let header =
            |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let (expected_path, content_type) = match self.rules {
            Rules::OpenMeter => ("/api/v1/events", "application/cloudevents-batch+json"),
            Rules::Webhook => ("/hook", "application/json"),
            Rules::Stripe => ("/v1/billing/meter_events", "application/x-www-form-urlencoded"),
            Rules::Lago => ("/api/v1/events/batch", "application/json"),
        };
        self.demand(path == expected_path, "path");
        self.demand(header("content-type") == content_type, "content type");
        if self.rules != Rules::Webhook {
            self.demand(header("authorization") == format!("Bearer {TOKEN}"), "token");
        }
        match self.rules {
            Rules::OpenMeter => {
                self.check_signature(&header, body);
                self.open_meter(body)
            }
            Rules::Webhook => {
                self.check_signature(&header, body);
                self.webhook(&header("webhook-id"), body)
            }
            Rules::Stripe => self.stripe(body),
            Rules::Lago => self.lago(body),
        }
    }

    fn demand(&mut self, holds: bool, what: &str) {
        if !holds {
            self.violations.push(what.to_owned());
        }
    }

    /// As Standard Webhooks says: HMAC-SHA-256 of `id.timestamp.body`, not older than five minutes.
    fn check_signature(&mut self, header: &dyn Fn(&str) -> String, body: &[u8]) {
        let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
        let secret = STANDARD.decode(SIGNING_SECRET.strip_prefix("whsec_").expect("it has")).expect("base64");
        let signed = [format!("{id}.{time}.").as_bytes(), body].concat();
        let expected = STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), &signed));
        self.demand(header("webhook-signature") == format!("v1,{expected}"), "signature");
        let age = now() - time.parse::<i64>().unwrap_or(0);
        self.demand(age.abs() < 300 && !id.is_empty(), "webhook-timestamp");
    }

    /// Whether this id is the one that is refused for good.
    fn is_poison(&mut self, id: &str) -> bool {
        if self.seen.insert(id.to_owned()) && self.poison_at == Some(self.seen.len()) {
            self.poison = Some(id.to_owned());
        }
        self.poison.as_deref() == Some(id)
    }

    fn take(&mut self, id: &str, record: &Value) {
        if self.records.insert(id.to_owned(), record.clone()).is_some() {
            self.repeats += 1;
        } else {
            self.taken.push(id.to_owned());
        }
    }

    /// A batch of CloudEvents, all or none; a repeat of `source` and `id` is dropped in silence.
    fn open_meter(&mut self, body: &[u8]) -> Answer {
        let events: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
        self.demand(!events.is_empty(), "a batch");
        for event in &events {
            let whole = ["id", "source", "type", "subject", "time"].iter().all(|key| event[*key].is_string());
            self.demand(whole && event["specversion"] == "1.0" && event["data"].is_object(), "a CloudEvent");
        }
        let ids: Vec<String> = events.iter().map(|event| event["id"].as_str().unwrap_or_default().to_owned()).collect();
        if ids.iter().filter(|id| self.is_poison(id)).count() > 0 {
            return (StatusCode::BAD_REQUEST, json!({"title": "Bad Request"}));
        }
        ids.iter().zip(&events).for_each(|(id, event)| self.take(id, event));
        (StatusCode::NO_CONTENT, json!(null))
    }

    fn webhook(&mut self, id: &str, body: &[u8]) -> Answer {
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        if message["type"] == "quota.mark" {
            self.take(id, &message);
            return (StatusCode::OK, json!(null));
        }
        self.demand(message["type"] == "usage", "a type");
        let events = message["data"]["events"].as_array().cloned().unwrap_or_default();
        let ids: Vec<String> = events.iter().map(|event| event["id"].as_str().unwrap_or_default().to_owned()).collect();
        if ids.iter().filter(|id| self.is_poison(id)).count() > 0 {
            return (StatusCode::UNPROCESSABLE_ENTITY, json!({"error": "no"}));
        }
        ids.iter().zip(&events).for_each(|(id, event)| self.take(id, event));
        (StatusCode::OK, json!(null))
    }

    /// One meter event: within the past 35 days and 5 minutes ahead; an identifier counts once.
    fn stripe(&mut self, body: &[u8]) -> Answer {
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
        let field = |name: &str| form.get(name).cloned().unwrap_or_default();
        let refuse = |message: String| {
            let error = json!({"error": {"type": "invalid_request_error", "message": message}});
            (StatusCode::BAD_REQUEST, error)
        };
        let id = field("identifier");
        self.demand(!id.is_empty() && id.len() <= 100 && field("event_name") == "api_requests", "an identifier");
        if self.records.contains_key(&id) {
            self.repeats += 1;
            return refuse(format!("An event already exists with identifier {id}."));
        }
        let age = now() - field("timestamp").parse::<i64>().unwrap_or(0);
        if !(-300..=35 * 86_400).contains(&age) {
            return refuse("timestamp_too_far_in_past".to_owned());
        }
        if !field("payload[stripe_customer_id]").starts_with("cus_") {
            return refuse("no customer".to_owned());
        }
        self.demand(field("payload[value]").parse::<u32>().is_ok_and(|value| value > 0), "a value");
        if self.is_poison(&id) {
            return refuse("meter_event_customer_not_found".to_owned());
        }
        self.take(&id, &json!(form));
        (StatusCode::OK, json!({"object": "billing.meter_event", "identifier": id}))
    }

    /// Up to 100 events, all or none; the places at fault are named.
    fn lago(&mut self, body: &[u8]) -> Answer {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let events = body["events"].as_array().cloned().unwrap_or_default();
        if events.is_empty() || events.len() > 100 {
            let details = json!({"events": ["too_many_events"]});
            self.demand(false, "up to 100 events");
            return (StatusCode::UNPROCESSABLE_ENTITY, json!({"status": 422, "error_details": details}));
        }
        let mut details = serde_json::Map::new();
        for (place, event) in events.iter().enumerate() {
            let id = event["transaction_id"].as_str().unwrap_or_default();
            let whole = event["external_subscription_id"].is_string() && event["code"] == "api_requests";
            self.demand(
                whole && event["timestamp"].as_str().is_some_and(|time| time.parse::<f64>().is_ok()),
                "an event",
            );
            if self.records.contains_key(id) {
                self.repeats += 1;
                details.insert(place.to_string(), json!({"transaction_id": ["value_already_exist"]}));
            } else if self.is_poison(id) {
                details.insert(place.to_string(), json!({"code": ["metric_not_found"]}));
            }
        }
        if !details.is_empty() {
            let error = json!({"status": 422, "error": "Unprocessable Entity", "code": "validation_errors",
                               "error_details": details});
            return (StatusCode::UNPROCESSABLE_ENTITY, error);
        }
        for event in &events {
            self.take(event["transaction_id"].as_str().unwrap_or_default(), event);
        }
        (StatusCode::OK, json!({"events": events}))
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(0)
}
