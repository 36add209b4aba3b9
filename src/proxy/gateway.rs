//! The walk of one request: a total outer function around a fallible inner one.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use ipnet::IpNet;

use super::body::ResponseBody;
use super::context::RequestContext;
use super::exchange::Exchange;
use super::forward::{ANNOUNCED, announced_length, forward};
use super::headers::{self, Outgoing, X_REQUEST_ID};
use super::path::CanonicalPath;
use super::pool::Pool;
use super::rejection::Rejection;
use super::reserved;
use super::route::{Match, RouteIndex, RouteTable};
use super::upload::Upload;
use crate::auth::Authenticator;
use crate::clients::Principal;
use crate::config::route::RouteConfig;
use crate::config::server::{ServerLimits, TimeoutConfig, UnderscoreHeaders};
use crate::limit;
use crate::metering::{Meter, RejectedCounts};
use crate::model::clock::SharedClock;
use crate::model::event_id::EventIdGenerator;
use crate::model::id::RequestId;
use crate::model::usage::{Admission, CountedMethod, REJECTED};
use crate::server::{Handler, Peer};
use crate::tasks::catch_panic;
use crate::telemetry::access_log::{AccessLog, AccessRecord};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::wire::head;

/// What a request costs.
const COST: NonZeroU32 = NonZeroU32::MIN;

/// What all workers share: read-mostly.
pub struct Shared {
    /// The routes.
    pub routes: RouteTable,
    /// For each route, its upstream's number.
    pub upstream_of: Vec<usize>,
    /// Sizes.
    pub limits: ServerLimits,
    /// Deadlines.
    pub timeouts: TimeoutConfig,
    /// Proxies of ours.
    pub trusted_proxies: Vec<IpNet>,
    /// Header names with underscores.
    pub underscore_headers: UnderscoreHeaders,
    /// Who calls.
    pub authenticator: Arc<Authenticator>,
    /// Counts of refusals.
    pub rejected: Arc<RejectedCounts>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How the process is.
    pub readiness: Arc<Readiness>,
    /// One record a request.
    pub access_log: AccessLog,
    /// Time.
    pub clock: SharedClock,
}

impl Shared {
    pub(super) fn route_name(&self, route: Option<RouteIndex>) -> &str {
        route.map_or("", |route| &self.routes.route(route).name)
    }
}

/// One worker's gateway.
pub struct Gateway {
    pub(super) shared: Arc<Shared>,
    pools: Vec<Arc<Pool>>,
    meter: Meter,
    /// A mutex of one worker's own, never contended: it is there because tasks must be `Send`.
    ids: Mutex<EventIdGenerator>,
}

impl Gateway {
    /// A worker's gateway: its own upstream connections, journal segment and ids.
    #[must_use]
    pub fn new(shared: Arc<Shared>, upstreams: &[crate::config::upstream::UpstreamConfig], meter: Meter) -> Arc<Self> {
        let pools = upstreams.iter().map(|upstream| Pool::new(upstream.clone(), Arc::clone(&shared.clock))).collect();
        Arc::new(Self { shared, pools, meter, ids: Mutex::new(EventIdGenerator::new()) })
    }

