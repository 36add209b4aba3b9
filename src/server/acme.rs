//! A certificate that is ordered and renewed by ourselves (ACME, RFC 8555), from Let's Encrypt or any
//! authority that speaks it.
//!
//! Two thirds through its time a certificate is renewed; one that does not cover the names that are
//! configured is at once. While the authority cannot or will not, what was in force stays, and the next
//! try is later each time: authorities count failures. What was ordered is a file like the others'
//! ([`tls`](super::tls) takes it within seconds), so that a restart orders nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(super) use self::challenges::ACME_TLS;
pub use self::challenges::Challenges;
pub(super) use self::files::certificate;
use super::certificates::Loaded;
use super::tls::Tls;
use crate::config::acme::AcmeConfig;
use crate::model::causes::with_causes;
use crate::model::clock::{Clock as _, SystemClock};
use crate::telemetry::metrics::Metrics;

mod challenges;
mod files;
mod order;

/// The pause after a failed order, doubled by each further one.
const PAUSE: Duration = Duration::from_mins(1);
const PAUSE_MOST: Duration = Duration::from_hours(2);

/// How long at most between two looks at the time: clocks are set, machines sleep.
const LOOK_EACH: Duration = Duration::from_mins(10);

/// How long an order may take in all.
const ORDER_MOST: Duration = Duration::from_mins(10);

/// Why there is no new certificate.
#[derive(Debug, Error)]
pub enum AcmeFault {
    /// The way there, or what the authority says.
    #[error("the authority cannot be asked, or does not want to")]
    Authority(#[from] instant_acme::Error),
    /// It looked, and did not find what it wanted.
    #[error("the authority does not believe that the names are ours: {0}")]
    Refused(String),
    /// It knows other ways.
    #[error("the authority does not offer this challenge; another `server.tls.acme.challenge` may help")]
    NotOffered,
    /// It takes too long.
    #[error("the order took too long")]
    Late,
    /// The account's file is not ours.
    #[error("{} is no account; remove it, and a new one is made", .0.display())]
    Account(PathBuf),
    /// A certificate of the challenge cannot be made.
    #[error("what the authority looks for cannot be made")]
    Challenge(#[from] rcgen::Error),
    /// The same, for TLS.
    #[error("what the authority looks for cannot be shown")]
    Tls(#[from] rustls::Error),
    /// The account cannot be written down.
    #[error("the account cannot be kept")]
    Json(#[from] serde_json::Error),
    /// A file cannot be read or written.
    #[error("a file cannot be read or written")]
    File(#[from] std::io::Error),
}

/// Keeps the certificate in time.
pub struct Acme {
    config: AcmeConfig,
    tls: Arc<Tls>,
    clock: SystemClock,
    hurry: Notify,
    metrics: Arc<Metrics>,
}

impl Acme {
    /// Of what `tls` is configured with; none: it orders nothing.
    #[must_use]
    pub fn new(tls: &Arc<Tls>, metrics: Arc<Metrics>) -> Option<Arc<Self>> {
        let config = tls.acme()?.clone();
        let (tls, clock) = (Arc::clone(tls), SystemClock::new());
        Some(Arc::new(Self { config, tls, clock, hurry: Notify::new(), metrics }))
    }

    /// Tries again now if a try has failed, and not when its pause is over.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Orders and renews until a stop.
    pub async fn keep_in_time(self: Arc<Self>, stop: CancellationToken) {
        let mut failures = 0_u32;
        loop {
            let pause = if let Some(left) = self.until_due() {
                failures = 0;
                left.min(LOOK_EACH)
            } else {
                let worked = tokio::select! {
                    worked = self.order() => worked,
                    () = stop.cancelled() => return,
                };
                failures += 1;
                if worked { Duration::ZERO } else { pause_after(failures) }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.hurry.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether an order brought a certificate.
    async fn order(&self) -> bool {
        let names = self.config.domains.join(", ");
        tracing::info!(names, directory = self.config.directory, "a certificate is ordered");
        let order = Box::pin(order::certificate(&self.config, self.tls.challenges()));
        let outcome = tokio::time::timeout(ORDER_MOST, order).await.unwrap_or(Err(AcmeFault::Late));
        self.metrics.acme_order_ended(outcome.is_ok());
        match outcome {
            Ok(()) => self.tls.look().await,
            Err(fault) => {
                let error = with_causes(&fault);
                tracing::warn!(names, error, "no certificate was issued; the one before, if any, stays in force");
                return false;
            }
        }
        // An authority whose certificates are over at once, or for other names, is not asked in a loop.
        let is_good = self.until_due().is_some();
        if !is_good {
            tracing::warn!(names, "the certificate that was issued is not for these names, or due already");
        }
        is_good
    }

    /// How long the certificate of now is good enough; none: there is none, or it is time.
    fn until_due(&self) -> Option<Duration> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let loaded = Loaded::read(&certificate(&self.config), &provider).ok()?;
        if !self.config.domains.iter().all(|name| loaded.is_for(name)) {
            return None;
        }
        let left = renewal(loaded.begins, loaded.expires).duration_since(self.clock.wall());
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    }
}

/// Two thirds through: with 90 days thirty are left, with six days two.
fn renewal(begins: Timestamp, expires: Timestamp) -> Timestamp {
    let third: SignedDuration = expires.duration_since(begins) / 3;
    expires.checked_sub(third).unwrap_or(Timestamp::MIN)
}

fn pause_after(failures: u32) -> Duration {
    PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MOST)
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Acme").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_with_a_third_of_its_time_left_and_failures_space_out() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (begins, expires, due) in [
            ("2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            ("2026-01-01T00:00:00Z", "2026-01-07T00:00:00Z", "2026-01-05T00:00:00Z"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z", "2026-01-01T00:00:06Z"),
        ] {
            assert_eq!(renewal(at(begins), at(expires)), at(due));
        }
        let minutes: Vec<u64> = (1..=9).map(|failures| pause_after(failures).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MOST);
    }
}
