//! Threads that own a connection each and work off a queue.
//!
//! rusqlite blocks, so it runs on threads of its own: they end when the last handle is dropped.
//! Every call has a limit; a job whose caller gave up before it began is not begun, and one that
//! reads is ended wherever it is when nobody waits for it any more: a thread that goes on for
//! nobody would be one fewer for everybody. What writes is never cut off half-way, because a batch
//! that takes longer than its limit would be begun again and again.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use super::error::Failure;
use crate::store::{Result, StoreError};

/// How many threads read: look-ups are cached, so a few hold up nobody.
pub(super) const READERS: usize = 2;
/// How many threads read reports: one that takes long leaves another for the short ones.
pub(super) const REPORTERS: usize = 2;

/// For calls that a request waits for.
pub(super) const LOOK_UP: Duration = Duration::from_secs(1);
/// For lists and sums.
pub(super) const REPORT: Duration = Duration::from_secs(30);
/// For changes of an operator and batches of the drain; longer than [`BUSY_WRITE`].
pub(super) const WRITE: Duration = Duration::from_secs(30);
/// For migrations.
pub(super) const MIGRATE: Duration = Duration::from_mins(10);

/// How long a writer waits for another process's transaction.
const BUSY_WRITE: Duration = Duration::from_secs(10);
/// How long a reader waits; in WAL mode only recovery after a crash makes it wait at all.
const BUSY_READ: Duration = Duration::from_millis(500);

/// How many steps of SQLite's machine (some tens of microseconds) lie between two looks at whether
/// a job is still waited for.
const STEPS_BETWEEN_LOOKS: std::ffi::c_int = 1_000;

/// What a lane's connections may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Only look.
    Read,
    /// Everything; creates the file.
    Write,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A queue and the threads that work it off.
#[derive(Clone)]
pub(super) struct Lane {
    jobs: mpsc::Sender<Job>,
    access: Access,
}

/// Somebody waits for a job for as long as this is there.
#[derive(Default)]
struct Waiting {
    is_over: Arc<AtomicBool>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Lane {
    /// Opens `threads` connections and starts a thread for each.
    pub(super) async fn open(path: &Arc<Path>, access: Access, threads: usize) -> Result<Self> {
        const OPERATION: &str = "open the database file";
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let (opened, wait) = oneshot::channel();
            let (path, queue) = (path.clone(), queue.clone());
            std::thread::Builder::new()
                .name(format!("sqlite-{}-{number}", if access == Access::Write { "write" } else { "read" }))
                .spawn(move || match connect(&path, access) {
                    Ok(connection) => {
                        // Nobody waits for a caller that gave up: the queue is closed then, too.
                        let _ = opened.send(Ok(()));
                        work_off(connection, &queue);
                    }
                    Err(failure) => drop(opened.send(Err(failure))),
                })
                .map_err(|error| StoreError::Unavailable { operation: OPERATION, source: error.into() })?;
            wait.await.map_err(|_| thread_ended(OPERATION))?.map_err(|failure| failure.of(OPERATION))?;
        }
        Ok(Self { jobs, access })
    }

    /// Runs `job` on a connection; it takes at most `limit`, waiting included.
    pub(super) async fn run<T, F>(&self, operation: &'static str, limit: Duration, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> std::result::Result<T, Failure> + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        // Dropped with this call, also where its caller leaves before the limit.
        let waiting = Waiting::default();
        let (access, is_over) = (self.access, Arc::clone(&waiting.is_over));
        let job = move |connection: &mut Connection| {
            if !answer.is_closed() {
                // A caller that gives up meanwhile does not undo what was done.
                let done = match access {
                    Access::Read => run_while_waited_for(connection, is_over, job),
                    Access::Write => job(connection),
                };
                drop(answer.send(done));
            }
        };
        self.jobs.send(Box::new(job)).map_err(|_| thread_ended(operation))?;
        match tokio::time::timeout(limit, wait).await {
            Err(_) => Err(StoreError::too_late(operation, limit)),
            Ok(Err(_)) => Err(thread_ended(operation)),
            Ok(Ok(done)) => done.map_err(|failure| failure.of(operation)),
        }
    }
}

