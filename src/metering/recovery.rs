//! Brings home what other processes left: at start, and again and again while running, beside
//! serving.
//!
//! A folder whose lock is free belonged to a process that has ended, this one's predecessor or a
//! neighbour. It is adopted, delivered and removed; a process killed meanwhile leaves it to the
//! next one, which sends some events again: harmless.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::adoption::{Adoption, Recovered};
use super::delivery::Delivery;
use super::folder::Folder;
use super::lag::Whose;
use super::salvage::SalvageError;
use super::shared::Shared;
use crate::model::causes::with_causes;
use crate::tasks::blocking;

/// How often folders are looked for.
const INTERVAL: Duration = Duration::from_secs(10);

/// What looks for folders.
pub(super) struct Recovery {
    shared: Arc<Shared>,
    delivery: Arc<Delivery>,
    /// Folders that could not be adopted, and were complained of.
    left_alone: HashSet<PathBuf>,
}

impl Recovery {
    pub(super) fn new(shared: Arc<Shared>, delivery: Arc<Delivery>) -> Self {
        Self { shared, delivery, left_alone: HashSet::new() }
    }

    /// The task: looks each interval, until the process is stopping.
    pub(super) async fn run(mut self) {
        loop {
            self.adopt_all().await;
            if let Some(ledger) = self.shared.ledger.get() {
                ledger.note_recovered();
            }
            tokio::select! {
                biased;
                () = self.shared.closing.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Adopts every folder that is free, one after the other.
    pub(super) async fn adopt_all(&mut self) {
        let shared = Arc::clone(&self.shared);
        let others = match blocking(move || shared.folder.others()).await {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(%error, "the journals of other processes could not be looked for");
                return;
            }
        };
        for path in others {
            let came_home = self.adopt(path).await;
            if !came_home && self.shared.closing.is_cancelled() {
                return;
            }
        }
    }

    /// Adopts a folder if it is free. Whether the store took what it held; not, only when the
    /// process is stopping.
    async fn adopt(&mut self, path: PathBuf) -> bool {
        let (shared, candidate) = (Arc::clone(&self.shared), path.clone());
        let surveyed = blocking(move || survey(&candidate, &shared)).await;
        match surveyed {
            Ok(None) => true,
            Ok(Some(adoption)) => {
                self.left_alone.remove(&path);
                let came_home = self.bring_home(adoption).await;
                self.shared.forget_adopted(&path);
                came_home
            }
            Err(error) => {
                if self.left_alone.insert(path.clone()) {
                    tracing::error!(
                        folder = %path.display(),
                        error = with_causes(&error),
                        "a journal that another process left cannot be adopted; it is left as it is"
                    );
                }
                true
            }
        }
    }

    async fn bring_home(&self, mut adoption: Adoption) -> bool {
        let owed = adoption.settled + adoption.unsettled() as u64;
        self.shared.owed.fetch_add(owed, Ordering::Relaxed);
        let mut left = owed;
        self.begin_adoption(adoption.path()).await;
        loop {
            let batch;
            (adoption, batch) = blocking(move || {
                let batch = adoption.next_batch();
                (adoption, batch)
            })
            .await;
            if batch.events.is_empty() {
                break;
            }
            if !self.deliver(&batch).await {
                return false;
            }
            let delivered = left.min(batch.events.len() as u64);
            left -= delivered;
            self.shared.owed.fetch_sub(delivered, Ordering::Relaxed);
        }
        // Open slots whose entry had a settled one as well were counted twice.
        self.shared.owed.fetch_sub(left, Ordering::Relaxed);
        // Before the folder goes: whoever is killed between the two leaves it to be adopted again.
        if let Some(register) = self.shared.register.get() {
            register.forget(adoption.id()).await;
        }
        let shared = Arc::clone(&self.shared);
        let outbox = self.delivery.outbox().cloned();
        blocking(move || {
            close(adoption, &shared);
            // The folder's outbox was handed over.
            if let Some(outbox) = outbox {
                outbox.end_adoption();
            }
        })
        .await;
        true
    }

    async fn begin_adoption(&self, folder: &Path) {
        let Some(outbox) = self.delivery.outbox().cloned() else { return };
        let folder = folder.to_owned();
        blocking(move || outbox.begin_adoption(&folder)).await;
    }

    async fn deliver(&self, batch: &Recovered) -> bool {
        let oldest = batch.events.iter().map(|event| event.occurred_at).min();
        self.shared.lag.note(Whose::Adopted, oldest);
        let delivered = self.delivery.deliver(&batch.events).await;
        if delivered {
            self.shared.lag.note(Whose::Adopted, None);
            self.shared.metrics.metering_recovered.inc_by(batch.unsettled as u64);
        }
        delivered
    }
}

fn survey(path: &Path, shared: &Shared) -> Result<Option<Adoption>, SalvageError> {
    let Some(folder) = Folder::adopt(path)? else { return Ok(None) };
    let adoption = Adoption::survey(folder, &shared.folder)?;
    shared.note_adopted(path.to_owned());
    shared.metrics.metering_damaged.inc_by(adoption.damaged);
    let (settled, unsettled) = (adoption.settled, adoption.unsettled());
    if settled > 0 || unsettled > 0 {
        tracing::info!(folder = %path.display(), settled, unsettled, "adopted the journal of a process that ended");
    }
    if adoption.damaged > 0 {
        tracing::warn!(
            folder = %path.display(),
            slots = adoption.damaged,
            "slots hold no entry that can be read: torn when their process was killed, or damaged"
        );
    }
    Ok(Some(adoption))
}

fn close(adoption: Adoption, shared: &Shared) {
    let path = adoption.path().to_owned();
    let closed = adoption.close(&shared.folder, |segment, header, used| {
        if shared.config.keep.is_zero() {
            return Ok(());
        }
        shared.folder.committed().take(segment, header, used, shared.clock.wall())
    });
    if let Err(error) = closed {
        tracing::warn!(folder = %path.display(), %error, "a delivered journal could not be removed; it is sent again");
    }
}
