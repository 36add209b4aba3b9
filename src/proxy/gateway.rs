//! The order in which a request is decided, and why it is this one.
//!
//! `WorkerGateway::handle` is total: it makes the context, awaits `WorkerGateway::run`, turns
//! its error into the answer once, and lets the context travel with the response. `run` is the
//! policy: one short function, each phase in its place for a reason that stands beside it.

use std::future::{Future as _, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts as Head;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::Body as _;

use super::context::{Arrival, RequestContext};
use super::cost::DeclaredCost;
use super::forwarded::caller_address;
use super::grpc::Media;
use super::header_rules::is_needed_down;
use super::headers::{has_underscore, presented_request_id};
use super::intake::{IntakeFault, OutgoingBody};
use super::path::{CanonicalPath, canonicalise};
use super::rejection::Rejection;
use super::reserved::Reserved;
use super::returning::ReturningBody;
use super::route::NoRoute;
use super::shared::{Gateway, Route};
use super::shedding::Shedder;
use super::upstream::{Call, ExchangeFault, Timeouts, Upstream, is_grpc};
use super::{forward, health, query_credential, reserved, tokens};
use crate::auth::Identified;
use crate::clients::Principal;
use crate::config::server::UnderscoreHeaders;
use crate::limit::{self, Charge, Cost, When};
use crate::metering::Meter;
use crate::model::clock::Monotonic;
use crate::model::event_id::EventIdGenerator;
use crate::model::id::RequestId;
use crate::server::{Grant, Handler, Peer, Refusal, RequestBody};
use crate::tasks::{Tasks, catch_panic};
use crate::wire::body::Body;
use crate::wire::head::{self, HeadFault, named_host};
use crate::wire::observed::Observed;
use crate::wire::websocket;

mod check;
mod observe;
mod shaping;

pub use check::CheckFault;

/// The body of every response, observed by its request's context.
pub type ResponseBody = Observed<Body<ReturningBody>, Box<RequestContext>>;

/// A worker's gateway.
pub struct WorkerGateway {
    shared: Arc<Gateway>,
    upstreams: Vec<Upstream>,
    meter: Meter,
    // A std mutex, because handlers are shared by reference; the worker is one thread, so nobody
    // ever waits for it.
    ids: Mutex<EventIdGenerator>,
    shedder: Shedder,
}

/// What `run` comes to.
enum Answer {
    Upstream(Response<ReturningBody>),
    /// Of a probe.
    Probe(Response<Bytes>),
    /// Of an endpoint of ours.
    Own(Response<Bytes>),
}

/// A request with its route, and where it leads.
struct Routed<'a> {
    route: &'a Route,
    upstream: usize,
    timeouts: Timeouts,
    target: PathAndQuery,
}

impl Gateway {
    fn worker_upstreams(&self) -> Vec<Upstream> {
        let all = self.upstreams.iter().zip(&self.dialers).zip(&self.clusters);
        all.map(|((upstream, dialers), cluster)| Upstream::new(upstream, dialers, cluster, &self.metrics)).collect()
    }

    /// Checks endpoints where that is configured, until a stop.
    pub fn keep_checking(&self, tasks: &Tasks) {
        for ((upstream, dialers), cluster) in self.upstreams.iter().zip(&self.dialers).zip(&self.clusters) {
            let Some(health) = &upstream.health else { continue };
            for (index, dialer) in dialers.iter().enumerate() {
                let (dialer, stop) = (dialer.clone(), tasks.soft().clone());
                tasks.spawn_control(health::keep_checking(Arc::clone(cluster), index, dialer, health.clone(), stop));
            }
        }
    }

    /// The part of it that one worker owns: connections to upstreams, the journal's segment, ids.
    #[must_use]
    pub fn worker(self: &Arc<Self>, meter: Meter) -> Arc<WorkerGateway> {
        Arc::new(WorkerGateway {
            upstreams: self.worker_upstreams(),
            shared: Arc::clone(self),
            shedder: Shedder::new(self.limits.queue_delay, Arc::clone(&self.metrics)),
            meter,
            ids: Mutex::new(EventIdGenerator::new()),
        })
    }
}

impl Handler for WorkerGateway {
    type Body = ResponseBody;

    async fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Response<ResponseBody> {
        let arrival = self.arrival(request.headers(), peer);
        let mut context = RequestContext::new(&self.shared, peer, &arrival, request.method(), request.uri());
        context.may_be_recorded(request.headers(), request.uri());
        if let Some(media) = Media::of(request.method(), request.headers()) {
            context.speaks_grpc(media);
        }
        let (mut head, body) = request.into_parts();
        let decided = catch_panic(pin!(self.run(&mut head, body, &mut context))).await;
        match decided {
            Some(Ok(Answer::Upstream(response))) => context.accompany(response),
            Some(Ok(Answer::Own(response))) => context.reply(response),
            Some(Ok(Answer::Probe(response))) => {
                context.forget();
                response.map(|body| Observed::new(Body::Full(body), None))
            }
            Some(Err(rejection)) => context.refuse(&rejection, &head),
            // The panic was reported by the hook; it costs this one request.
            None => context.refuse(&Rejection::Internal, &head),
        }
    }

