//! What limits did, as metrics tell it.

use prometheus_client::metrics::counter::Counter;

use super::limiter::PolicyName;
use crate::telemetry::metrics::Metrics;

/// How often each policy admitted and refused.
#[derive(Debug)]
pub struct LimitCounters {
    default: (Counter, Counter),
    client: (Counter, Counter),
    key: (Counter, Counter),
    plan: (Counter, Counter),
    quota: (Counter, Counter),
    concurrency: Counter,
    shadow_rate: Counter,
    shadow_quota: Counter,
}

impl LimitCounters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let counters = |name: PolicyName| metrics.limit_counters(name.as_str());
        Self {
            default: counters(PolicyName::Default),
            client: counters(PolicyName::Client),
            key: counters(PolicyName::Key),
            plan: counters(PolicyName::Plan),
            quota: metrics.limit_counters("quota"),
            concurrency: metrics.limit_counters("concurrency").1,
            shadow_rate: metrics.limit_counter("plan", "would_refuse"),
            shadow_quota: metrics.limit_counter("quota", "would_refuse"),
        }
    }

    /// Counts a charge that every policy admitted, under one of them.
    pub fn admitted(&self, policy: PolicyName) {
        self.of(policy).0.inc();
    }

    /// Counts a charge that this policy refused.
    pub fn refused(&self, policy: PolicyName) {
        self.of(policy).1.inc();
    }

    /// Counts a charge that the quotas admitted.
    pub fn quota_admitted(&self) {
        self.quota.0.inc();
    }

    /// Counts a charge that a quota refused.
    pub fn quota_refused(&self) {
        self.quota.1.inc();
    }

    /// Counts a request that came while too many were open.
    pub fn concurrency_refused(&self) {
        self.concurrency.inc();
    }

    /// Counts a charge that a rate in the shadow would have refused.
    pub fn rate_would_refuse(&self) {
        self.shadow_rate.inc();
    }

    /// Counts a charge that a quota in the shadow would have refused.
    pub fn quota_would_refuse(&self) {
        self.shadow_quota.inc();
    }

    fn of(&self, policy: PolicyName) -> &(Counter, Counter) {
        match policy {
            PolicyName::Default => &self.default,
            PolicyName::Client => &self.client,
            PolicyName::Key => &self.key,
            PolicyName::Plan => &self.plan,
        }
    }
}
