//! What the admin listeners answer: probes and metrics on each, the API and the pages on the first.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use utoipa::openapi::OpenApi;

use super::caller::{RequestId, known_host};
use super::fault::Fault;
use super::state::{Api, Peer};
use super::{pages, v1};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::wire::problem::Problem;

/// What the handlers answer from.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`.
    pub readiness: Arc<Readiness>,
    /// The API and the pages; none: probes and metrics only.
    pub api: Option<Arc<Api>>,
}

/// Everything that one listener answers.
pub(super) fn router(state: AdminState) -> Router {
    let api = state.api.clone();
    let probes = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .with_state(state.clone());
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(state);
    match api {
        None => probes.merge(metrics),
        // Scrapers have a listener of their own; here pages of strangers may knock.
        Some(api) => probes.merge(metrics.layer(from_fn_with_state(Arc::clone(&api), known_host))).merge(served(&api)),
    }
    .layer(from_fn(protect))
}

/// API and pages.
fn served(api: &Arc<Api>) -> Router {
    let (rows, mut document) = v1::rows(api).split_for_parts();
    finish(&mut document);
    let document = Arc::new(document);
    let described = Arc::clone(&document);
    rows.route("/openapi.json", get(move || async move { Json(described.as_ref().clone()) }))
        .merge(pages::routes(api, &document))
        .fallback(|| async { Fault::not_found("there is nothing here; /docs lists what there is") })
        .method_not_allowed_fallback(|| async { Fault::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(api), known_host))
        .layer(from_fn_with_state(Arc::clone(api), enter))
        .with_state(Arc::clone(api))
}

/// The description of the API.
#[must_use]
pub fn document(api: &Arc<Api>) -> OpenApi {
    let mut document = v1::rows(api).split_for_parts().1;
    finish(&mut document);
    document
}

fn finish(document: &mut OpenApi) {
    // No address: it is served where it is used.
    document.servers = Some(vec![utoipa::openapi::Server::new("/")]);
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    // Names of functions repeat; method and path do not.
    for (path, item) in &mut document.paths.paths {
        let name = path.trim_start_matches("/v1/").replace(['/', '-'], "_").replace(['{', '}'], "");
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                operation.operation_id = Some(format!("{method}_{name}"));
            }
        }
    }
}

/// A router for one connection.
pub(super) fn for_peer(router: &Router, peer: SocketAddr) -> Router {
    router.clone().layer(Extension(Peer(peer)))
}

/// Gives each request its id, and each fault its form: problem+json to programs, a page to people.
async fn enter(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let id = api.request_id();
    let asked = pages::wants_page(&request).then(|| (request.method().clone(), path_and_query(&request)));
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        response = match &asked {
            Some(asked) => pages::fault(&fault, &id, asked),
            None => problem(&fault, &id),
        };
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

fn path_and_query(request: &Request) -> String {
    request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
}

fn problem(fault: &Fault, request_id: &str) -> Response {
    let problem = Problem {
        status: fault.status,
        code: fault.code,
        title: fault.status.canonical_reason().unwrap_or("Error"),
        detail: &fault.detail,
        request_id: Some(request_id),
        oauth_error: None,
    };
    let mut response = problem.response().map(axum::body::Body::from);
    let headers = response.headers_mut();
    if let Some(seconds) = fault.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if fault.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"octroi admin\""));
    }
    response
}

/// What browsers are told of every answer: nothing of it is for other sites, for frames, for caches, and
/// it runs no script but our own (Content Security Policy Level 3).
async fn protect(request: Request, next: Next) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                          form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn readyz(State(state): State<AdminState>) -> Response {
    let report = state.readiness.report();
    let status = StatusCode::from_u16(report.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], report.body()).into_response()
}

async fn metrics(State(state): State<AdminState>) -> Response {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    match state.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
