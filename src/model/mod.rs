//! Plain data and its legal changes (rank 0): no IO, no async, no product of a library
//! in a signature but `uuid`, `jiff`, `ipnet` and `serde`.
//!
//! One noun a file. Whatever two layers both speak of lives here, so that neither has to
//! import the other.

pub mod access;
pub mod addresses;
pub mod admin;
pub mod audit;
pub mod causes;
pub mod chance;
pub mod client;
pub mod clock;
pub mod event_id;
pub mod explanation;
pub mod id;
pub mod issued;
pub mod key;
pub mod month;
pub mod operator;
pub mod own_limit;
pub mod plan;
pub mod quota;
pub mod rate;
pub mod secret;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;
pub mod usage;
