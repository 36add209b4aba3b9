//! Who is calling, and may they.
//!
//! [`Authenticator`] turns a request's head into a [`Principal`](crate::clients::Principal) or a
//! private reason. The order of its steps, and why each stands where it does, is in
//! `authenticator`; the files beside it own one step each:
//!
//! | file | owns |
//! |---|---|
//! | `authenticator/look_up`, `authenticator/tokens` | the steps where the cache has no answer: for keys, for tokens |
//! | `authenticator/refusal` | what a refusal tells by how it comes |
//! | `authenticator/standing` | whether what a long exchange rests on still stands |
//! | `credential` | from headers to exactly one credential |
//! | `cache` | what is known of keys, and how far it may be trusted |
//! | `failures` | the budget of failures of an address |
//! | `flights` | one look-up for each missing credential, however many wait |
//! | `loader` | what a look-up for a key reads, and remembers |
//! | `jwt/` | tokens: structure, issuers' keys, signatures, claims, the client they name |
//! | `issued` | tokens of our own, by their rows |
//! | `identity` | from a row to a principal |
//! | `feed` | following the store's changes, so that a revocation is seen within a second |
//! | `slots` | when a refusal is told |
//! | `upkeep` | letting go of what nobody uses |
//! | `id_tokens` | who an operator is, by an identity provider |
//! | `minting` | making keys and their hashes |
//! | `verdict` | whose a raw key is, and what would be said to it |
//! | `import/` | keys that were made elsewhere: rows, checks, all or none |
//! | `backfill` | raw keys of an adopted database become hashes |
//! | `pepper_guard` | whether this pepper is the one the store was hashed with |
//! | `presence` | which peppers this process knows, for the others to see |
//! | `rehash` | moving hashes to the current pepper |
//! | `pepper_counts` | how many keys need which pepper |
//!
//! Identity is cached, never a verdict: expiry, revocation, suspension and scopes are judged for
//! every request. A raw credential never leaves this module, not even into an error.
//!
//! To add a credential kind: a variant of `credential::Credential` and a verifier beside
//! `loader`; the exhaustive matches say what is missing.

mod authenticator;
pub mod backfill;
mod cache;
mod credential;
mod error;
mod failures;
mod feed;
mod flights;
mod id_tokens;
mod identity;
pub mod import;
mod issued;
mod jwt;
mod loader;
mod minting;
mod pepper_counts;
mod pepper_guard;
mod presence;
mod rehash;
mod slots;
mod upkeep;
pub mod verdict;

#[cfg(test)]
mod authenticator_tests;
#[cfg(test)]
mod double;
#[cfg(test)]
mod testing;

pub use authenticator::{Attempt, Authenticator, Dependencies, Identified, Remembered};
pub use credential::Presented;
pub use error::{AuthError, InvalidReason};
pub use id_tokens::{IdTokenFault, IdTokens, Identity};
#[cfg(any(test, fuzzing))]
pub(crate) use jwt::fuzzing as jwt_fuzzing;
pub use jwt::{Issuers, OwnKeys, TokenFault};
pub use minting::{MadeKey, Mint, MintFault};
pub use pepper_counts::{KnownPepper, PepperCounts};
pub use pepper_guard::{PepperError, PepperVersions, guard_hashes, guard_pepper};
pub use presence::Presence;
