//! How a request ends: what its event, its charge and its line in the access log say.

use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts as Head;
use http::{Method, Uri};

use super::RequestContext;
use super::recording::Ended;
use crate::model::causes::with_causes;
use crate::model::usage::{CutReason, Outcome, Settlement};
use crate::proxy::intake::IntakeFault;
use crate::proxy::interim::Passed;
use crate::proxy::rejection::Rejection;
use crate::proxy::returning::ReturnFault;
use crate::proxy::trace::TraceId;
use crate::telemetry::access_log::AccessRecord;
use crate::telemetry::masked::masked;
use crate::telemetry::refusals::Refusal;
use crate::telemetry::tail::Tailed;
use crate::wire::observed::{End, Observer};

impl RequestContext {
    fn end(&mut self, end: &End<'_, ReturnFault>, bytes: u64) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let (outcome, reason) = self.outcome_of(end);
        self.settle(outcome, reason, bytes);
        self.log_end(outcome, reason, end, bytes);
        let fault = match end {
            End::Failed(fault) if outcome == Outcome::UpstreamError => Some(fault.word()),
            _ => None,
        };
        self.record(Ended { outcome: outcome.as_str(), reason: reason.map(CutReason::as_str), fault });
    }

    fn outcome_of(&self, end: &End<'_, ReturnFault>) -> (Outcome, Option<CutReason>) {
        match (end, self.intake_fault()) {
            (End::Complete, _) => (Outcome::Complete, None),
            // The request's body failed first, and took the upstream's connection with it.
            (End::Failed(_), Some(IntakeFault::Broken)) => (Outcome::ClientGone, None),
            (End::Failed(_), Some(IntakeFault::TooLarge)) => (Outcome::Cut, Some(CutReason::BodyTooLarge)),
            // Deadlines of ours: the caller stood still, or the upstream was allowed no more time.
            (End::Failed(_), Some(IntakeFault::Late)) | (End::Failed(ReturnFault::Overdue), None) => {
                (Outcome::Cut, Some(CutReason::Deadline))
            }
            (End::Failed(ReturnFault::Broken(_) | ReturnFault::Late), None) => (Outcome::UpstreamError, None),
            (End::Dropped, _) if !self.is_sent() && self.entry.is_some() => (Outcome::NotSent, None),
            (End::Dropped, _) => match self.peer.cut_reason() {
                Some(reason) => (Outcome::Cut, Some(reason)),
                None => (Outcome::ClientGone, None),
            },
        }
    }

    pub(super) fn settle(&mut self, outcome: Outcome, reason: Option<CutReason>, bytes_out: u64) {
        let Some(entry) = self.entry.take() else { return };
        let now = self.gateway.clock.monotonic();
        let declared = self.declared.as_ref().and_then(|declared| declared.units());
        if let Some(charge) = &self.charge {
            // As the event: what never left for the upstream costs no units.
            let units = if outcome == Outcome::NotSent { Some(0) } else { declared };
            charge.settle_units(units.unwrap_or(charge.units()));
            if let (Some(cost), true) = (declared, self.gateway.rates_by_cost) {
                charge.settle_rates(cost, now);
            }
        }
        let duration = now.since(self.admitted);
        let rest = self.told.rest_of(Passed { bytes_in: self.bytes_in(), bytes_out });
        entry.settle(&Settlement {
            status: self.status,
            outcome,
            reason,
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            bytes_in: rest.bytes_in,
            bytes_out: rest.bytes_out,
            units: declared,
        });
        self.gateway.metrics.request_ended(self.route, outcome, self.status, now.since(self.started));
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent.load(Relaxed)
    }

    pub(super) fn bytes_in(&self) -> u64 {
        self.intake.as_ref().map_or(0, |intake| intake.bytes())
    }

    fn log_end(&self, outcome: Outcome, reason: Option<CutReason>, end: &End<'_, ReturnFault>, bytes_out: u64) {
        match (reason, end) {
            (Some(reason), _) => self.log(outcome.as_str(), reason.as_str(), bytes_out),
            (None, End::Failed(fault)) => self.log(outcome.as_str(), &fault.to_string(), bytes_out),
            (None, _) => self.log(outcome.as_str(), &self.observation(), bytes_out),
        }
    }

