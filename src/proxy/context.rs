//! The facts of one request.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;

use super::route::RouteIndex;
use crate::clients::Principal;
use crate::limit::Standing;
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, ClientId, EventId, RequestId};
use crate::model::usage::CountedMethod;
use crate::server::Peer;

/// What is known of a request, filled in phase by phase.
#[derive(Clone, Debug)]
pub(super) struct RequestContext {
    /// The event it will be, if it is admitted.
    pub(super) event_id: EventId,
    /// What it is called up and down the line.
    pub(super) request_id: RequestId,
    pub(super) method: CountedMethod,
    /// Without its query: for the access log.
    pub(super) path: String,
    pub(super) peer: Peer,
    /// The caller's address: the peer's, or what a trusted proxy says.
    pub(super) address: IpAddr,
    pub(super) started: Monotonic,
    pub(super) occurred_at: Timestamp,
    pub(super) route: Option<RouteIndex>,
    pub(super) principal: Option<Arc<Principal>>,
    pub(super) standing: Option<Standing>,
    /// Whether the books hold it: from then on it is an event, however it ends.
    pub(super) admitted: bool,
}

impl RequestContext {
    /// Who is calling; nil where not known.
    pub(super) fn who(&self) -> (ClientId, ApiKeyId) {
        match &self.principal {
            Some(principal) => (principal.client.id, principal.api_key_id),
            None => (ClientId::NIL, ApiKeyId::NIL),
        }
    }

    /// The request id as a header's value.
    pub(super) fn request_id_value(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.request_id.as_bytes()).expect("a request id is visible ASCII")
    }
}