    fn refuse(&self, refusal: Refusal, address: IpAddr) -> Response<Bytes> {
        let peer = Peer::detached((address, 0).into());
        let arrival = self.arrival(&HeaderMap::new(), &peer);
        let context = RequestContext::new(&self.shared, &peer, &arrival, &Method::GET, &Uri::from_static("/"));
        context.turn_away(&Rejection::Server(refusal))
    }

    fn still_stands(&self, grant: &Grant) -> bool {
        self.shared.authenticator.still_stands(grant)
    }

    fn remind_each(&self) -> Option<Duration> {
        self.shared.stream_interval
    }

    fn tick(&self, late: Duration) {
        self.shedder.tick(late);
        let now = self.shared.clock.monotonic();
        self.upstreams.iter().for_each(|upstream| upstream.tick(now));
    }
}

impl WorkerGateway {
    /// The policy. Every `?` is a refusal; nothing is taken that is not given back or settled.
    /// The head stays with the caller until it goes on to an upstream, so that a refusal can say
    /// what was asked for without a copy of it.
    async fn run(&self, head: &mut Head, body: RequestBody, context: &mut RequestContext) -> Result<Answer, Rejection> {
        // First, because nothing may be decided from a head that can be read in two ways.
        self.frame(head, context)?;
        // One form, which is matched, authorised and forwarded.
        let path = canonical_path(head)?;
        // Probes before routes: our own space is never an upstream's.
        if reserved::owns(&path) {
            // Boxed: rare, and its state would make every request's future large.
            return Box::pin(self.answer(reserved::find(&path)?, head, body, context)).await;
        }
        if let Some(text) = self.shared.challenges.as_ref().and_then(|challenges| challenges.text(path.as_str())) {
            return reserved::challenge(&head.method, text).map(Answer::Probe);
        }
        // Before anybody is asked who they are: browsers send no credential with it.
        if let Some(answer) = self.preflight(head, &path, context) {
            return Ok(Answer::Own(answer));
        }
        // The route says which credentials it takes, and how large a body may be.
        let mut routed = self.route(head, &path, &body, context)?;
        // Before anybody looks at credentials, so that there is one way to look.
        if let Some(name) = &self.shared.query_param
            && routed.route.config.credentials.contains(&AUTHORIZATION)
            && !self.observes(routed.route)
        {
            query_credential::take(name, &mut routed.target, &mut head.headers);
        }
        let principal = self.decide(routed.route, &head.headers, context).await?;
        let head = std::mem::replace(head, Request::new(()).into_parts().0);
        self.forward(&routed, head, body, &principal, context).await.map(Answer::Upstream)
    }

    /// Who it is, and that it may pass: charged and admitted then.
    async fn decide(
        &self,
        route: &Route,
        headers: &HeaderMap,
        context: &mut RequestContext,
    ) -> Result<Identified, Rejection> {
        if self.observes(route) {
            // Boxed: of some weeks in a service's life.
            return Box::pin(self.observe(route, headers, context)).await;
        }
        let principal = self.authenticate(route, headers, context).await?;
        // Before the limit, so that a forbidden caller cannot drain its client's budget.
        self.authorize(route, &principal, context)?;
        // When it is known whose it is, so that who sends most is refused first; before anything
        // that costs more than refusing.
        if !self.shedder.admits(principal.client.id, context.caller()) {
            return Err(Rejection::Overloaded);
        }
        // A client that was just looked up has quotas that the ledger is still asked about.
        limit::quotas_read(&principal).await.map_err(Rejection::Quotas)?;
        // Looking up a caller may have taken a while; budgets are measured on the time now.
        let now = self.shared.clock.monotonic();
        let charge = limit(&principal, self.cost(route), now, context)?;
        // Before the forwarding, so that nothing reaches an upstream uncounted; after the limit,
        // so that a flood of refused requests writes nothing.
        self.admit(charge, now, context).await?;
        Ok(principal)
    }

    fn cost(&self, route: &Route) -> Cost {
        let units = route.config.cost;
        Cost { rate: if self.shared.rates_by_cost { units } else { 1 }, units }
    }

