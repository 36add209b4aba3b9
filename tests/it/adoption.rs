//! An older `clients` table is completed in place, or refused before anything is changed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::text;
use crate::stores::Place;
use octroi::store::StoreError;

/// A row of each older table below.
const ID: &str = "0b7e4f6e-51a5-4d3e-9a55-d7c1a1c7b001";

/// What is there, what is done to it first, and what the row looks like afterwards:
/// `name|status|created_at in UTC`, where `today` stands for the time of the migration.
const ACCEPTED: &[(&str, &str, &str)] = &[
    ("the least", "id uuid PRIMARY KEY, api_key text", "client 0b7e4f6e-51a5-4d3e-9a55-d7c1a1c7b001|active|today"),
    (
        "a key that must be there, and a name",
        "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), api_key text NOT NULL UNIQUE, name text NOT NULL DEFAULT 'Old',
         created_at timestamptz NOT NULL DEFAULT '2020-01-02T03:04:05Z'",
        "Old|active|2020-01-02 03:04:05",
    ),
    (
        "another column names them",
        "id uuid PRIMARY KEY, api_key text, email text DEFAULT 'a@example.com', company_name varchar(80) DEFAULT 'Acme'",
        "Acme|active|today",
    ),
    (
        "columns of ours that may be null, and are",
        "id uuid PRIMARY KEY, api_key text, name text, status text, metadata jsonb, created_at timestamptz,
         updated_at timestamptz DEFAULT '2021-01-01T00:00:00Z'",
        "client 0b7e4f6e-51a5-4d3e-9a55-d7c1a1c7b001|active|2021-01-01 00:00:00",
    ),
    (
        "columns of ours with values",
        "id uuid PRIMARY KEY, api_key text, name text DEFAULT 'Full', status text DEFAULT 'suspended',
         api_key_hash text UNIQUE, api_key_pepper_version integer NOT NULL DEFAULT 7, rate text DEFAULT '5/s',
         burst bigint DEFAULT 9, plan_id uuid, metadata jsonb DEFAULT '{\"a\": 1}',
         created_at timestamptz DEFAULT '2020-05-05T00:00:00Z', updated_at timestamptz",
        "Full|suspended|2020-05-05 00:00:00",
    ),
];

/// What is there, and the words that the refusal must have.
const REFUSED: &[(&str, &str, &[&str])] = &[
    ("ids are numbers", "id bigint PRIMARY KEY, api_key text", &["\"id\"", "bigint", "uuid"]),
    (
        "keys have a length",
        "id uuid PRIMARY KEY, api_key varchar(64)",
        &["\"api_key\"", "character varying", "ALTER COLUMN api_key TYPE text"],
    ),
    ("no raw keys", "id uuid PRIMARY KEY, name text", &["\"api_key\"", "missing"]),
    ("no ids", "api_key text PRIMARY KEY", &["\"id\"", "missing"]),
    ("no primary key", "id uuid, api_key text", &["\"id\"", "ADD PRIMARY KEY (id)"]),
    ("a primary key of two", "id uuid, api_key text, PRIMARY KEY (id, api_key)", &["\"id\"", "primary key"]),
    (
        "times without a zone",
        "id uuid PRIMARY KEY, api_key text, created_at timestamp",
        &["\"created_at\"", "timestamp without time zone", "AT TIME ZONE 'UTC'"],
    ),
    (
        "several columns at once",
        "id uuid PRIMARY KEY, api_key text, status integer, burst text, metadata json",
        &["\"status\"", "RENAME COLUMN status TO former_status", "\"burst\"", "\"metadata\"", "USING metadata::jsonb"],
    ),
    (
        "another meaning of the status",
        "id uuid PRIMARY KEY, api_key text, status text DEFAULT 'trial'",
        &["\"status\"", "'active'", "1 rows", "RENAME COLUMN status TO former_status"],
    ),
    (
        "a hash that no look-up would find",
        "id uuid PRIMARY KEY, api_key text, api_key_hash text DEFAULT 'ABCD'",
        &["\"api_key_hash\"", "hex"],
    ),
    (
        "a name that is computed",
        "id uuid PRIMARY KEY, api_key text, name text GENERATED ALWAYS AS ('x') STORED",
        &["\"name\"", "DROP EXPRESSION"],
    ),
];

fn migration() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres/0001_create_clients.sql")
}

fn psql(place: &Place) -> Output {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f"]).arg(migration());
    psql.arg(place.postgres_url().unwrap()).output().expect("psql comes with the server")
}

async fn older(columns: &str) -> Place {
    let place = Place::postgres().await;
    place.must(&format!("CREATE TABLE clients ({columns})")).await;
    place
}

