//! The admin listener: what operators, probes and scrapers ask.
//!
//! Owns `/livez`, `/readyz` (and its older name `/healthz`) and `/metrics`; the JSON API under `/v1`
//! with its description, `/openapi.json` and `/docs`; and the dashboard. It has an address of its own,
//! loopback unless told otherwise and never without TLS elsewhere, so that nothing here is reachable on
//! the data path.
//!
//! A request comes by `listener`, gets an id and its fault a form in `router`, is let in by `caller`
//! (who it is, from which page, what its role may), perhaps answered from before by `idempotency`, and
//! handled in `v1` or `pages`, whose handlers share the functions that do things.
//!
//! To add an endpoint: a function in `v1/RESOURCE.rs` and a row in `v1::rows`, which does not compile
//! without who may use it, and a row in `tests/it/api.rs`; the test of the description there writes it
//! anew when OCTROI_WRITE_OPENAPI is set.

mod caller;
mod extract;
mod fault;
mod gateway;
mod idempotency;
mod listener;
mod oidc;
mod pages;
mod remembered;
mod router;
mod rows;
mod state;
mod turns;
mod v1;
mod views;

pub use gateway::RunningGateway;
pub use listener::serve;
pub use oidc::Oidc;
pub use router::{AdminState, document};
pub use state::{Api, Parts};
