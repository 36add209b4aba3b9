//! A store that is away, silent or spoilt: an error of the right kind, in time, and no lasting
//! harm.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use super::{client, hash, new_key};
use crate::postgres::PrivatePostgres;
use crate::stores::{Place, open};
use octroi::config::store::{StoreConfig, StoreUrl};
use octroi::model::secret::SecretText;
use octroi::store::{self, Store, StoreError};
use octroi::tasks::Tasks;

/// More than a look-up may take, and less than anything that waits without a limit.
const IN_TIME: Duration = Duration::from_secs(5);

async fn look_up(store: &Store) -> store::Result<bool> {
    let answer = tokio::time::timeout(IN_TIME, store.keys.find_by_hash(&[hash(1)])).await;
    answer.expect("a look-up answers in time, whatever the store does").map(|found| found.is_some())
}

async fn assert_away(store: &Store) {
    match look_up(store).await {
        Err(error @ StoreError::Unavailable { .. }) => assert!(error.is_transient()),
        other => panic!("{other:?}"),
    }
    let mut polled = tokio::time::timeout(IN_TIME, store.changes.follow()).await.expect("so does the feed").err();
    assert!(polled.take().is_some_and(|error| error.is_transient()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_and_comes_back_is_found_again() {
    let server = PrivatePostgres::start();
    let store = open(StoreUrl::Postgres(SecretText::new(server.url().to_owned()))).await;
    store.migrations.up(false).await.unwrap();
    let owner = client(&store, "acme").await;
    store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let mut reader = store.changes.follow().await.unwrap();
    assert!(look_up(&store).await.unwrap());

    server.stop();
    assert_away(&store).await;
    assert!(reader.poll().await.is_err_and(|error| error.is_transient()));
    assert!(store.usage.add_rejected(&[]).await.is_ok(), "nothing to write needs no store");
    assert!(store.peppers.trust("x").await.is_err_and(|error| error.is_transient()));

    server.restart();
    // Connections of before are closed and known to be; no call is spent on finding out.
    assert!(look_up(&store).await.unwrap());
    assert_eq!(reader.poll().await.unwrap(), []);
    let key = store.keys.create(new_key(owner.id, hash(2))).await.unwrap();
    assert_eq!(reader.poll().await.unwrap().len(), 1, "the reader goes on where it was: {key:?}");
}

/// A listener that passes bytes to the server's socket while `open` says so, and holds them else.
async fn passage(server: &PrivatePostgres, open: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = server.url().split_once("host=").unwrap().1.to_owned();
    let socket = PathBuf::from(folder).join(".s.PGSQL.5432");
    Tasks::spawn_here(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let (socket, mut open) = (socket.clone(), open.clone());
            Tasks::spawn_here(async move {
                open.wait_for(|open| *open).await.unwrap();
                let mut server = UnixStream::connect(socket).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut caller, &mut server) => return,
                    _ = open.wait_for(|open| !*open) => {}
                }
                // Held open and silent, as behind a pulled cable.
                let _ = open.wait_for(|_| false).await;
            });
        }
    });
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_hangs_nobody() {
    let server = PrivatePostgres::start();
    let (cable, plugged) = watch::channel(true);
    let url = passage(&server, plugged).await;
    let store = open(StoreUrl::Postgres(SecretText::new(url))).await;
    store.migrations.up(false).await.unwrap();
    let owner = client(&store, "acme").await;
    store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    assert!(look_up(&store).await.unwrap());

    cable.send(false).unwrap();
    for _ in 0..3 {
        // On a connection that was good, then on ones that never come to be.
        assert_away(&store).await;
    }
    cable.send(true).unwrap();
    // A connection whose answer never came is not given to the next caller.
    assert!(look_up(&store).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_behind_a_lock_gives_up_here_and_there() {
    let place = Place::postgres().await;
    let store = place.migrated().await;
    let locker = crate::postgres::connect(place.postgres_url().unwrap()).await;
    locker.batch_execute("BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").await.unwrap();
    assert!(look_up(&store).await.is_err_and(|error| error.is_transient()));
    // The server gave up as well: nothing but the locker is at work in this database.
    let others = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database =
                  (SELECT oid FROM pg_database WHERE datname = current_database())";
    let mut waiting = place.must(others).await;
    for _ in 0..100 {
        if waiting == ["0"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        waiting = place.must(others).await;
    }
    assert_eq!(waiting, ["0"]);
    locker.batch_execute("COMMIT").await.unwrap();
    assert!(!look_up(&store).await.unwrap());
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_writer_elsewhere_does_not_stop_readers() {
    let place = Place::sqlite();
    let store = place.migrated().await;
    let owner = client(&store, "acme").await;
    store.keys.create(new_key(owner.id, hash(1))).await.unwrap();
    let elsewhere = rusqlite::Connection::open(place.sqlite_path().unwrap()).unwrap();
    elsewhere.execute_batch("BEGIN IMMEDIATE; DELETE FROM api_keys;").unwrap();
    assert!(look_up(&store).await.unwrap(), "not committed, not gone");
    elsewhere.execute_batch("COMMIT").unwrap();
    assert!(!look_up(&store).await.unwrap());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = Place::sqlite();
    let store = place.migrated().await;
    client(&store, "acme").await;
    let path = place.sqlite_path().unwrap();
    for ending in ["", "-wal", "-shm"] {
        let file = PathBuf::from(format!("{}{ending}", path.display()));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_made_or_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "these are notes, and quite a lot of them, but no database at all").unwrap();
    for (path, expected) in [(text.join("octroi.db"), "cannot create the folder"), (text, "not a database")] {
        let config =
            StoreConfig { url: StoreUrl::Sqlite(path.clone()), migrate: false, start_timeout: Duration::from_secs(1) };
        let Err(StoreError::Unavailable { source, .. } | StoreError::Refused { source, .. }) =
            store::open(&config).await
        else {
            panic!("{} was opened", path.display())
        };
        assert!(source.to_string().contains(expected), "{source}");
    }
}
