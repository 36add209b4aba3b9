//! An admitted request until it is settled: exactly once, however it ends.
//!
//! The exchange owns the journal entry. It is settled by [`Exchange::settle`] or, when it is
//! dropped (the caller left, the connection was cut, a panic), by its `Drop`.

use std::sync::Arc;

use super::context::RequestContext;
use super::gateway::Gateway;
use super::pool::Lease;
use super::upload::{UploadFailure, UploadState};
use crate::metering::Entry;
use crate::model::usage::{CutReason, Outcome, Settlement};
use crate::server::CutCause;
use crate::telemetry::access_log::AccessRecord;

/// An admitted request under way.
pub(super) struct Exchange {
    gateway: Arc<Gateway>,
    context: RequestContext,
    entry: Option<Entry>,
    pub(super) upload: Option<Arc<UploadState>>,
    pub(super) lease: Option<Lease>,
    /// What the caller was sent.
    pub(super) status: Option<u16>,
    /// Body bytes that the caller was sent.
    pub(super) bytes_out: u64,
    sent: bool,
}

impl Exchange {
    pub(super) fn new(gateway: Arc<Gateway>, context: RequestContext, entry: Entry) -> Self {
        Self {
            gateway,
            context,
            entry: Some(entry),
            upload: None,
            lease: None,
            status: None,
            bytes_out: 0,
            sent: false,
        }
    }

    pub(super) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    pub(super) fn context(&self) -> &RequestContext {
        &self.context
    }

    /// Resolves when the entry is as durable as is promised.
    pub(super) async fn durable(&self) {
        if let Some(entry) = &self.entry {
            entry.durable().await;
        }
    }

    /// Just before the first byte leaves.
    pub(super) fn mark_sent(&mut self) {
        self.sent = true;
        if let Some(entry) = &self.entry {
            entry.mark_sent();
        }
    }

    /// It turned out that nothing left.
    pub(super) fn clear_sent(&mut self) {
        self.sent = false;
        if let Some(entry) = &self.entry {
            entry.clear_sent();
        }
    }

    /// How a failure of the body's way shows in the books, if it failed.
    fn upload_outcome(&self) -> Option<(Outcome, Option<CutReason>)> {
        match self.upload.as_ref()?.failure()? {
            UploadFailure::TooLarge => Some((Outcome::Cut, Some(CutReason::BodyTooLarge))),
            UploadFailure::Stalled => Some((Outcome::Cut, Some(CutReason::Deadline))),
            UploadFailure::Broken => Some((Outcome::ClientGone, None)),
        }
    }

    /// Writes it into the books. The first settlement stands.
    pub(super) fn settle(&mut self, outcome: Outcome, reason: Option<CutReason>) {
        let Some(entry) = self.entry.take() else { return };
        let shared = &self.gateway.shared;
        let took = shared.clock.monotonic().since(self.context.started);
        let bytes_in = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let settlement =
            Settlement { status: self.status, outcome, reason, duration_us, bytes_in, bytes_out: self.bytes_out };
        entry.settle(&settlement);
        shared.metrics.request_ended(self.context.route, outcome, self.status, took);
        shared.metrics.requests_in_flight.dec();
        let (client, key) = self.context.who();
        shared.access_log.record(&AccessRecord {
            at: self.context.occurred_at,
            request_id: self.context.request_id.as_str(),
            address: self.context.address,
            method: self.context.method.as_str(),
            path: &self.context.path,
            route: shared.route_name(self.context.route),
            client: client.0,
            key: key.0,
            status: self.status,
            outcome: outcome.as_str(),
            reason: reason.map_or("", CutReason::as_str),
            bytes_in,
            bytes_out: self.bytes_out,
            duration_us,
        });
    }

    /// The answer's body ended as the upstream framed it.
    pub(super) fn complete(&mut self) {
        self.settle(Outcome::Complete, None);
        let upload_done = self.upload.as_ref().is_none_or(|upload| upload.is_whole());
        if let Some(lease) = self.lease.take()
            && upload_done
        {
            lease.give_back();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.entry.is_none() {
            return;
        }
        let (outcome, reason) = match self.context.peer.connection.cut_cause() {
            Some(CutCause::Shutdown) => (Outcome::Cut, Some(CutReason::Shutdown)),
            Some(CutCause::Deadline) => (Outcome::Cut, Some(CutReason::Deadline)),
            None => self.upload_outcome().unwrap_or((Outcome::ClientGone, None)),
        };
        let outcome = if self.sent { outcome } else { Outcome::NotSent };
        self.settle(outcome, reason.filter(|_| outcome == Outcome::Cut));
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Exchange").field("request_id", &self.context.request_id).finish_non_exhaustive()
    }
}
