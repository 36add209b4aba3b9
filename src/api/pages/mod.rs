//! pages
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::OpenApi;

use super::fault::Fault;
use super::state::Api;

pub(super) fn routes(_api: &Arc<Api>, _document: &Arc<OpenApi>) -> Router<Arc<Api>> {
    Router::new()
}
pub(super) fn wants_page(_request: &Request) -> bool {
    false
}
pub(super) fn fault(fault: &Fault, _request_id: &str) -> Response {
    fault.status.into_response()
}