/// Columns and types of `clients`, in order.
async fn shape(place: &Place) -> Vec<String> {
    place
        .must(
            "SELECT attname || ' ' || format_type(atttypid, NULL) || ' ' || attnotnull FROM pg_attribute
             WHERE attrelid = 'clients'::regclass AND attnum > 0 ORDER BY attnum",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_table_is_completed_in_place() {
    for (what, columns, expected) in ACCEPTED {
        for by_psql in [false, true] {
            let place = older(columns).await;
            place
                .must(&format!("INSERT INTO clients (id, api_key) VALUES ('{ID}', 'a raw key: ''kept'' as it is')"))
                .await;
            if by_psql {
                let applied = psql(&place);
                assert!(applied.status.success(), "{what}: {}", text(&applied.stderr));
                assert!(!psql(&place).status.success(), "{what}: a second run is refused");
            }
            let store = place.migrated().await;
            assert_eq!(store.migrations.up(false).await.unwrap(), [], "{what}");
            assert_eq!(store.migrations.verify().await.unwrap(), [], "{what}");

            let row = "SELECT name || '|' || status || '|' || CASE WHEN created_at > now() - interval '1 hour'
                           THEN 'today' ELSE (created_at AT TIME ZONE 'UTC')::text END FROM clients";
            assert_eq!(place.must(row).await, [*expected], "{what}");
            assert_eq!(place.must("SELECT api_key FROM clients").await, ["a raw key: 'kept' as it is"], "{what}");
            assert_eq!(store.clients.list(None, 10).await.unwrap().items.len(), 1, "{what}: the row can be read");
            // Whoever inserts owes a name, as everywhere, and the rules of the columns hold.
            place.must("INSERT INTO clients (name) VALUES ('by hand')").await;
            for broken in ["name = ''", "status = 'trial'", "api_key_hash = 'x'", "burst = 0", "created_at = NULL"] {
                assert!(place.sql(&format!("UPDATE clients SET {broken}")).await.is_err(), "{what}: {broken}");
            }
            let hash = "ab".repeat(32);
            let same = format!("UPDATE clients SET api_key_hash = '{hash}'");
            assert!(place.sql(&same).await.is_err(), "{what}: two clients cannot have one hash");
            place.remove().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_shape_is_refused_before_a_change() {
    for (what, columns, words) in REFUSED {
        let place = older(columns).await;
        let id = if columns.contains("id uuid") {
            format!("'{ID}'")
        } else if columns.contains("id bigint") {
            "1".to_owned()
        } else {
            String::new()
        };
        let (named, id) = if id.is_empty() { ("api_key", String::new()) } else { ("id", id) };
        let value = if id.is_empty() { "'raw'".to_owned() } else { id };
        if !columns.contains("PRIMARY KEY (id, api_key)") {
            place.must(&format!("INSERT INTO clients ({named}) VALUES ({value})")).await;
        }
        let before = (shape(&place).await, place.must("SELECT clients::text FROM clients").await);

        let by_psql = psql(&place);
        assert_eq!(by_psql.status.code(), Some(3), "{what}");
        let said = text(&by_psql.stderr);
        let by_binary = match place.open().await.migrations.up(false).await {
            Err(StoreError::Conflict(message)) => message,
            other => panic!("{what}: {other:?}"),
        };
        for word in words.iter().chain(&["\"clients\"", "nothing was changed", "Rename it"]) {
            assert!(said.contains(word), "{what}: no `{word}` in {said}");
            assert!(by_binary.contains(word), "{what}: no `{word}` in {by_binary}");
        }
        let after = (shape(&place).await, place.must("SELECT clients::text FROM clients").await);
        assert_eq!(before, after, "{what}");
        assert!(place.sql("SELECT * FROM octroi_migrations").await.is_err(), "{what}: not even the ledger is made");
        place.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_a_later_file_is_found_before_the_first() {
    let place = older("id uuid PRIMARY KEY, api_key text").await;
    place.must("CREATE TABLE api_keys (id integer)").await;
    let before = shape(&place).await;
    match place.open().await.migrations.up(false).await {
        Err(StoreError::Conflict(message)) => assert!(message.contains("\"api_keys\""), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(shape(&place).await, before);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_triggers_and_other_tables_on_the_older_one_live_on() {
    let place = older("id uuid PRIMARY KEY, api_key text, touched integer NOT NULL DEFAULT 0").await;
    place
        .must(&format!(
            "INSERT INTO clients (id, api_key) VALUES ('{ID}', 'raw');
             CREATE VIEW named AS SELECT id, api_key FROM clients;
             CREATE TABLE orders (client_id uuid NOT NULL REFERENCES clients DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO orders VALUES ('{ID}');
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $$;
             CREATE TRIGGER touched BEFORE UPDATE ON clients FOR EACH ROW EXECUTE FUNCTION touch();"
        ))
        .await;
    place.migrated().await;
    assert_eq!(place.must("SELECT api_key FROM named").await, ["raw"]);
    assert_eq!(place.must("SELECT touched FROM clients").await, ["0"], "completing a table is no update of its rows");
    place.remove().await;

    let place = older("id uuid PRIMARY KEY, api_key text").await;
    place
        .must(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER clients_updated BEFORE UPDATE ON clients FOR EACH ROW EXECUTE FUNCTION nothing();",
        )
        .await;
    match place.open().await.migrations.up(false).await {
        Err(StoreError::Conflict(message)) => {
            assert!(message.contains("ALTER TRIGGER clients_updated ON clients RENAME"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    place.remove().await;
}
