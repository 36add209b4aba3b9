//! Keeps segments ready, so that no worker ever waits for a disk.
//!
//! Owns the task that makes them ahead of their use, undoes worn maps and refreshes the metrics
//! that would cost workers a shared cache line. A lane that finds no segment ready is full for
//! that instant; it heals by itself when one comes, at most one tick after there is room again.

use std::sync::Arc;
use std::time::Duration;

use super::lane::READY;
use super::shared::Shared;
use crate::tasks::blocking;

/// How often the task looks without being asked.
const TICK: Duration = Duration::from_millis(250);

/// The task: until the process is stopping.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let working = Arc::clone(&shared);
        let supplied = blocking(move || {
            mend(&working);
            let supplied = supply(&working);
            working.publish();
            supplied
        })
        .await;
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            // Without room, lanes ask with every request: then only the tick counts.
            () = shared.wanted.notified(), if supplied => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// Where somebody removed the folder: nothing more is admitted into files that are not there, the
/// folder is made again, and lanes go on in new segments. What the old ones hold is drained as long
/// as this process lives, by the files that it has open.
pub(super) fn mend(shared: &Shared) {
    let folder = &shared.folder;
    if !folder.is_there() {
        let suspended = shared.lanes.iter().flat_map(|lane| lane.suspend());
        // Empty, and done with: the drain lets go of them.
        suspended.for_each(|live| live.finish());
        match folder.make_anew() {
            Ok(()) => tracing::error!(
                folder = %folder.path().display(),
                event = "journal_removed",
                "the journal's folder was removed while in use; it was made again. Entries from before are \
                 carried to the store as long as this process is not killed"
            ),
            Err(error) => shared.note_short(&error),
        }
    }
    for lane in shared.lanes.iter().filter(|lane| lane.is_suspended()) {
        if let Some(prepared) = shared.make_segment() {
            lane.begin_anew(prepared);
        }
    }
}

/// Brings each lane what it wants: every lane its first before any its second. Whether all got
/// what they want.
pub(super) fn supply(shared: &Shared) -> bool {
    shared.lanes.iter().for_each(|lane| drop(lane.take_worn()));
    for ready in 0..READY {
        for lane in shared.lanes.iter().filter(|lane| lane.wants() >= READY - ready) {
            let Some(prepared) = shared.make_segment() else { return false };
            lane.supply(prepared);
        }
    }
    true
}
