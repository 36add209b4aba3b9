//! The keys of one issuer, kept fresh: fetched or read in the background, never by a request.
//!
//! What a request may do is ask: a token that names an unknown key wants a look at the issuer,
//! because keys rotate. It gets at most one each [`UNKNOWN_PAUSE`], whoever asks and however often,
//! and waits for it a bounded while.
//!
//! A set that was good serves on while the issuer is away or talks nonsense, up to [`SET_AGE_MAX`];
//! then, and at a start before the first set, the issuer's tokens cannot be judged: that is 503,
//! not 401. A revoked key is thus obeyed at the next refresh, and at the latest after a day.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::keys::{KeySet, KeySetFault};
use crate::config::token_issuer::{KeyLocation, TokenIssuerConfig};
use crate::model::clock::{Monotonic, SharedClock};
use crate::model::token::TokenAlgorithm;
use crate::server::outbound::{AuthorityFault, Outbound, OutboundFault, OutboundRules};
use crate::tasks::catch_panic;
use crate::telemetry::metrics::Metrics;

/// The keys of one issuer.
pub(super) struct KeySource {
    issuer: String,
    algorithms: Vec<TokenAlgorithm>,
    location: Location,
    held: ArcSwapOption<HeldKeys>,
    /// When the last good set was fetched, whether or not it differed; before the first, when the
    /// process began to ask.
    confirmed_at: AtomicU64,
    asking: Mutex<Asking>,
    wanted: Notify,
    /// How many attempts have ended.
    attempts: watch::Sender<u64>,
    clock: SharedClock,
}

/// A good set.
#[derive(Debug)]
pub(super) struct HeldKeys {
    pub(super) set: KeySet,
    /// Moves with each set that differs: what was verified under another is verified again.
    pub(super) generation: u64,
    text: Bytes,
}

/// There are no keys to judge by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoKeys;

enum Location {
    Url { url: Url, outbound: Outbound },
    File(PathBuf),
}

/// Locked for a few comparisons, by requests that name an unknown key and by the one task.
#[derive(Debug)]
struct Asking {
    /// An attempt is asked for or under way.
    pending: bool,
    /// When an unknown key last asked for one.
    unknown_at: Option<Monotonic>,
    /// When the last attempt failed; none: it did not.
    failed_at: Option<Monotonic>,
    failures: u32,
}

