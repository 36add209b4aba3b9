//! One request's facts, and the settling of them: exactly once, however the request ends.
//!
//! A [`RequestContext`] is made when a head is there. While the request is being decided it
//! belongs to `handle`; once an upstream has answered it travels with the response's body and
//! observes it. Wherever it is when the caller leaves, it is dropped, and settles.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use jiff::Timestamp;

use self::ending::ANSWERED;
use self::recording::Ended;
use super::cost::DeclaredCost;
use super::gateway::ResponseBody;
use super::grpc::Media;
use super::headers::X_REQUEST_ID;
use super::intake::{Intake, IntakeFault};
use super::interim::{Passed, Told};
use super::rejection::Rejection;
use super::returning::ReturningBody;
use super::shared::Gateway;
use super::spans::{AskedEndpoints, RequestSpans};
use super::trace::TraceId;
use super::{cors, grpc};
use crate::auth::Presented;
use crate::clients::Principal;
use crate::limit::{Charge, Standing};
use crate::metering::Entry;
use crate::model::causes::with_causes;
use crate::model::clock::Monotonic;
use crate::model::id::{ApiKeyId, ClientId, EventId, RequestId, TokenId};
use crate::model::usage::{Admission, CountedMethod, EventKind, Outcome, REJECTED};
use crate::server::Peer;
use crate::wire::body::Body;
use crate::wire::observed::Observed;
use crate::wire::problem::Problem;

mod ending;
mod recording;

/// What is known of a request so far.
#[derive(Debug)]
pub struct RequestContext {
    gateway: Arc<Gateway>,
    peer: Peer,
    /// The event's id, should there be one.
    event: EventId,
    request_id: RequestId,
    /// As the upstream and the caller get it.
    request_id_value: HeaderValue,
    method: CountedMethod,
    kind: EventKind,
    /// When the head was there.
    at: Timestamp,
    started: Monotonic,
    /// The caller: the peer, or whom a trusted peer speaks for.
    caller: IpAddr,
    trusted: bool,
    route: Option<u16>,
    client: ClientId,
    key: ApiKeyId,
    token: TokenId,
    standing: Standing,
    /// What was taken from its client's limits, until it is settled; its place among the client's
    /// open requests for as long as this is here.
    charge: Option<Charge>,
    /// What the upstream says it cost, if it is asked.
    declared: Option<Arc<DeclaredCost>>,
    entry: Option<Entry>,
    admitted: Monotonic,
    // Atomic, because an exchange under way shares its request.
    sent: AtomicBool,
    told: Told,
    intake: Option<Arc<Intake>>,
    upstream_took: Option<Duration>,
    status: Option<u16>,
    /// For the access log and who watches; none while there is neither, unless another proxy asks.
    target: Option<(Method, Uri)>,
    language: Language,
    /// Which page may read the answer, on a route that says so.
    origin: Option<HeaderValue>,
    /// Which trace it belongs to.
    trace: Option<TraceId>,
    /// What is recorded of it; none: nothing.
    spans: Option<Box<RequestSpans>>,
    /// On a route that observes.
    observing: Option<Observing>,
    settled: bool,
}

/// A request on a route that observes.
#[derive(Clone, Copy, Debug)]
struct Observing {
    /// The code with which it would have been refused.
    code: Option<&'static str>,
}

/// How refusals are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    /// RFC 9457.
    Problem,
    /// The same with OAuth's members, for its clients.
    OAuth,
    /// A status in the headers of a 200.
    Grpc(Media),
}

/// Who is asking, before anything else is known.
pub(super) struct Arrival {
    pub(super) event: EventId,
    pub(super) request_id: RequestId,
    pub(super) at: Timestamp,
    pub(super) started: Monotonic,
    pub(super) caller: IpAddr,
    pub(super) trusted: bool,
}

