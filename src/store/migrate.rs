//! The embedded migrations and what is known of each.
//!
//! Owns: the texts, their checksums, and what follows from comparing them with the ledger
//! (`octroi_migrations`). Refuses to own: running them, which differs by database and lives in
//! the store's folder. The files are the truth: each carries its own transaction and records
//! itself, so that `psql -f` and this binary leave the same state (`migrations/README.md`).

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// A migration and whether it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i64,
    /// Its name, as in its file's.
    pub name: String,
    /// When it was applied; none: pending.
    pub applied_at: Option<Timestamp>,
}

/// An applied migration whose text is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// What differs, in words: unknown to this version, or another checksum.
    pub detail: String,
}

/// A file of `migrations/`, compiled in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// Its number.
    pub(super) version: i64,
    /// Its name, without number and ending.
    pub(super) name: &'static str,
    /// The table it makes; one that is there already and not in the ledger is in the way. None: it
    /// changes one that is ours.
    pub(super) table: Option<&'static str>,
    /// Its text, as the file has it.
    pub(super) text: &'static str,
}

impl Migration {
    /// SHA-256 of the text, in lower-case hex.
    pub(super) fn checksum(&self) -> String {
        use std::fmt::Write as _;
        Sha256::digest(self.text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// What to say when its table exists though it was never applied.
    pub(super) fn table_in_the_way(&self, table: &str) -> String {
        format!(
            "a table \"{table}\" that Octroi did not make is in the way of migration {:04}_{}; nothing was changed. \
             Rename it, or give Octroi a database or schema of its own",
            self.version, self.name
        )
    }

    fn pending(&self) -> MigrationStatus {
        MigrationStatus { version: self.version, name: self.name.to_owned(), applied_at: None }
    }
}

/// The migrations of a dialect, in order. A new file is a line here, with the table that it makes.
macro_rules! embedded {
    ($dialect:literal) => {
        embedded!($dialect:
            1 "0001" "create_clients" "clients",
            2 "0002" "create_api_keys" "api_keys",
            3 "0003" "create_usage_events" "usage_events",
            4 "0004" "create_refresh_tokens" "refresh_tokens",
            5 "0005" "create_verification_tokens" "verification_tokens",
            6 "0006" "create_usage_hourly" "usage_hourly",
            7 "0007" "create_changes" "changes",
            8 "0008" "create_peppers" "peppers",
            9 "0009" "add_key_addresses",
            10 "0010" "create_nodes" "nodes",
            11 "0011" "add_token_families",
            12 "0012" "create_plans" "plans",
            13 "0013" "create_quota_marks" "quota_marks",
            14 "0014" "create_books" "journals",
            15 "0015" "create_usage_observed" "usage_observed",
            16 "0016" "create_operators" "operators",
            17 "0017" "create_audit" "audit",
            18 "0018" "create_idempotency_keys" "idempotency_keys",
            19 "0019" "index_working_keys",
        )
    };
    ($dialect:literal: $($version:literal $digits:literal $name:literal $($table:literal)?,)*) => {
        &[$(Migration {
            version: $version,
            name: $name,
            table: embedded!(@table $($table)?),
            text: include_str!(concat!("../../migrations/", $dialect, "/", $digits, "_", $name, ".sql")),
        }),*]
    };
    (@table) => { None };
    (@table $table:literal) => { Some($table) };
}

/// `migrations/postgres`
pub(super) const POSTGRES: &[Migration] = embedded!("postgres");

/// `migrations/sqlite`
pub(super) const SQLITE: &[Migration] = embedded!("sqlite");

/// A row of the ledger.
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "fields are named as the columns they are")]
pub(super) struct Applied {
    /// `version`
    pub(super) version: i64,
    /// `name`
    pub(super) name: String,
    /// `checksum`: null when `psql` applied it and no binary has looked since.
    pub(super) checksum: Option<String>,
    /// `applied_at`
    pub(super) applied_at: Timestamp,
}

/// Those of `known` that the ledger does not have, in order.
pub(super) fn pending<'m>(known: &'m [Migration], applied: &[Applied]) -> Vec<&'m Migration> {
    known.iter().filter(|migration| !applied.iter().any(|row| row.version == migration.version)).collect()
}

/// As the answer of a dry run.
pub(super) fn announced(pending: &[&Migration]) -> Vec<MigrationStatus> {
    pending.iter().map(|migration| migration.pending()).collect()
}