/// Why there is no new set.
#[derive(Debug, Error)]
enum RefreshFault {
    #[error("the key set could not be fetched")]
    Fetch(#[from] OutboundFault),
    #[error("the key set could not be read")]
    Read(#[from] std::io::Error),
    #[error("the file is larger than {SET_MAX} bytes")]
    TooLarge,
    #[error("the key set is not used: {0}")]
    Set(#[from] KeySetFault),
    #[error("reading the key set panicked")]
    Panic,
}

impl KeySource {
    /// Keys of a configured issuer, none yet.
    ///
    /// # Errors
    /// Its file of authorities cannot be used.
    pub(super) fn new(config: &TokenIssuerConfig, clock: SharedClock) -> Result<Arc<Self>, AuthorityFault> {
        let location = match &config.keys {
            KeyLocation::File(path) => Location::File(path.clone()),
            KeyLocation::Own => unreachable!("no configured issuer has our keys"),
            KeyLocation::Url(keys) => {
                let rules = OutboundRules {
                    deadline: FETCH_DEADLINE,
                    body_max: SET_MAX,
                    allow_private_addresses: keys.allow_private_addresses,
                    ca_file: keys.ca_file.clone(),
                };
                Location::Url { url: keys.url.clone(), outbound: Outbound::new(rules)? }
            }
        };
        Ok(Arc::new(Self {
            issuer: config.issuer.clone(),
            algorithms: config.algorithms.clone(),
            location,
            held: ArcSwapOption::empty(),
            confirmed_at: AtomicU64::new(clock.monotonic().0),
            // The first attempt is on its way: the task begins with it.
            asking: Mutex::new(Asking { pending: true, unknown_at: None, failed_at: None, failures: 0 }),
            wanted: Notify::new(),
            attempts: watch::Sender::new(0),
            clock,
        }))
    }

    /// The keys to judge by now. Waits for the first set while that is on its way.
    pub(super) async fn keys(&self) -> Result<Arc<HeldKeys>, NoKeys> {
        if self.held.load().is_none() {
            self.attempt_ended(|asking| asking.pending).await;
        }
        let held = self.held.load_full().ok_or(NoKeys)?;
        if self.age(self.clock.monotonic()) > SET_AGE_MAX { Err(NoKeys) } else { Ok(held) }
    }

    /// How long ago the keys were confirmed.
    pub(super) fn age(&self, now: Monotonic) -> Duration {
        now.since(Monotonic(self.confirmed_at.load(Ordering::Acquire)))
    }

    /// The generation of the keys held, without waiting and whatever their age.
    pub(super) fn generation(&self) -> u64 {
        self.held.load().as_ref().map_or(0, |held| held.generation)
    }

    /// Asks for a new set because of an unknown key, unless that was done a moment ago, and waits
    /// for it. Whether an attempt was waited for: looking again may find the key.
    pub(super) async fn look_again(&self) -> bool {
        let now = self.clock.monotonic();
        self.attempt_ended(|asking| {
            let allowed = !asking.pending && asking.may_ask(now);
            if allowed {
                asking.pending = true;
                asking.unknown_at = Some(now);
                self.wanted.notify_one();
            }
            asking.pending
        })
        .await
    }

    /// Whether the last attempt failed, or there was none yet.
    pub(super) fn is_away(&self) -> bool {
        self.held.load().is_none() || self.lock().failed_at.is_some()
    }

    /// Keeps the set fresh until told to stop.
    pub(super) async fn run(self: Arc<Self>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let refresh = async {
            loop {
                metrics.jwks_refreshed(self.attempt().await);
                let pause = self.pause();
                tokio::select! {
                    () = tokio::time::sleep(pause) => self.lock().pending = true,
                    () = self.wanted.notified() => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = refresh => {}
        }
    }

    /// One attempt at a new set, and whether it brought one or confirmed the last. A panic in it (what
    /// comes is a stranger's) is a failure like others.
    pub(super) async fn attempt(&self) -> bool {
        let now = self.clock.monotonic();
        let outcome = catch_panic(pin!(self.refresh(now))).await.unwrap_or(Err(RefreshFault::Panic));
        let good = outcome.is_ok();
        let recovered = {
            let mut asking = self.lock();
            asking.pending = false;
            asking.failures = if outcome.is_ok() { 0 } else { asking.failures.saturating_add(1) };
            let failed_at = outcome.is_err().then_some(now);
            std::mem::replace(&mut asking.failed_at, failed_at).is_some()
        };
        match outcome {
            Ok(()) if recovered => tracing::info!(issuer = self.issuer, "the issuer's keys are there again"),
            Ok(()) => {}
            Err(fault) => {
                let cause = &fault as &dyn std::error::Error;
                let serves = self.held.load().is_some();
                tracing::warn!(issuer = self.issuer, error = cause, last_good_set_serves = serves, "no new keys");
            }
        }
        self.attempts.send_modify(|attempts| *attempts += 1);
        good
    }

    async fn refresh(&self, now: Monotonic) -> Result<(), RefreshFault> {
        let text = match &self.location {
            Location::Url { url, outbound } => outbound.fetch(url).await?,
            Location::File(path) => read(path).await?,
        };
        let held = self.held.load_full();
        if held.as_ref().is_none_or(|held| held.text != text) {
            let set = KeySet::parse(&text, &self.algorithms)?;
            for (id, fault) in &set.set_aside {
                tracing::warn!(issuer = self.issuer, kid = id.as_deref(), %fault, "a key of the set is not used");
            }
            let generation = held.map_or(0, |held| held.generation) + 1;
            tracing::info!(issuer = self.issuer, keys = set.len(), generation, "the issuer's keys are known");
            self.held.store(Some(Arc::new(HeldKeys { set, generation, text })));
        }
        self.confirmed_at.store(now.0, Ordering::Release);
        Ok(())
    }

    /// Until the next attempt that nobody asks for.
    fn pause(&self) -> Duration {
        let failures = self.lock().failures;
        match (&self.location, self.held.load().is_some()) {
            (Location::File(_), true) => FILE_INTERVAL,
            (Location::Url { .. }, true) if failures == 0 => URL_INTERVAL,
            (Location::Url { .. }, true) => RETRY_MAX,
            // Nobody of this issuer gets in: 1, 2, 4 … seconds.
            (_, false) => RETRY_MAX.min(Duration::from_secs(1 << failures.saturating_sub(1).min(5))),
        }
    }

    /// Waits for the end of an attempt, if `expected` says that one is to be waited for.
    async fn attempt_ended(&self, expected: impl FnOnce(&mut Asking) -> bool) -> bool {
        // Subscribed before the question, so that an end in between is not missed.
        let mut attempts = self.attempts.subscribe();
        if !expected(&mut self.lock()) {
            return false;
        }
        timeout(PATIENCE, attempts.changed()).await.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        // Nothing that can panic runs under this lock.
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    fn may_ask(&self, now: Monotonic) -> bool {
        let long_ago = |at: Option<Monotonic>| at.is_none_or(|at| now.since(at) >= UNKNOWN_PAUSE);
        long_ago(self.unknown_at) && long_ago(self.failed_at)
    }
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("KeySource").field("issuer", &self.issuer).field("held", &self.held).finish_non_exhaustive()
    }
}

async fn read(path: &PathBuf) -> Result<Bytes, RefreshFault> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(SET_MAX as u64 + 1).read_to_end(&mut text).await?;
    if text.len() > SET_MAX { Err(RefreshFault::TooLarge) } else { Ok(text.into()) }
}

/// For a fetch, from the resolver to the last byte.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);

/// The largest set: a hundred RSA keys with certificates.
const SET_MAX: usize = 256 * 1024;

/// Between two fetches that nobody asks for.
const URL_INTERVAL: Duration = Duration::from_mins(5);

/// Between two looks at a file.
const FILE_INTERVAL: Duration = Duration::from_secs(30);

/// Between two attempts at most, while the issuer is away.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Between two fetches that unknown keys ask for.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(30);

/// How long a request waits for a set.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a set serves that could not be confirmed.
const SET_AGE_MAX: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;
