//! The admin listener: what operators, probes and scrapers ask.
//!
//! Owns `/livez`, `/readyz` (and its older name `/healthz`) and `/metrics`. It has an address of
//! its own, loopback unless told otherwise, so that nothing here is reachable on the data path.

mod listener;
mod router;

pub use router::{AdminState, serve};
