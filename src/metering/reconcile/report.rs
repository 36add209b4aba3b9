//! What a comparison of the books says: the same object by the command line and the admin API.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::store::audit::Amounts;

/// Journal, events and sums, compared.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Reconciliation {
    /// The first hour.
    pub from: Timestamp,
    /// Up to this hour.
    pub to: Timestamp,
    /// Whether all say the same.
    pub equal: bool,
    /// How many hours were compared.
    pub hours: u64,
    /// What they come to by their events.
    pub events: Amounts,
    /// By sums and adjustments, refusals apart.
    pub rollups: Amounts,
    /// Events from before are deleted, and their hours were left out; null: none are.
    #[schema(required)]
    pub events_kept_from: Option<Timestamp>,
    /// What the journals were asked.
    pub journal: JournalsRead,
    /// Where the books differ: at most 1000 places, and of each kind at least one.
    pub differences: Vec<Difference>,
    /// How many there are, listed or not.
    pub found: u64,
}

/// Journals in the folder of the process that compared: `metering.dir`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct JournalsRead {
    /// Folders of processes.
    pub folders: usize,
    /// Settled entries that were looked for in the store.
    pub entries: u64,
    /// Entries under way.
    pub open: u64,
    /// Segments that could not be read.
    pub unreadable_segments: u64,
    /// Nodes whose journals are elsewhere: to be compared there.
    #[schema(value_type = Vec<String>)]
    pub unseen_nodes: BTreeSet<String>,
}

/// A place where books differ.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Difference {
    /// A client's sums of an hour are not those of its events.
    Rollup(HourDiffers),
    /// An entry was committed, and the store does not have it.
    Lost(EntryDiffers),
    /// An entry ended a while ago and is not in the store.
    Owed(EntryDiffers),
    /// An event says something else than its entry.
    Content(EntryDiffers),
}

impl Difference {
    /// Its word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rollup(_) => "rollup",
            Self::Lost(_) => "lost",
            Self::Owed(_) => "owed",
            Self::Content(_) => "content",
        }
    }
}

/// A client's hour, told in two ways.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HourDiffers {
    /// Which hour.
    pub hour: Timestamp,
    /// Whose.
    pub client: Uuid,
    /// By its events.
    pub events: Amounts,
    /// By sums and adjustments.
    pub rollups: Amounts,
}

/// An entry of the journal that the store does not have as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EntryDiffers {
    /// Its event's id.
    pub id: Uuid,
    /// The hour in which its request arrived.
    pub hour: Timestamp,
    /// Whose.
    pub client: Uuid,
    /// Who served it.
    pub node: String,
    /// What it costs.
    pub units: u32,
}
