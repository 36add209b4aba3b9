//! The integration tests: one binary, real sockets, real stores, the real program.
//!
//! `harness` runs the program, `upstream` stands behind it, `callers` in front of it, `books` reads
//! its tables; `postgres` and `stores` make stores. The tests of one promise stand in one module.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails should say where; tests run whole programs on the machine's clock and environment"
)]

mod balance;
mod books;
mod caller_certificates;
mod callers;
mod collector;
mod cuts;
mod database;
mod harness;
mod http2;
mod idle;
mod ipv6;
mod issuer;
mod journal;
mod nats;
mod postgres;
mod receiver;
mod secrets;
#[path = "../../src/auth/jwt/testing.rs"]
mod signer;
mod stores;
mod upstream;

mod acme;
mod adoption;
mod api;
mod at_scale;
mod auth;
mod authority;
mod backfill;
mod balancing;
mod billing;
mod bodies;
mod check;
mod costs;
mod framing;
mod jwt;
mod keys;
mod kill;
mod limits;
mod metrics;
mod migrations;
mod observe;
mod oidc;
mod operators;
mod outage;
mod overload;
mod quickstart;
mod quotas;
mod revocation;
mod rotation;
mod shaping;
mod shutdown;
mod sinks;
mod smuggling;
mod start;
mod store_contract;
mod streams;
mod timing;
mod tls;
mod tokens;
mod traces;
mod upstream_protocols;
mod usage;
mod websockets;
