//! The registry of live clients: the seam between knowing and charging.
//!
//! One [`LiveClient`] for each client in use: whether it is suspended, its limiters' state, its
//! generation. `auth` attaches it to the [`Principal`], `limit` spends from it, a change bumps
//! its generation, which voids every cached principal that was made before. An entry leaves when
//! no principal holds it and its limiters are full again, so that neither eviction nor a cache
//! flush ever gives budget away.

mod bucket;
mod counters;
mod ledger;
pub mod limiter;
mod live_client;
mod principal;
pub mod quota;
mod registry;
pub mod terms;

pub use counters::LimitCounters;
pub use ledger::{Held, Ledger};
pub use live_client::LiveClient;
pub use principal::{CredentialKind, IdentityHeaders, Principal};
pub use registry::{Attachment, ChangeMark, LiveClients, Stamp};