    /// Answers where no upstream does.
    async fn answer(
        &self,
        place: Reserved,
        head: &Head,
        body: RequestBody,
        context: &mut RequestContext,
    ) -> Result<Answer, Rejection> {
        match place {
            Reserved::Probe(probe) => probe.answer(&head.method, &self.shared.readiness).map(Answer::Probe),
            Reserved::Usage => {
                reserved::reads(&head.method)?;
                self.own_usage(head, context).await.map(Answer::Own)
            }
            Reserved::Check => self.check(head, context).await.map(Answer::Own),
            Reserved::Tokens(endpoint) => {
                tokens::answer(endpoint, &self.shared, head, body, context).await.map(Answer::Own)
            }
        }
    }

    fn arrival(&self, headers: &HeaderMap, peer: &Peer) -> Arrival {
        let at = self.shared.clock.wall();
        let event = self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(at);
        let trusted = self.shared.is_trusted(peer.address());
        let presented = if trusted { presented_request_id(headers) } else { None };
        let caller = if trusted {
            caller_address(headers, peer.address(), &self.shared.trusted_proxies)
        } else {
            peer.address()
        };
        let request_id = presented.unwrap_or_else(|| RequestId::from(event));
        Arrival { event, request_id, at, started: self.shared.clock.monotonic(), caller, trusted }
    }

    fn frame(&self, head: &Head, context: &RequestContext) -> Result<(), Rejection> {
        head::check(head, &self.shared.limits)?;
        if context.peer().take_fragment() {
            return Err(Rejection::Fragment);
        }
        if self.shared.underscores == UnderscoreHeaders::Refuse && has_underscore(&head.headers) {
            return Err(Rejection::UnderscoreName);
        }
        if self.shared.pseudonym.is_going_round(&head.headers) {
            return Err(Rejection::Loop);
        }
        Ok(())
    }

    fn route(
        &self,
        head: &Head,
        path: &CanonicalPath<'_>,
        body: &RequestBody,
        context: &mut RequestContext,
    ) -> Result<Routed<'_>, Rejection> {
        let route = self.find_route(head, path, context)?;
        let (upstream, timeouts) = route.upstream.ok_or(Rejection::NoRoute)?;
        if must_upgrade(head, body) && !route.config.websocket {
            return Err(HeadFault::Method.into());
        }
        let announced = body.size_hint().exact();
        if announced.zip(route.max_body).is_some_and(|(announced, limit)| announced > limit) {
            return Err(Rejection::BodyTooLarge);
        }
        let replaced = forward::Replaced::of(&route.config);
        Ok(Routed { route, upstream, timeouts, target: forward::target(&head.uri, path, replaced) })
    }

    fn find_route(
        &self,
        head: &Head,
        path: &CanonicalPath<'_>,
        context: &mut RequestContext,
    ) -> Result<&Route, Rejection> {
        let host = named_host(&head.headers, &head.uri);
        let index = self.shared.table.find(host, path, &head.method).map_err(|none| match none {
            NoRoute::Unknown => Rejection::NoRoute,
            NoRoute::Method(allow) => Rejection::Method(allow),
            NoRoute::Ambiguous(fault) => Rejection::Path(fault),
        })?;
        context.found_route(index);
        let route = &self.shared.routes[usize::from(index)];
        shaping::greet(route, head, context)?;
        Ok(route)
    }

    /// On open routes whoever calls is nobody, even with a good key.
    async fn authenticate(
        &self,
        route: &Route,
        headers: &HeaderMap,
        context: &mut RequestContext,
    ) -> Result<Identified, Rejection> {
        let now = self.shared.clock.monotonic();
        let authenticator = &self.shared.authenticator;
        let principal =
            authenticator.authenticate(&route.config, context.presented(headers), context.caller(), now).await?;
        context.identified(&principal);
        if let Some(grant) = principal.grant() {
            context.peer().rests_on(grant);
        }
        Ok(principal)
    }

    fn authorize(&self, route: &Route, principal: &Principal, context: &RequestContext) -> Result<(), Rejection> {
        Ok(self.shared.authenticator.authorize(&route.config, principal, context.caller())?)
    }

    /// How the caller's limits stand: authenticated like a route, costs nothing.
    async fn own_usage(&self, head: &Head, context: &mut RequestContext) -> Result<Response<Bytes>, Rejection> {
        let (authenticator, own) = (&self.shared.authenticator, &self.shared.own_route);
        let now = self.shared.clock.monotonic();
        let principal = authenticator.authenticate(own, (&head.headers).into(), context.caller(), now).await?;
        context.identified(&principal);
        authenticator.authorize(own, &principal, context.caller())?;
        limit::quotas_read(&principal).await.map_err(Rejection::Quotas)?;
        let when = When { arrived: context.arrived(), now: self.shared.clock.monotonic() };
        let overview = limit::overview(&principal, when).map_err(Rejection::Limit)?;
        Ok(reserved::usage(&overview))
    }

    async fn admit(&self, charge: Charge, now: Monotonic, context: &mut RequestContext) -> Result<(), Rejection> {
        match self.meter.admit(&context.admission(charge.units())) {
            Ok(entry) => context.admitted(entry, charge, now),
            Err(full) => {
                charge.refund(now);
                return Err(full.into());
            }
        }
        if let Some(entry) = context.entry() {
            entry.durable().await;
        }
        Ok(())
    }

    async fn forward(
        &self,
        routed: &Routed<'_>,
        mut head: Head,
        body: RequestBody,
        principal: &Principal,
        context: &mut RequestContext,
    ) -> Result<Response<ReturningBody>, Rejection> {
        let config = &routed.route.config;
        let edits = self.rewrite(routed.route, &mut head, principal, context);
        let method = head.method.clone();
        let keep_host =
            (config.preserve_host || config.shaping.host.is_some()) && head.headers.contains_key(http::header::HOST);
        let may_upgrade = !body.is_tunnel() || (config.websocket && websocket::is_handshake(&head.headers));
        let must_upgrade = must_upgrade(&head, &body);
        // Without its `Upgrade` it is a request like any other.
        let max_body = routed.route.max_body;
        let (body, intake) = if may_upgrade { OutgoingBody::new(body, max_body) } else { (OutgoingBody::NONE, None) };
        let body = if is_grpc(&head.headers) { body.with_trailers() } else { body };
        context.takes_in(intake);
        let request = forward::request(head, routed.target.clone());
        context.exchanges_with(routed.upstream);
        let exchanged = {
            let (peer, intake, noted, leaving) = context.for_call();
            let (timeouts, key) = (routed.timeouts, context.balance_key());
            let call = Call { request, body, keep_host, intake, peer, timeouts, key, noted, leaving };
            let mut exchange = pin!(self.upstreams[routed.upstream].exchange(call, &self.shared.clock));
            // An upload may go on for long before there is an answer.
            let turn = poll_fn(|task| {
                context.passing(0);
                exchange.as_mut().poll(task)
            });
            turn.await
        };
        let mut response = exchanged.map_err(|fault| whose_fault(context.intake_fault(), fault))?;
        if must_upgrade && response.status().is_success() {
            return Err(Rejection::Upstream(ExchangeFault::NoTunnel));
        }
        context.answered(routed.upstream);
        if let Some(header) = &self.shared.cost_header {
            let declared = DeclaredCost::new(header);
            declared.take(response.headers_mut());
            response.body_mut().watch_cost(Arc::clone(&declared));
            context.costs(declared);
        }
        let mut response = forward::response(response, &method);
        if let Some(edits) = edits {
            edits.apply(response.headers_mut(), is_needed_down);
        }
        Ok(response)
    }
}