impl RequestContext {
    pub(super) fn new(gateway: &Arc<Gateway>, peer: &Peer, arrival: &Arrival, method: &Method, uri: &Uri) -> Self {
        gateway.metrics.requests_in_flight.inc();
        let request_id_value =
            HeaderValue::from_bytes(arrival.request_id.as_bytes()).expect("a request id is visible ASCII");
        Self {
            gateway: Arc::clone(gateway),
            peer: peer.clone(),
            event: arrival.event,
            request_id: arrival.request_id,
            request_id_value,
            method: CountedMethod::of(method.as_str()),
            kind: EventKind::Request,
            at: arrival.at,
            started: arrival.started,
            caller: arrival.caller,
            trusted: arrival.trusted,
            route: None,
            client: ClientId::NIL,
            key: ApiKeyId::NIL,
            token: TokenId::NIL,
            standing: Standing::default(),
            charge: None,
            declared: None,
            entry: None,
            admitted: arrival.started,
            sent: AtomicBool::new(false),
            told: Told::default(),
            intake: None,
            upstream_took: None,
            status: None,
            target: (gateway.access_log.is_on() || gateway.tail.is_watched()).then(|| (method.clone(), uri.clone())),
            language: Language::Problem,
            origin: None,
            trace: None,
            spans: None,
            observing: None,
            settled: false,
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Where its credential can be. What a proxy asks about comes on the proxy's own connection,
    /// whose certificate says nothing of the caller.
    pub(super) fn presented<'r>(&'r self, headers: &'r HeaderMap) -> Presented<'r> {
        let secured = self.peer.secured().filter(|_| self.kind != EventKind::Delegated);
        let certificate = secured.and_then(|secured| secured.subject.as_ref()).map(|subject| &*subject.credential);
        Presented { headers, certificate }
    }

    pub(super) fn caller(&self) -> IpAddr {
        self.caller
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    pub(super) fn event(&self) -> EventId {
        self.event
    }

    pub(super) fn request_id_value(&self) -> &HeaderValue {
        &self.request_id_value
    }

    /// What says where requests of the same client go: its id, or where nobody was asked, the
    /// caller's address.
    pub(super) fn balance_key(&self) -> u64 {
        if self.client != ClientId::NIL {
            return self.client.0.as_u64_pair().1;
        }
        match self.caller {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default(),
        }
    }

    pub(super) fn found_route(&mut self, route: u16) {
        self.route = Some(route);
    }

    pub(super) fn identified(&mut self, principal: &Principal) {
        self.client = principal.client.id;
        self.key = principal.api_key_id;
        self.token = principal.token_id;
    }

    /// The request is another one than the one that came: what a proxy asks about.
    pub(super) fn asks_about(&mut self, original: &http::request::Parts) {
        self.method = CountedMethod::of(original.method.as_str());
        self.kind = EventKind::Delegated;
        self.target = Some((original.method.clone(), original.uri.clone()));
    }

    /// Its route observes: from here on nothing of the caller's is refused.
    pub(super) fn is_being_observed(&mut self) {
        self.observing = Some(Observing { code: None });
    }

    pub(super) fn is_observed(&self) -> bool {
        self.observing.is_some()
    }

    /// Whether something would have refused it.
    pub(super) fn would_be_refused(&self) -> bool {
        self.observing.is_some_and(|observing| observing.code.is_some())
    }

    /// Counts what would have refused it: the first of all reasons, as it would have been.
    pub(super) fn would_be(&mut self, rejection: &Rejection) {
        let Some(Observing { code: code @ None }) = &mut self.observing else { return };
        let public = rejection.public();
        *code = Some(public.code);
        let (client, key) = self.whose(rejection);
        let (status, route) = (public.status.as_u16(), self.route.unwrap_or(u16::MAX));
        self.gateway.metrics.would_refuse(self.route, public.code);
        self.gateway.rejected.observe(self.at, client, key, route, status, public.code);
    }

    /// The caller is at an endpoint of the token issuer.
    pub(super) fn speaks_oauth(&mut self) {
        self.language = Language::OAuth;
    }

    /// The caller is a client of gRPC.
    pub(super) fn speaks_grpc(&mut self, media: Media) {
        self.language = Language::Grpc(media);
    }

    /// What `Access-Control-Allow-Origin` says to it.
    pub(super) fn comes_from(&mut self, origin: Option<HeaderValue>) {
        self.origin = origin;
    }

    pub(super) fn belongs_to(&mut self, trace: Option<TraceId>) {
        self.trace = trace;
    }

    pub(super) fn charged(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// What an entry is made of.
    pub(super) fn admission(&self, units: u32) -> Admission {
        Admission {
            id: self.event,
            request_id: self.request_id,
            client_id: self.client,
            api_key_id: self.key,
            token_id: self.token,
            occurred_at: self.at,
            route: self.route.unwrap_or(u16::MAX),
            method: self.method,
            units,
            kind: self.kind,
        }
    }

    /// More may have passed, `bytes_out` of the response by now: told of when it is time for that.
    /// Costs next to nothing until it is.
    pub(super) fn passing(&self, bytes_out: u64) {
        if self.peer.take_reminder()
            && let Some(entry) = &self.entry
        {
            let at = self.gateway.clock.wall();
            let id = self.gateway.part_ids.lock().unwrap_or_else(PoisonError::into_inner).next(at);
            let part = Admission { id, occurred_at: at, kind: EventKind::Stream(self.event), ..self.admission(0) };
            self.told.tell(entry, &part, self.status, Passed { bytes_in: self.bytes_in(), bytes_out });
        }
    }

    pub(super) fn arrived(&self) -> Timestamp {
        self.at
    }

    pub(super) fn admitted(&mut self, entry: Entry, charge: Charge, now: Monotonic) {
        self.entry = Some(entry);
        self.charge = Some(charge);
        self.admitted = now;
    }

    pub(super) fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    pub(super) fn takes_in(&mut self, intake: Option<Arc<Intake>>) {
        self.intake = intake;
    }

    pub(super) fn intake_fault(&self) -> Option<IntakeFault> {
        self.intake.as_ref().and_then(|intake| intake.fault())
    }

    /// What an upstream call reports to and reads from.
    pub(super) fn for_call(&self) -> (&Peer, Option<&Intake>, Option<&AskedEndpoints>, impl FnMut(bool)) {
        let leaving = |leaves| {
            self.sent.store(leaves, Relaxed);
            match &self.entry {
                Some(entry) if leaves => entry.mark_sent(),
                Some(entry) => entry.clear_sent(),
                None => {}
            }
        };
        (&self.peer, self.intake.as_deref(), self.spans.as_ref().map(|spans| &spans.asked), leaving)
    }

    /// What is said about the cost until the end counts.
    pub(super) fn costs(&mut self, declared: Arc<DeclaredCost>) {
        self.declared = Some(declared);
    }

    /// Notes that the upstream's head is there.
    pub(super) fn answered(&mut self, upstream: usize) {
        let took = self.gateway.clock.monotonic().since(self.admitted);
        self.upstream_took = Some(took);
        self.gateway.metrics.upstream_answered(upstream, took);
    }

    /// Sends the upstream's response on its way, settled when its body ends.
    pub(super) fn accompany(mut self, mut response: Response<ReturningBody>) -> Response<ResponseBody> {
        self.status = Some(response.status().as_u16());
        response.headers_mut().insert(X_REQUEST_ID, self.request_id_value.clone());
        self.standing.write(response.headers_mut());
        self.share(response.headers_mut());
        // On the heap from here on: the response is moved often.
        response.map(|body| Observed::new(Body::Stream(body), Some(Box::new(self))))
    }

    /// Answers with a refusal; settled here, because the answer is ours and whole.
    pub(super) fn refuse(mut self, rejection: &Rejection, head: &Head) -> Response<ResponseBody> {
        let response = self.refusal(rejection);
        let public = rejection.public();
        // Nobody is there to get an answer: the event does not claim one.
        let is_sent = !matches!(rejection, Rejection::CallerGone);
        // What it stands for, whatever the answer is dressed in.
        self.status = is_sent.then(|| public.status.as_u16());
        let bytes = if is_sent { response.body().len() as u64 } else { 0 };
        if self.entry.is_some() {
            let (outcome, reason) = match rejection.outcome() {
                (Outcome::Cut | Outcome::ClientGone, _) if !self.is_sent() => (Outcome::NotSent, None),
                decided => decided,
            };
            self.settle(outcome, reason, bytes);
            self.log(outcome.as_str(), &self.causes_of(rejection), bytes);
            let fault = rejection.upstream_fault();
            self.record(Ended { outcome: outcome.as_str(), reason: Some(public.code), fault });
        } else {
            let status = public.status.as_u16();
            self.gateway.metrics.request_rejected(self.route, status, public.code);
            let route = self.route.unwrap_or(u16::MAX);
            let (client, key) = self.whose(rejection);
            self.gateway.rejected.record(self.at, client, key, route, status, public.code);
            let reason = with_causes(rejection);
            self.log(REJECTED, &reason, bytes);
            self.note_refusal(rejection, Some(head), reason);
            self.record(Ended { outcome: REJECTED, reason: Some(public.code), fault: None });
        }
        self.settled = true;
        response.map(|body| Observed::new(Body::Full(body), None))
    }

    /// The answer alone.
    fn refusal(&self, rejection: &Rejection) -> Response<bytes::Bytes> {
        let oauth_error = (self.language == Language::OAuth).then(|| rejection.oauth_error());
        let problem = Problem { oauth_error, ..rejection.problem(self.request_id.as_str()) };
        let mut response = match self.language {
            Language::Grpc(media) => grpc::refusal(media, &problem, rejection.retry_after_seconds()),
            Language::Problem | Language::OAuth => problem.response(),
        };
        let headers = response.headers_mut();
        rejection.write_headers(headers);
        headers.insert(X_REQUEST_ID, self.request_id_value.clone());
        self.share(headers);
        if self.language == Language::OAuth {
            // Nobody keeps it (RFC 6749 §5.1), and a key may come as a password as well (§5.2).
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            if problem.status == StatusCode::UNAUTHORIZED {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"octroi\""));
            }
        }
        response
    }

    /// Says which pages may read the answer, if its route says so.
    fn share(&self, headers: &mut HeaderMap) {
        let route = self.route.and_then(|route| self.gateway.routes.get(usize::from(route)));
        if let Some(config) = route.and_then(|route| route.config.shaping.cors.as_deref()) {
            cors::write(config, self.origin.as_ref(), headers);
        }
    }

    /// Turns away what is no request.
    pub(super) fn turn_away(mut self, rejection: &Rejection) -> Response<bytes::Bytes> {
        let response = self.refusal(rejection);
        let public = rejection.public();
        let status = public.status.as_u16();
        self.status = Some(status);
        self.gateway.metrics.request_rejected(None, status, public.code);
        self.gateway.rejected.record(self.at, ClientId::NIL, ApiKeyId::NIL, u16::MAX, status, public.code);
        let reason = with_causes(rejection);
        self.log(REJECTED, &reason, response.body().len() as u64);
        self.note_refusal(rejection, None, reason);
        self.settled = true;
        response
    }

    /// Sends an answer of our own on its way. Nothing reached an upstream, so nothing is metered but
    /// what another proxy forwards.
    pub(super) fn reply(mut self, mut response: Response<bytes::Bytes>) -> Response<ResponseBody> {
        self.status = Some(response.status().as_u16());
        response.headers_mut().insert(X_REQUEST_ID, self.request_id_value.clone());
        self.standing.write(response.headers_mut());
        if self.entry.is_some() {
            self.settle(Outcome::Complete, None, 0);
            self.log(Outcome::Complete.as_str(), &self.observation(), 0);
            self.record(Ended::well(Outcome::Complete.as_str()));
        } else {
            self.log(ANSWERED, "", response.body().len() as u64);
            self.record(Ended::well(ANSWERED));
        }
        self.settled = true;
        response.map(|body| Observed::new(Body::Full(body), None))
    }

    /// It was no request at all, but a probe.
    pub(super) fn forget(mut self) {
        self.settled = true;
    }

    /// Who was refused, also where no principal came of it.
    fn whose(&self, rejection: &Rejection) -> (ClientId, ApiKeyId) {
        use crate::auth::AuthError::{ClientSuspended, Invalid};
        match rejection {
            Rejection::Auth(Invalid { client, key, .. }) => {
                (client.unwrap_or(ClientId::NIL), key.unwrap_or(ApiKeyId::NIL))
            }
            Rejection::Auth(ClientSuspended { client, key }) => (*client, *key),
            _ => (self.client, self.key),
        }
    }
}
