//! PostgreSQL: for many gateways on one store.
//!
//! Owns: the address and its TLS words, the pools with their deadlines, and the SQL of this
//! dialect. PostgreSQL 13 or newer. The rules of the columns are in `migrations/postgres`; what
//! they may hold is checked in `store::columns`.

use std::sync::Arc;

pub(super) use self::scratch::{detour, drop_schema, inside_schema, make_schema};
use super::trail::Pen;
use super::{Place, Result, Store};
use crate::model::audit::Author;
use crate::model::secret::SecretText;

mod address;
mod admin_tokens;
mod audit;
mod changes;
mod clients;
mod erasure;
mod error;
mod events;
mod idempotency;
mod journals;
mod keys;
mod legacy;
mod migrate;
mod months;
mod operators;
mod partitions;
mod peppers;
mod plans;
mod pool;
mod rotation;
mod row;
mod scratch;
mod tls;
mod tokens;
mod trail;
mod usage;

/// The open store, shared by the handles of all concerns.
struct Postgres {
    /// For what a request waits for: short statements only, so that nothing else delays them.
    look_ups: Arc<pool::Connections>,
    /// For everything else.
    work: Arc<pool::Connections>,
    /// Which partitions of `usage_events` are known to be there.
    partitions: Arc<partitions::Known>,
    /// On whose behalf this handle changes things.
    pen: Pen,
}

/// Reads the address; connects at the first call.
#[expect(clippy::unused_async, reason = "stores open alike, and another may have to wait")]
pub(super) async fn open(address: &SecretText) -> Result<Store> {
    let address = address::Address::parse(address.expose())?;
    let connector = tls::connector(&address)?;
    Ok(store(Postgres {
        look_ups: Arc::new(pool::Connections::new(&address, connector.clone(), pool::Purpose::LookUps)?),
        work: Arc::new(pool::Connections::new(&address, connector, pool::Purpose::Work)?),
        partitions: Arc::default(),
        pen: Pen::of_system(),
    }))
}

impl Place for Postgres {
    fn held_by(&self, author: Author) -> Store {
        store(Postgres {
            look_ups: Arc::clone(&self.look_ups),
            work: Arc::clone(&self.work),
            partitions: Arc::clone(&self.partitions),
            pen: self.pen.held_by(author),
        })
    }
}

fn store(postgres: Postgres) -> Store {
    let postgres = Arc::new(postgres);
    Store {
        clients: postgres.clone(),
        keys: postgres.clone(),
        usage: postgres.clone(),
        peppers: postgres.clone(),
        changes: postgres.clone(),
        legacy: Some(postgres.clone()),
        rotation: postgres.clone(),
        tokens: postgres.clone(),
        plans: postgres.clone(),
        events: postgres.clone(),
        quotas: postgres.clone(),
        journals: postgres.clone(),
        months: postgres.clone(),
        audit: postgres.clone(),
        migrations: postgres.clone(),
        operators: postgres.clone(),
        admin_tokens: postgres.clone(),
        trail: postgres.clone(),
        erasure: postgres.clone(),
        idempotency: postgres.clone(),
        place: postgres,
    }
}