/// Runs `job`, and ends it at its next step when nobody waits any more.
fn run_while_waited_for<T>(
    connection: &mut Connection,
    is_over: Arc<AtomicBool>,
    job: impl FnOnce(&mut Connection) -> std::result::Result<T, Failure>,
) -> std::result::Result<T, Failure> {
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || is_over.load(Ordering::Relaxed)))?;
    // One that panics leaves the handler to the next, which sets its own.
    let done = job(connection);
    connection.progress_handler(0, None::<fn() -> bool>)?;
    done
}

fn work_off(mut connection: Connection, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Held while waiting: one thread waits for a job, the others for the lock.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A job that panics costs its caller an answer, not everybody the store. What it left
        // open was rolled back when its transaction was dropped.
        if catch_unwind(AssertUnwindSafe(|| job(&mut connection))).is_err() {
            tracing::error!("a job of the SQLite store panicked; its caller was told that the store is unavailable");
        }
    }
}

fn thread_ended(operation: &'static str) -> StoreError {
    let source = io::Error::new(io::ErrorKind::BrokenPipe, "the thread that owns the connection gave no answer");
    StoreError::Unavailable { operation, source: source.into() }
}

/// Opens a connection, set up as all of them are.
pub(super) fn connect(path: &Path, access: Access) -> std::result::Result<Connection, Failure> {
    if access == Access::Write {
        create(path)?;
    }
    // Readers open the file for writing as well, and are held to reading below: a read-only
    // connection could not recover the log that a crash left behind.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(64);
    if access == Access::Write {
        connection.busy_timeout(BUSY_WRITE)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             PRAGMA foreign_keys = ON;",
        )?;
    } else {
        connection.busy_timeout(BUSY_READ)?;
        connection.execute_batch("PRAGMA query_only = ON;")?;
    }
    Ok(connection)
}

/// Makes the file, for its owner alone, and its folder. SQLite gives the log beside it the same
/// permissions.
fn create(path: &Path) -> std::result::Result<(), Failure> {
    let says = |what: &str, path: &Path, error: &io::Error| {
        Failure::File(io::Error::new(error.kind(), format!("cannot create the {what} {}: {error}", path.display())))
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| says("folder", folder, &error))?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(says("database file", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads without an end.
    fn for_ever(connection: &mut Connection) -> std::result::Result<i64, Failure> {
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        Ok(connection.query_row(endless, [], |row| row.get(0))?)
    }

    fn one(connection: &mut Connection) -> std::result::Result<i64, Failure> {
        Ok(connection.query_row("SELECT 1", [], |row| row.get(0))?)
    }

    async fn lane(folder: &tempfile::TempDir) -> Lane {
        let path: Arc<Path> = folder.path().join("octroi.db").into();
        drop(connect(&path, Access::Write).unwrap());
        Lane::open(&path, Access::Read, 1).await.unwrap()
    }

    #[tokio::test]
    async fn at_its_limit_a_job_ends_and_its_thread_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let lane = lane(&folder).await;
        let late = lane.run("read for ever", Duration::from_millis(50), for_ever).await;
        assert!(matches!(late, Err(StoreError::Unavailable { .. })), "{late:?}");
        assert_eq!(lane.run("read one", LOOK_UP, one).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_job_whose_caller_left_ends_too() {
        let folder = tempfile::tempdir().unwrap();
        let lane = lane(&folder).await;
        let (begun, wait) = oneshot::channel();
        let read = move |connection: &mut Connection| {
            let _ = begun.send(());
            for_ever(connection)
        };
        tokio::select! {
            read = lane.run("read for ever", REPORT, read) => panic!("it has no end: {read:?}"),
            begun = wait => begun.unwrap(),
        }
        assert_eq!(lane.run("read one", LOOK_UP, one).await.unwrap(), 1);
    }
}
