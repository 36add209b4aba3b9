//! The migrations: the same state by the binary and by `psql -f`, on both stores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stores::{Place, on_both};
use octroi::store::StoreError;

on_both!(
    up_applies_everything_once,
    runners_at_the_same_time_all_succeed,
    a_dry_run_changes_nothing,
    verify_tells_an_edited_text_and_an_unknown_version,
    what_a_plain_client_applied_is_seen,
    a_strangers_table_is_left_alone,
);

fn files(dialect: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(dialect);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn names(dialect: &str) -> Vec<String> {
    files(dialect).iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// Applies a file as an operator would; whether that worked.
async fn apply(place: &Place, file: &Path) -> bool {
    match place.postgres_url() {
        Some(url) => {
            let mut psql = Command::new("psql");
            psql.args(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file).arg(url);
            psql.output().expect("psql comes with the server").status.success()
        }
        None => place.sql(&std::fs::read_to_string(file).unwrap()).await.is_ok(),
    }
}

async fn up_applies_everything_once(place: &Place) {
    let store = place.open().await;
    let applied = store.migrations.up(false).await.unwrap();
    let listed: Vec<_> = applied.iter().map(|one| format!("{:04}_{}.sql", one.version, one.name)).collect();
    assert_eq!(listed, names(place.dialect()), "the binary carries what the folder holds");
    assert!(applied.iter().all(|one| one.applied_at.is_some()));
    assert_eq!(store.migrations.status().await.unwrap(), applied);
    assert_eq!(store.migrations.up(false).await.unwrap(), [], "a second run finds nothing to do");
    assert_eq!(store.migrations.verify().await.unwrap(), []);
    let unsummed = place.must("SELECT version FROM octroi_migrations WHERE checksum IS NULL").await;
    assert_eq!(unsummed, Vec::<String>::new());
}

async fn runners_at_the_same_time_all_succeed(place: &Place) {
    let run = async || place.open().await.migrations.up(false).await.map(drop);
    let (a, b, c, d) = tokio::join!(run(), run(), run(), run());
    for done in [a, b, c, d] {
        done.unwrap();
    }
    assert_eq!(place.must("SELECT count(*) FROM octroi_migrations").await, ["12"]);
    assert_eq!(place.open().await.migrations.verify().await.unwrap(), []);
}

async fn a_dry_run_changes_nothing(place: &Place) {
    let store = place.open().await;
    let announced = store.migrations.up(true).await.unwrap();
    assert_eq!(announced.len(), names(place.dialect()).len());
    assert!(announced.iter().all(|one| one.applied_at.is_none()));
    assert!(place.sql("SELECT * FROM octroi_migrations").await.is_err(), "not even the ledger is made");
    assert_eq!(store.migrations.status().await.unwrap(), announced);
}

async fn verify_tells_an_edited_text_and_an_unknown_version(place: &Place) {
    let store = place.migrated().await;
    place.must("UPDATE octroi_migrations SET checksum = 'edited' WHERE version = 3").await;
    place.must("INSERT INTO octroi_migrations (version, name) VALUES (99, 'from_the_future')").await;
    let differing: Vec<_> = store.migrations.verify().await.unwrap().iter().map(|one| one.version).collect();
    assert_eq!(differing, [3, 99]);
    let status = store.migrations.status().await.unwrap();
    assert_eq!(status.last().map(|one| (one.version, one.applied_at.is_some())), Some((99, true)));
    assert_eq!(store.migrations.up(false).await.unwrap(), [], "what a newer version did is left alone");
}

async fn what_a_plain_client_applied_is_seen(place: &Place) {
    let files = files(place.dialect());
    for file in &files[..3] {
        assert!(apply(place, file).await, "{}", file.display());
    }
    let store = place.open().await;
    assert_eq!(store.migrations.verify().await.unwrap(), [], "no checksum yet is no difference");
    let applied: Vec<_> = store.migrations.up(false).await.unwrap().iter().map(|one| one.version).collect();
    assert_eq!(applied, [4, 5, 6, 7, 8, 9, 10, 20, 21]);
    assert_eq!(place.must("SELECT count(*) FROM octroi_migrations WHERE checksum IS NOT NULL").await, ["12"]);

    place.must("INSERT INTO clients (name) VALUES ('stays')").await;
    for file in &files {
        assert!(!apply(place, file).await, "a second run of {} must fail", file.display());
    }
    assert_eq!(place.must("SELECT name FROM clients").await, ["stays"]);
    assert_eq!(store.migrations.verify().await.unwrap(), []);
    assert_eq!(place.must("SELECT count(*) FROM octroi_migrations").await, ["12"]);
}

async fn a_strangers_table_is_left_alone(place: &Place) {
    place.must("CREATE TABLE clients (id integer, api_key text)").await;
    place.must("INSERT INTO clients VALUES (1, 'raw')").await;
    let store = place.open().await;
    match store.migrations.up(false).await {
        Err(StoreError::Conflict(message)) => {
            assert!(message.contains("\"clients\"") && message.contains("Rename it"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!apply(place, &files(place.dialect())[0]).await, "nor does a plain client get past it");
    assert_eq!(place.must("SELECT api_key FROM clients").await, ["raw"]);
    assert!(place.sql("SELECT * FROM octroi_migrations").await.is_err(), "nothing was made");
}

/// Tables, their columns, and whether each may be null.
type Schema = BTreeMap<(String, String), bool>;

async fn schema(place: &Place) -> Schema {
    let query = match place.dialect() {
        "sqlite" => {
            "SELECT t.name || ' ' || c.name || ' ' || (CASE c.\"notnull\" WHEN 1 THEN 'NO' ELSE 'YES' END)
             FROM sqlite_master t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        }
        _ => {
            "SELECT c.table_name || ' ' || c.column_name || ' ' || c.is_nullable
             FROM information_schema.columns c JOIN pg_class t ON t.oid = to_regclass(c.table_name)
             WHERE c.table_schema = 'public' AND NOT t.relispartition"
        }
    };
    let rows = place.must(query).await;
    let split = |row: &String| {
        let parts: Vec<_> = row.split(' ').map(ToOwned::to_owned).collect();
        ((parts[0].clone(), parts[1].clone()), parts[2] == "YES")
    };
    rows.iter().map(split).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialects_result_in_the_same_schema() {
    assert_eq!(names("postgres"), names("sqlite"));
    let (postgres, sqlite) = (Place::postgres().await, Place::sqlite());
    postgres.migrated().await;
    sqlite.migrated().await;
    let mut of_postgres = schema(&postgres).await;
    // Transactions have numbers, and readers need them, on PostgreSQL only.
    assert_eq!(of_postgres.remove(&("changes".into(), "xid".into())), Some(false));
    let of_sqlite = schema(&sqlite).await;
    assert!(of_sqlite.len() > 80, "the query finds the columns: {}", of_sqlite.len());
    assert_eq!(of_postgres, of_sqlite);
    postgres.remove().await;
}
