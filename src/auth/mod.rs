//! Who is calling: from headers to a principal, or to the private reason why not.
//!
//! Owns the order of the steps (`authenticator`), what counts as a credential (`credential`),
//! what is remembered (`cache`), the budget of failures (`failures`) and the follower of changes
//! (`feed`). Refuses to own what a caller is told: that is `proxy::rejection`, and it is less.
//!
//! To add a credential kind: a file beside `api_key`, a variant of `credential::Credential`,
//! a section in `config/auth.rs`; the failure table in `tests/it/auth.rs` says what is missing.

mod api_key;
mod authenticator;
mod cache;
mod credential;
mod error;
mod failures;
mod feed;
mod flight;
mod guard;

pub use authenticator::{AuthParts, Authenticator};
pub use error::{AuthError, InvalidReason};
pub use guard::{PepperMismatch, PepperVersions, guard_pepper};
