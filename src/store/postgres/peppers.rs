//! `peppers`

use async_trait::async_trait;

use super::Postgres;
use super::pool::{LOOK_UP, WORK};
use super::row::{Columns, all};
use crate::store::{PepperRecord, PepperStore, Result};

#[async_trait]
impl PepperStore for Postgres {
    async fn list(&self) -> Result<Vec<PepperRecord>> {
        let mut lease = self.look_ups.lease("list peppers", LOOK_UP).await?;
        let rows = lease.rows("SELECT version, fingerprint, retired_at FROM peppers ORDER BY version", &[]).await?;
        all("peppers", &rows, |row| {
            Ok(PepperRecord {
                version: row.take("version")?,
                fingerprint: row.take("fingerprint")?,
                retired_at: row.take("retired_at")?,
            })
        })
    }

    async fn trust(&self, fingerprint: &str) -> Result<i32> {
        let mut lease = self.work.lease("trust pepper", WORK).await?;
        loop {
            let known = lease.row("SELECT version FROM peppers WHERE fingerprint = $1", &[&fingerprint]).await?;
            if let Some(row) = known {
                return Columns::of("peppers", &row).take("version");
            }
            // Nothing is inserted when another process took the version or trusted the same
            // fingerprint meanwhile. Each round that fails means that another one succeeded.
            let inserted = lease
                .row(
                    "INSERT INTO peppers (version, fingerprint)
                     SELECT coalesce(max(version), 0) + 1, $1 FROM peppers
                     ON CONFLICT DO NOTHING RETURNING version",
                    &[&fingerprint],
                )
                .await?;
            if let Some(row) = inserted {
                return Columns::of("peppers", &row).take("version");
            }
        }
    }
}