/// Those of `pending` that the ledger has by now: the answer of a run.
pub(super) fn done(pending: &[&Migration], applied: &[Applied]) -> Vec<MigrationStatus> {
    status(&[], applied)
        .into_iter()
        .filter(|row| pending.iter().any(|migration| migration.version == row.version))
        .collect()
}

/// Every known migration, and those in the ledger that are not known, by version.
pub(super) fn status(known: &[Migration], applied: &[Applied]) -> Vec<MigrationStatus> {
    let mut rows: Vec<_> = pending(known, applied).into_iter().map(Migration::pending).collect();
    rows.extend(applied.iter().map(|row| MigrationStatus {
        version: row.version,
        name: row.name.clone(),
        applied_at: Some(row.applied_at),
    }));
    rows.sort_by_key(|row| row.version);
    rows
}

/// What in the ledger is not what this version carries. A checksum that nobody noted yet is no
/// difference: there is nothing to compare.
pub(super) fn differences(known: &[Migration], applied: &[Applied]) -> Vec<Difference> {
    applied
        .iter()
        .filter_map(|row| {
            let detail = match known.iter().find(|migration| migration.version == row.version) {
                None => "applied, but unknown to this version of Octroi: a newer one was here".to_owned(),
                Some(migration) if migration.name != row.name => {
                    format!("applied under another name: this version calls it {}", migration.name)
                }
                Some(migration) => {
                    let theirs = row.checksum.as_ref()?;
                    let ours = migration.checksum();
                    if *theirs == ours {
                        return None;
                    }
                    format!("applied with another text: checksum {theirs}, this version has {ours}")
                }
            };
            Some(Difference { version: row.version, name: row.name.clone(), detail })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(version: i64, name: &str, checksum: Option<String>) -> Applied {
        Applied { version, name: name.to_owned(), checksum, applied_at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn both_dialects_carry_the_same_numbers_and_names_in_rising_order() {
        let list = |known: &[Migration]| known.iter().map(|one| (one.version, one.name)).collect::<Vec<_>>();
        assert_eq!(list(POSTGRES), list(SQLITE));
        assert!(POSTGRES.is_sorted_by(|a, b| a.version < b.version));
    }

    #[test]
    fn every_file_is_one_transaction_that_records_itself_last() {
        for (migration, begin) in
            POSTGRES.iter().map(|one| (one, "\nBEGIN;\n")).chain(SQLITE.iter().map(|one| (one, "\nBEGIN IMMEDIATE;\n")))
        {
            let end = format!(
                "\nINSERT INTO octroi_migrations (version, name) VALUES ({}, '{}');\nCOMMIT;\n",
                migration.version, migration.name
            );
            assert_eq!(migration.text.matches(begin).count(), 1, "{}", migration.name);
            assert_eq!(migration.text.matches("COMMIT;").count(), 1, "{}", migration.name);
            assert!(migration.text.ends_with(&end), "{}", migration.name);
            let makes = |table: &str, words: &str| migration.text.contains(&format!("CREATE TABLE {words}{table} ("));
            let made = migration.table.map(|table| makes(table, "") || makes(table, "IF NOT EXISTS "));
            assert!(made.unwrap_or(true), "{}", migration.name);
        }
    }

    #[test]
    fn the_ledger_is_compared_by_version_name_and_checksum() {
        let ledger = [
            applied(1, "create_clients", Some(SQLITE[0].checksum())),
            applied(2, "create_api_keys", None),
            applied(3, "create_usage_events", Some("0".repeat(64))),
            applied(4, "made_by_a_fork", Some(SQLITE[3].checksum())),
            applied(99, "from_the_future", None),
        ];
        let differing: Vec<_> = differences(SQLITE, &ledger).iter().map(|one| one.version).collect();
        assert_eq!(differing, [3, 4, 99]);
        let pending: Vec<_> = pending(SQLITE, &ledger).iter().map(|one| one.version).collect();
        let newest = i64::try_from(SQLITE.len()).unwrap();
        assert_eq!(pending, (5..=newest).collect::<Vec<_>>());
        let listed: Vec<_> =
            status(SQLITE, &ledger).iter().map(|one| (one.version, one.applied_at.is_some())).collect();
        let expected: Vec<_> = (1..=newest).map(|version| (version, version <= 4)).chain([(99, true)]).collect();
        assert_eq!(listed, expected);
    }
}
