//! Octroi: an authentication gateway.
//!
//! It stands in front of services that already exist. For every request it finds the route,
//! verifies the credential, spends from the client's limit, forwards, and meters: exactly one
//! immutable usage event for each request that reached an upstream.
//!
//! Modules have ranks, and a module imports only from lower ones (`tests/layering.rs` checks):
//!
//! | rank | modules |
//! |--:|---|
//! | 7 | `main`, [`cli`] |
//! | 6 | [`app`]: build, wire, run |
//! | 5 | [`proxy`], [`api`]: HTTP and the domain |
//! | 4 | [`auth`], [`limit`], [`metering`], [`issuer`], [`operators`]: the rules |
//! | 3 | [`store`], [`clients`], [`server`]: databases, live clients, sockets |
//! | 2 | [`crypto`], [`telemetry`], [`wire`], [`tasks`]: mechanisms |
//! | 1 | [`config`] |
//! | 0 | [`model`] |
//!
//! `ARCHITECTURE.md` has the code map; [`proxy`] has the walk of one request.

pub mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clients;
pub mod config;
pub mod crypto;
#[doc(hidden)]
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod issuer;
pub mod limit;
pub mod metering;
pub mod model;
pub mod operators;
pub mod proxy;
pub mod server;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod wire;