    /// The order of the phases, each with the reason for its place.
    async fn run(
        self: &Arc<Self>,
        context: &mut RequestContext,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Rejection> {
        // The head first: nothing may be decided from a head that two parsers read differently.
        let host = self.check_head(&request)?;
        // The route says which credentials it takes, so it comes before them. The path that is
        // matched is the path that is forwarded.
        let path = CanonicalPath::of(request.uri().path())?;
        if reserved::is_reserved(path.as_str()) {
            let answer = reserved::answer(request.method(), path.as_str(), &self.shared.readiness)?;
            return Ok(Self::answer_reserved(context, answer));
        }
        let (index, path) = self.find_route(host, path, &request)?;
        context.route = Some(index);
        let route = self.shared.routes.route(index);
        let uri = outgoing_uri(route, &path, request.uri())?;
        // Who calls, before anything that costs a client something.
        let principal = self.authenticate(route, context, &request).await?;
        context.principal = Some(Arc::clone(&principal));
        // Authorize before limit: a forbidden caller must not drain its client's budget. The
        // body's announced size belongs here too, and strangers learn nothing of limits.
        self.authorize(route, &principal)?;
        self.check_length(route, &request)?;
        // All policies or none; a refusal costs nothing.
        let charge = limit::charge(&principal, COST, context.started)?;
        context.standing = charge.standing();
        // Admit before forward: nothing reaches an upstream uncounted. After the limit: floods of
        // refused requests write nothing.
        let Some(exchange) = self.admit(context, index, &principal) else {
            charge.refund();
            return Err(Rejection::MeteringUnavailable);
        };
        context.admitted = true;
        exchange.durable().await;
        self.forward(exchange, index, &principal, uri, request).await
    }

    fn check_head<'r>(&self, request: &'r Request<Incoming>) -> Result<&'r str, Rejection> {
        let limits = &self.shared.limits;
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        if target > limits.uri {
            return Err(Rejection::UriTooLong);
        }
        let headers = request.headers();
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if headers.len() > limits.header_count || bytes > limits.headers {
            return Err(Rejection::HeadersTooLarge);
        }
        headers::check_names(headers, self.shared.underscore_headers).map_err(|_| Rejection::UnderscoreHeader)?;
        Ok(head::check(request)?.as_str())
    }

    fn find_route<'p>(
        &self,
        host: &str,
        path: CanonicalPath<'p>,
        request: &Request<Incoming>,
    ) -> Result<(RouteIndex, CanonicalPath<'p>), Rejection> {
        let index = self.match_route(host, path.as_str(), request)?;
        let route = self.shared.routes.route(index);
        let merged = path.has_double_slash();
        let path = path.for_route(route.merge_slashes, route.encoded_slash)?;
        // Merging must not lead to a route with other rules than the one that allowed it.
        if merged && self.match_route(host, path.as_str(), request)? != index {
            return Err(super::path::PathError::DoubleSlash.into());
        }
        Ok((index, path))
    }

    fn match_route(&self, host: &str, path: &str, request: &Request<Incoming>) -> Result<RouteIndex, Rejection> {
        match self.shared.routes.find(host, path, request.method()) {
            Match::Route(index) => Ok(index),
            Match::MethodNotAllowed(index) => Err(Rejection::MethodNotAllowed(self.shared.routes.allowed(index))),
            Match::None => Err(Rejection::NoRoute),
        }
    }

    async fn authenticate(
        &self,
        route: &RouteConfig,
        context: &RequestContext,
        request: &Request<Incoming>,
    ) -> Result<Arc<Principal>, Rejection> {
        let identified =
            self.shared.authenticator.authenticate(route, request.headers(), context.address, context.started).await;
        identified.map_err(|error| Rejection::Auth(error, None))
    }

    fn authorize(&self, route: &RouteConfig, principal: &Principal) -> Result<(), Rejection> {
        let allowed = self.shared.authenticator.authorize(route, principal);
        allowed.map_err(|error| Rejection::Auth(error, Some(route.scopes.to_string())))
    }

    fn body_limit(&self, route: &RouteConfig) -> Option<u64> {
        // A route narrows the server's limit, and cannot widen it.
        match (route.max_body, self.shared.limits.body) {
            (Some(route), Some(server)) => Some(route.min(server)),
            (one, other) => one.or(other),
        }
    }

    fn check_length(&self, route: &RouteConfig, request: &Request<Incoming>) -> Result<(), Rejection> {
        let Some(limit) = self.body_limit(route) else { return Ok(()) };
        match announced_length(request.headers().get(ANNOUNCED)) {
            Some(length) if length > limit => Err(Rejection::BodyTooLarge),
            _ => Ok(()),
        }
    }

    fn admit(self: &Arc<Self>, context: &RequestContext, route: RouteIndex, principal: &Principal) -> Option<Exchange> {
        let admission = Admission {
            id: context.event_id,
            request_id: context.request_id,
            client_id: principal.client.id,
            api_key_id: principal.api_key_id,
            token_id: principal.token_id,
            occurred_at: context.occurred_at,
            route,
            method: context.method,
            units: COST.get(),
        };
        let entry = self.meter.admit(&admission).ok()?;
        self.shared.metrics.requests_in_flight.inc();
        Some(Exchange::new(Arc::clone(self), context.clone(), entry))
    }

    async fn forward(
        self: &Arc<Self>,
        mut exchange: Exchange,
        index: RouteIndex,
        principal: &Principal,
        uri: Uri,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Rejection> {
        let route = self.shared.routes.route(index);
        let upstream = self.shared.upstream_of[usize::from(index)];
        let pool = &self.pools[upstream];
        let (mut head, body) = request.into_parts();
        let peer = exchange.context().peer.address.ip();
        let out = Outgoing {
            route,
            principal,
            request_id: exchange.context().request_id_value(),
            peer,
            trusted: headers::is_trusted(peer, &self.shared.trusted_proxies),
            host: pool.host(0),
        };
        headers::rewrite_request(&mut head.headers, self.shared.underscore_headers, &out);
        head.uri = uri;
        head.version = Version::HTTP_11;
        let (upload, state) = Upload::of(body, self.body_limit(route), self.shared.timeouts.body_idle);
        exchange.upload = state;
        forward(exchange, pool, upstream, Request::from_parts(head, upload)).await
    }

    /// The context of a request that has just come.
    fn begin(&self, request: &Request<Incoming>, peer: Peer) -> RequestContext {
        let clock = &self.shared.clock;
        let occurred_at = clock.wall();
        let event_id = self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(occurred_at);
        let ip = peer.address.ip();
        let trusted = &self.shared.trusted_proxies;
        let given = if headers::is_trusted(ip, trusted) { request.headers().get(X_REQUEST_ID) } else { None };
        let request_id = given.and_then(|given| RequestId::parse(given.as_bytes()));
        RequestContext {
            event_id,
            request_id: request_id.unwrap_or_else(|| event_id.into()),
            method: CountedMethod::of(request.method().as_str()),
            path: if self.shared.access_log.is_on() { request.uri().path().to_owned() } else { String::new() },
            address: headers::caller_address(request.headers(), ip, trusted),
            peer,
            started: clock.monotonic(),
            occurred_at,
            route: None,
            principal: None,
            standing: None,
            admitted: false,
        }
    }

    fn answer_reserved(context: &RequestContext, answer: Response<Bytes>) -> Response<ResponseBody> {
        let mut response = answer.map(ResponseBody::from);
        response.headers_mut().insert(X_REQUEST_ID, context.request_id_value());
        response
    }

    /// Turns a rejection into its answer, and counts it unless the books hold it already.
    fn refuse(&self, context: &RequestContext, rejection: &Rejection) -> Response<ResponseBody> {
        let status = rejection.status();
        // From admission on, the exchange has settled itself: it is an event, not a refusal.
        if !context.admitted {
            self.record_refusal(context, rejection, status);
        }
        let mut response = rejection.response(context.request_id.as_str()).map(ResponseBody::from);
        response.headers_mut().insert(X_REQUEST_ID, context.request_id_value());
        response
    }

    fn record_refusal(&self, context: &RequestContext, rejection: &Rejection, status: u16) {
        let shared = &self.shared;
        let (mut client, mut key) = context.who();
        if let Rejection::Auth(error, _) = rejection
            && client.is_nil()
        {
            (client, key) = error.who();
        }
        shared.metrics.request_rejected(context.route, status);
        let route = context.route.unwrap_or(RouteIndex::MAX);
        shared.rejected.record(context.occurred_at, client, key, route, status, rejection.code());
        let took = shared.clock.monotonic().since(context.started);
        shared.access_log.record(&AccessRecord {
            at: context.occurred_at,
            request_id: context.request_id.as_str(),
            address: context.address,
            method: context.method.as_str(),
            path: &context.path,
            route: shared.route_name(context.route),
            client: client.0,
            key: key.0,
            status: Some(status),
            outcome: REJECTED,
            reason: rejection.private_reason(),
            bytes_in: 0,
            bytes_out: 0,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
    }
}

/// The target for the upstream: the canonical path, with or without the route's prefix, and the
/// query as it came.
fn outgoing_uri(route: &RouteConfig, path: &CanonicalPath<'_>, uri: &Uri) -> Result<Uri, Rejection> {
    let mut text = path.as_str();
    if route.strip_prefix {
        text = text.strip_prefix(route.path.trim_end_matches('/')).unwrap_or(text);
    }
    let unchanged = path.is_unchanged() && text.len() == path.as_str().len() && uri.authority().is_none();
    if unchanged {
        return Ok(uri.clone());
    }
    let slash = if text.starts_with('/') { "" } else { "/" };
    let target = match uri.query() {
        Some(query) => format!("{slash}{text}?{query}"),
        None => format!("{slash}{text}"),
    };
    // The canonical form of a legal target is one.
    PathAndQuery::try_from(target).map(Uri::from).map_err(|_| Rejection::Internal)
}

impl Handler for Gateway {
    type Body = ResponseBody;

    /// Total: whatever happens, a request gets an answer.
    async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<ResponseBody> {
        let mut context = self.begin(&request, peer);
        // A panic costs one request, and the exchange it drops settles itself.
        let outcome = catch_panic(self.run(&mut context, request)).await.unwrap_or(Err(Rejection::Internal));
        match outcome {
            Ok(response) => response,
            Err(rejection) => self.refuse(&context, &rejection),
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Gateway").field("upstreams", &self.pools.len()).finish_non_exhaustive()
    }
}
