//! What this journal says of itself in the store: up to when it owes nothing. A month can be closed
//! when every journal has said so.
//!
//! The same reports show when the store has lost what it had committed: they are counted, and one
//! that finds less than was written, or none at all, knows that commits are gone (a standby that
//! lagged was promoted, a backup was restored). A loss between two reports shows by PostgreSQL's
//! timeline. Then everything that is kept is sent again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::Mutex as AsyncMutex;
use uuid::Uuid;

use super::delivery::Delivery;
use super::drain::Drain;
use super::redrain;
use super::shared::Shared;
use crate::model::causes::with_causes;
use crate::store::StoreError;
use crate::store::journals::{JournalReport, JournalStore};

/// How often it reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long a request takes from its arrival to being admitted, at most: what arrived before is
/// in the journal. Look-ups have deadlines of a few seconds.
const ADMITTED_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// How long a process that ends waits for the store.
const PATIENCE: Duration = Duration::from_secs(1);

/// The file in `metering.dir` that remembers the store's timeline while no process runs.
const TIMELINE_FILE: &str = ".timeline";

/// See the file's head.
pub(super) struct Register {
    store: Arc<dyn JournalStore>,
    /// Journals that are gone, of which the store was not told yet.
    gone: Mutex<Vec<Uuid>>,
}

impl Register {
    pub(super) fn new(store: Arc<dyn JournalStore>) -> Self {
        Self { store, gone: Mutex::default() }
    }

    /// A journal was brought home. Tried now, and with every report until it works.
    pub(super) async fn forget(&self, id: Uuid) {
        if tokio::time::timeout(PATIENCE, self.store.forget(id)).await.is_ok_and(|told| told.is_ok()) {
            return;
        }
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// This process ends and owes nothing.
    pub(super) async fn leave(&self, id: Uuid) {
        let left = tokio::time::timeout(PATIENCE, self.store.forget(id)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::debug!("the store was not told that this journal owes nothing; whoever adopts it will");
        }
    }

    async fn tell_of_gone(&self) {
        let gone = std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner));
        for id in gone {
            self.forget(id).await;
        }
    }
}

/// The task: reports each interval, until the process is stopping.
pub(super) async fn run(
    register: Arc<Register>,
    drain: Arc<AsyncMutex<Drain>>,
    delivery: Arc<Delivery>,
    shared: Arc<Shared>,
) {
    let mut watch = Watch::new(&shared);
    let work = async {
        loop {
            match watch.report(&register, &drain, &shared).await {
                Ok(None) => register.tell_of_gone().await,
                Ok(Some(lost)) => heal(lost, &watch, &delivery, &shared).await,
                Err(error) => {
                    shared.metrics.store_failed("journals.report");
                    tracing::debug!(error = with_causes(&error), "the store was not told what this journal owes");
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        biased;
        () = shared.closing.cancelled() => {}
        () = work => {}
    }
}

/// How a loss showed.
#[derive(Clone, Copy, Debug)]
struct Lost(&'static str);

/// What the store is known to have.
struct Watch {
    beat: i64,
    /// The last report that the store said it has.
    acknowledged: i64,
    timeline: Option<String>,
    file: PathBuf,
}

impl Watch {
    fn new(shared: &Shared) -> Self {
        let file = shared.config.dir.join(TIMELINE_FILE);
        let timeline = fs::read_to_string(&file).ok().map(|text| text.trim().to_owned());
        Self { beat: 0, acknowledged: 0, timeline, file }
    }

    async fn report(
        &mut self,
        register: &Register,
        drain: &AsyncMutex<Drain>,
        shared: &Shared,
    ) -> Result<Option<Lost>, StoreError> {
        // Asked before the slots are read: what comes later arrived later.
        let now = shared.clock.wall();
        let admitted = now.saturating_sub(ADMITTED_WITHIN).unwrap_or(now);
        let oldest = drain.lock().await.oldest_owed().await;
        self.beat += 1;
        let report = JournalReport {
            id: shared.folder.id(),
            node: shared.blueprint.node().to_owned(),
            clear_until: oldest.map_or(admitted, |oldest| oldest.min(admitted)),
            beat: self.beat,
        };
        let before = register.store.report(&report).await?;
        let forgot = self.acknowledged > 0 && before.is_none_or(|before| before < self.acknowledged);
        self.acknowledged = self.beat;
        if forgot {
            return Ok(Some(Lost("the store has forgotten reports")));
        }
        // Where it cannot be asked, the reports have to do.
        let timeline = register.store.timeline().await.unwrap_or_default();
        Ok(self.is_another(timeline.as_deref()).then_some(Lost("the store's timeline changed")))
    }

    /// Whether the same cluster has another history. A first look only remembers.
    fn is_another(&mut self, found: Option<&str>) -> bool {
        let Some(found) = found.filter(|found| self.timeline.as_deref() != Some(found)) else { return false };
        let cluster = |timeline: &str| timeline.split_once('/').map(|(cluster, _)| cluster.to_owned());
        let another = self.timeline.as_deref().is_some_and(|known| cluster(known) == cluster(found));
        self.timeline = Some(found.to_owned());
        if !another {
            // Where something is to be healed, the file is written when it is.
            self.remember();
        }
        another
    }

    fn remember(&self) {
        let Some(timeline) = &self.timeline else { return };
        if let Err(error) = write(&self.file, timeline) {
            tracing::warn!(file = %self.file.display(), %error, "the store's timeline could not be noted");
        }
    }
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let preparing = file.with_extension("preparing");
    fs::write(&preparing, text)?;
    fs::rename(preparing, file)
}

/// Sends again whatever this machine still has.
async fn heal(Lost(how): Lost, watch: &Watch, delivery: &Delivery, shared: &Shared) {
    tracing::warn!(event = "store_lost_commits", how, "the store has lost commits; sending again what is kept");
    match redrain::through(&shared.config.dir, delivery).await {
        Ok(Some(sent)) => {
            tracing::info!(event = "redrained", events = sent, "what was kept was sent again");
            watch.remember();
        }
        Ok(None) => tracing::warn!("stopping before everything was sent again; run `octroi usage redrain`"),
        Err(error) => {
            tracing::error!(%error, "what is kept could not be read; run `octroi usage redrain`");
        }
    }
}
