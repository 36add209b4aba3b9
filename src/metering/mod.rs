//! Metering: the books balance.
//!
//! The promise: *every request that reached an upstream has exactly one usage event, through
//! `kill -9` at any instant, outages of the store and restarts.*
//!
//! How it is kept, in the order in which an entry goes:
//!
//! 1. **Admit** ([`Meter::admit`], before anything is forwarded) writes the first half of a slot
//!    in a file that is mapped into memory; **sent** ([`Entry::mark_sent`]) sets one byte just
//!    before the first byte leaves; **settle** ([`Entry::settle`], when the body has ended)
//!    writes the second half. Plain stores, some 100 ns in all: the pages belong to the kernel,
//!    so a killed process loses none of them. Each half bears a CRC, stored last: a torn one is
//!    seen as what it is (`slot`, `mapped`, `lane`).
//! 2. The **drain** reads the slots from the file and brings settled ones to the store in batches
//!    that may be repeated at will: the event's id is the key. Only then is a segment retired
//!    (`drain`, `delivery`, `committed`).
//! 3. **Recovery** adopts the folder of a process that ended: settled entries as they are; open
//!    ones become `interrupted` when something had left and `not_sent` otherwise; one event an id
//!    (`recovery`, `adoption`, `salvage`, `folder`).
//! 4. A transfer that goes on for long is told piece by piece ([`Entry::record`]): interim records,
//!    each written whole into a slot of its own, with the bytes since the last one. Its own event
//!    has the rest of the bytes, and all that a request has once: its time, its units, its outcome.
//! 5. Power loss is another matter: `sync` copies what changed to second files and syncs those,
//!    as often as `metering.sync` says.
//! 6. The **register** says in the store up to when this journal owes nothing, and notices when the
//!    store has lost commits: then what is kept is sent again (`register`, `local`, `redrain`).
//!
//! Whether it was kept is asked by `reconcile`: journals against events against sums.
//!
//! What was committed goes on to other places, if any are configured (`sink`).
//!
//! What is refused before it is admitted is counted and not journaled: [`RejectedCounts`].
//!
//! Refuses to own: what an outcome is (the proxy decides) and how rows are written (the store).
//! To change the format of a slot or a header, raise the format version in `header`, and go on
//! reading the one before: a process leaves folders of a version that it does not know alone.

mod adoption;
mod aside;
mod committed;
mod delivery;
#[cfg(test)]
mod double;
mod drain;
mod error;
mod event;
mod folder;
#[cfg(test)]
mod fuse;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod header;
mod held;
mod journal;
#[cfg(test)]
mod kill;
mod lag;
mod lane;
mod local;
mod mapped;
mod meter;
mod prepare;
mod reconcile;
mod recovery;
mod redrain;
mod register;
mod rejected;
mod retention;
mod salvage;
mod segment;
mod shared;
#[cfg(test)]
mod simulation;
mod sink;
mod slot;
mod sync;

pub use error::JournalError;
pub use journal::{Journal, Left};
pub use meter::{Entry, JournalFull, Meter};
pub use reconcile::{
    Comparison, Difference, EntryDiffers, HourDiffers, JournalsRead, REBUILT_AT_ONCE, ReconcileError, Reconciliation,
    Scope,
};
pub use redrain::{RedrainError, Redrained, redrain};
pub use rejected::RejectedCounts;
pub use retention::keep_retention;
