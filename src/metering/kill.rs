//! The promise, tried: a process that meters as fast as it can is killed at a random instant, and
//! every entry that it reported is found exactly once.
//!
//! The child is this test binary again, running the test that is otherwise ignored. It reports
//! on a pipe; the parent kills it after so many reports.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use tokio::runtime::Builder;

use super::double::{MemoryStore, Rig, admission, settlement};
use super::folder::Folder;
use super::{Journal, Meter};
use crate::config::metering::{MeteringConfig, SyncPolicy};
use crate::model::clock::SystemClock;
use crate::model::event_id::EventIdGenerator;
use crate::model::id::EventId;
use crate::model::usage::{Admission, Outcome};
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;

const WORKERS: usize = 2;
/// Every so-manieth entry is sent and stays open.
const OPEN: usize = 50;
/// A child that nobody kills ends by itself.
const ENOUGH: usize = 500_000;

#[test]
fn a_process_killed_at_any_instant_loses_nothing_and_doubles_nothing() {
    // After how many reports: from the very first one to many rotations.
    for (round, reports) in [1, 777, 3_001, 10_007, 25_013].into_iter().enumerate() {
        let sync =
            if round % 2 == 0 { SyncPolicy::Never } else { SyncPolicy::Every(std::time::Duration::from_millis(3)) };
        let rig = Rig::with(|config| settings(config, sync));
        let reported = meter_until_killed(&rig, reports, round % 2 == 1);
        let journal = rig.open();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(rig.recover(&journal));

        let outcomes = rig.store.outcomes();
        for (id, outcome) in &reported {
            assert_eq!(outcomes.get(id), Some(outcome), "{id}, after {reports} reports");
        }
        let unreported = outcomes.len() - reported.len();
        assert!(unreported <= WORKERS, "{unreported} more than were reported: each worker may have had one");
        assert_eq!(rig.store.sent.load(Ordering::SeqCst), outcomes.len() as u64, "each once");
        assert!(rig.metrics.metering_damaged.get() <= WORKERS as u64, "no more than were being written");
        assert_eq!(rig.folders().len(), 1, "only ours is left");
    }
}

fn settings(config: &mut MeteringConfig, sync: SyncPolicy) {
    config.segment_bytes = 256 << 10;
    config.max_bytes = 1 << 30;
    config.sync = sync;
}

/// Runs a child on the rig's folder and kills it; what it had reported.
fn meter_until_killed(rig: &Rig, reports: usize, syncs: bool) -> HashSet<(EventId, Outcome)> {
    let name = concat!(module_path!(), "::meters_until_it_is_killed").split_once("::").unwrap().1;
    let mut child = Command::new("/proc/self/exe")
        .args([name, "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}\n{syncs}", rig.config.dir.display()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut reported = HashSet::new();
    while reported.len() < reports {
        reported.extend(next_report(&mut lines).expect("the child reports until it is killed"));
    }
    let folder = rig.folders().remove(0);
    assert!(Folder::adopt(&folder).unwrap().is_none(), "its process lives");
    kill(&mut child);
    while let Some(report) = next_report(&mut lines) {
        reported.extend(report);
    }
    reported
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The next line: none at the end, and `Some(None)` when it is no report.
#[expect(clippy::option_option, reason = "the end, another line, a report")]
fn next_report(lines: &mut impl BufRead) -> Option<Option<(EventId, Outcome)>> {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    // A line that was cut by the kill is no report.
    let line = line.strip_suffix('\n')?;
    let report = |prefix, outcome| line.strip_prefix(prefix).map(|id: &str| (id.parse().unwrap(), outcome));
    Some(report("settled ", Outcome::Complete).or_else(|| report("sent ", Outcome::Interrupted)))
}

#[test]
#[ignore = "the child of the test above"]
fn meters_until_it_is_killed() {
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    let (Some(dir), Some(syncs)) = (lines.next(), lines.next()) else { return };
    let sync = if syncs == "true" { SyncPolicy::Every(std::time::Duration::from_millis(3)) } else { SyncPolicy::Never };
    let mut config = Rig::new().config;
    settings(&mut config, sync);
    config.dir = Path::new(&dir).to_owned();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let metrics = Metrics::new(&[], &[]);
    let journal = Journal::open(&config, "child", &["orders".into()], WORKERS, SystemClock::shared(), metrics).unwrap();
    let store = MemoryStore::shared();
    store.away.store(true, Ordering::SeqCst);
    journal.start(store, &Tasks::new(runtime.handle().clone()));
    let journal = Arc::new(journal);
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let meter = journal.meter(worker);
            scope.spawn(move || meter_for_ever(&meter));
        }
    });
}

fn meter_for_ever(meter: &Meter) {
    let mut ids = EventIdGenerator::new();
    for number in 1..ENOUGH {
        let admission = Admission { id: ids.next(admission(0).occurred_at), ..admission(0) };
        let entry = loop {
            match meter.admit(&admission) {
                Ok(entry) => break entry,
                // It meters faster than segments are made.
                Err(_) => thread::yield_now(),
            }
        };
        entry.mark_sent();
        if number % OPEN == 0 {
            println!("sent {}", admission.id);
            std::mem::forget(entry);
        } else {
            entry.settle(&settlement(Outcome::Complete));
            println!("settled {}", admission.id);
        }
    }
}