/// Over HTTP/2 any 2xx opens the tunnel that was asked for (RFC 8441 §5): it cannot be ignored as
/// HTTP/1.1 allows.
fn must_upgrade(head: &Head, body: &RequestBody) -> bool {
    head.version == Version::HTTP_2 && body.is_tunnel()
}

fn canonical_path(head: &Head) -> Result<CanonicalPath<'_>, Rejection> {
    // The one target without a path: OPTIONS for the server as a whole.
    if head.uri.path() == "*" {
        return Err(Rejection::NoRoute);
    }
    Ok(canonicalise(head.uri.path())?)
}

fn limit(principal: &Principal, cost: Cost, now: Monotonic, context: &mut RequestContext) -> Result<Charge, Rejection> {
    let charge = limit::charge(principal, cost, When { arrived: context.arrived(), now }).map_err(Rejection::Limit)?;
    context.charged(charge.standing());
    Ok(charge)
}

/// A request's body that fails takes the upstream's connection with it; the cause is the body.
pub(super) fn whose_fault(intake: Option<IntakeFault>, fault: ExchangeFault) -> Rejection {
    match intake {
        Some(IntakeFault::Late) => Rejection::BodyLate,
        Some(IntakeFault::Broken) => Rejection::CallerGone,
        Some(IntakeFault::TooLarge) => Rejection::BodyTooLarge,
        None => Rejection::Upstream(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_s_body_is_blamed_first() {
        let fault = || ExchangeFault::Late;
        assert!(matches!(whose_fault(Some(IntakeFault::TooLarge), fault()), Rejection::BodyTooLarge));
        assert!(matches!(whose_fault(Some(IntakeFault::Late), fault()), Rejection::BodyLate));
        assert!(matches!(whose_fault(Some(IntakeFault::Broken), fault()), Rejection::CallerGone));
        assert!(matches!(whose_fault(None, fault()), Rejection::Upstream(ExchangeFault::Late)));
    }
}
