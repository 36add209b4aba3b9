//! Opens the store for a command and sees that its tables are there.

use super::{Context, Failure, person};
use crate::app;
use crate::config::{Config, Loaded};
use crate::model::audit::Author;
use crate::store::{self, Store};

/// The store of the settings in force, its tables complete. What is changed with it stands in the audit
/// as the doing of the system's user.
///
/// # Errors
/// Bad settings, a store that is away, pending migrations.
pub async fn open(context: &Context) -> Result<(Loaded, Store), Failure> {
    let loaded = context.load()?;
    let store = open_store(context, &loaded.config).await?;
    Ok((loaded, store))
}

/// The same, of settings that were loaded.
///
/// # Errors
/// A store that is away, pending migrations.
pub async fn open_store(context: &Context, config: &Config) -> Result<Store, Failure> {
    let store = store::open(&config.store).await?;
    app::migrations_applied(&store, false).await?;
    Ok(store.acting_as(Author::of(person::actor(&context.environment))))
}