    /// What it would have been refused with; only for the log.
    pub(super) fn observation(&self) -> String {
        let code = self.observing.and_then(|observing| observing.code).filter(|_| self.target.is_some());
        code.map(|code| format!("observed: {code}")).unwrap_or_default()
    }

    /// Notes it among the recent refusals, for whoever asks why.
    pub(super) fn note_refusal(&self, rejection: &Rejection, head: Option<&Head>, reason: String) {
        let public = rejection.public();
        let (client, key) = self.whose(rejection);
        let standing = match rejection {
            Rejection::Limit(exceeded) => &exceeded.standing,
            _ => &self.standing,
        };
        // Of what another proxy asks about, not of its question; of nothing where there was no head.
        let asked = self.target.as_ref().map(|(method, uri)| (method, uri)).filter(|_| head.is_some());
        let (method, uri) = asked.or(head.map(|head| (&head.method, &head.uri))).unzip();
        let [limit_policies, limit_levels] = standing.texts().map(|text| text.map(str::to_owned));
        self.gateway.refusals.record(Refusal {
            at: self.at,
            request_id: self.request_id.as_str().to_owned(),
            route: self.route.map(|route| self.gateway.route_name(route).to_owned()),
            method: method.map(ToString::to_string).unwrap_or_default(),
            path: uri.map(|uri| uri.path().to_owned()).unwrap_or_default(),
            client_id: (!client.is_nil()).then_some(client),
            api_key_id: (!key.is_nil()).then_some(key),
            address: self.caller,
            status: public.status.as_u16(),
            code: public.code,
            reason,
            limit_policies,
            limit_levels,
            retry_after: rejection.retry_after_seconds(),
        });
    }

    /// A refusal with all its causes, in one line; only for the log.
    pub(super) fn causes_of(&self, rejection: &Rejection) -> String {
        if self.target.is_some() { with_causes(rejection) } else { String::new() }
    }

    pub(super) fn log(&self, outcome: &'static str, reason: &str, bytes_out: u64) {
        // Nothing is known of what came before anybody watched or logged.
        let Some((method, uri)) = &self.target else { return };
        if self.gateway.tail.is_watched() {
            self.tell((method, uri), outcome, reason, bytes_out);
        }
        self.gateway.access_log.write(&AccessRecord {
            at: self.at,
            request_id: self.request_id.as_str(),
            trace: self.trace.as_ref().map_or("", TraceId::as_str),
            address: self.caller,
            client: self.client,
            key: self.key,
            route: self.route.map_or("", |route| self.gateway.route_name(route)),
            method: method.as_str(),
            path: uri.path(),
            status: self.status,
            outcome,
            reason,
            bytes_in: self.bytes_in(),
            bytes_out,
            duration: self.gateway.clock.monotonic().since(self.started),
            upstream: self.upstream_took,
        });
    }
}

impl RequestContext {
    /// Tells those who watch.
    #[cold]
    fn tell(&self, (method, uri): (&Method, &Uri), outcome: &'static str, reason: &str, bytes_out: u64) {
        let took = self.gateway.clock.monotonic().since(self.started);
        self.gateway.tail.tell(Tailed {
            at: self.at,
            request_id: self.request_id.as_str().to_owned(),
            client_id: self.client,
            route: self.route.map_or("", |route| self.gateway.route_name(route)).to_owned(),
            method: method.to_string(),
            path: masked(uri.path()).into_owned(),
            status: self.status,
            outcome,
            reason: masked(reason).into_owned(),
            bytes_in: self.bytes_in(),
            bytes_out,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
    }
}

/// The outcome of a request that the gateway itself answered, in the access log.
pub(super) const ANSWERED: &str = "answered";

impl Observer<ReturnFault> for Box<RequestContext> {
    fn passing(&mut self, bytes: u64) {
        RequestContext::passing(self, bytes);
    }

    fn ended(mut self, end: End<'_, ReturnFault>, bytes: u64) {
        self.end(&end, bytes);
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        self.end(&End::Dropped, 0);
        self.gateway.metrics.requests_in_flight.dec();
    }
}
