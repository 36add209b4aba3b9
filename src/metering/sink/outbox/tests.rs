//! What waits for sinks: through kills at the worst instants, damage, and the bound.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::outbox_files::position_path;
use super::*;
use crate::metering::Journal;
use crate::metering::double::{Rig, admission};
use crate::metering::recovery::Recovery;
use crate::telemetry::metrics::Metrics;

const SINKS: [&str; 2] = ["one", "two"];

fn config(names: &[&str], max_bytes: u64) -> SinksConfig {
    use crate::config::sinks::{SinkConfig, SinkKind};

    let sink = |name: &&str| {
        let kind = SinkKind::Ndjson { dir: "none".into(), rotate_bytes: 1, rotate_interval: Duration::from_secs(1) };
        SinkConfig::complete(name, kind)
    };
    SinksConfig {
        sinks: names.iter().map(sink).collect(),
        outbox_max_bytes: max_bytes,
        outbox_keep: Duration::from_hours(1),
    }
}

fn outbox_of(rig: &Rig, journal: &Journal, names: &[&str], max_bytes: u64) -> Arc<Outbox> {
    let metrics = Metrics::new(&[], &[]);
    let handles = names.iter().map(|name| metrics.sink(name)).collect();
    let (folder, clock) = (&journal.shared.folder, Arc::<crate::model::clock::ManualClock>::clone(&rig.clock));
    let config = config(names, max_bytes);
    Arc::new(Outbox::new(folder.path(), folder.id(), &config, handles, SyncPolicy::EachRequest, clock))
}

async fn drain(rig: &Rig, journal: &Journal, outbox: &Arc<Outbox>) {
    let delivery = rig.delivery(journal).with_outbox(Arc::clone(outbox));
    journal.drain.lock().await.pass(&delivery).await;
}

async fn recover(rig: &Rig, journal: &Journal, outbox: &Arc<Outbox>) {
    let delivery = Arc::new(rig.delivery(journal).with_outbox(Arc::clone(outbox)));
    Recovery::new(Arc::clone(&journal.shared), delivery).adopt_all().await;
}

/// The numbers of all events that a sink is given, until it has all.
fn take_all(outbox: &Outbox, sink: usize) -> Vec<u128> {
    let mut numbers = Vec::new();
    while let Some(chunk) = outbox.next(sink, 7).unwrap() {
        numbers.extend(chunk.records.iter().map(|record| number_of(&record.id())));
        outbox.advance(sink, &chunk);
    }
    numbers
}

fn number_of(id: &str) -> u128 {
    let number = |number: &u128| admission(*number).id.0.to_string() == id;
    (1..1_000).find(number).unwrap()
}

fn files(outbox: &Outbox) -> usize {
    outbox.lock().files.len()
}

#[tokio::test]
async fn an_heir_sends_what_was_not_sent_and_appends_nothing_twice() {
    let rig = Rig::new();
    let journal = rig.open();
    let outbox = outbox_of(&rig, &journal, &SINKS, 1 << 20);
    Rig::complete(&journal, 1..6);
    drain(&rig, &journal, &outbox).await;
    assert_eq!(take_all(&outbox, 0), [1, 2, 3, 4, 5]);
    let chunk = outbox.next(1, 3).unwrap().unwrap();
    outbox.advance(1, &chunk);
    // More is settled, and not committed, when the process is killed.
    Rig::complete(&journal, 6..9);
    drop((journal, outbox));

    let heir = rig.open();
    let outbox = outbox_of(&rig, &heir, &SINKS, 1 << 20);
    recover(&rig, &heir, &outbox).await;
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 13, "the store got all again");
    assert_eq!(take_all(&outbox, 0), [6, 7, 8]);
    assert_eq!(take_all(&outbox, 1), [4, 5, 6, 7, 8]);
    assert_eq!(rig.folders().len(), 1);
}

#[tokio::test]
async fn what_was_committed_and_not_appended_is_appended_by_the_heir() {
    let rig = Rig::new();
    let journal = rig.open();
    Rig::complete(&journal, 1..4);
    // Committed; killed before the outbox was told.
    rig.drain(&journal).await;
    drop(journal);
    let heir = rig.open();
    let outbox = outbox_of(&rig, &heir, &SINKS, 1 << 20);
    recover(&rig, &heir, &outbox).await;
    assert_eq!(take_all(&outbox, 0), [1, 2, 3]);
}

#[tokio::test]
async fn a_file_stays_until_all_are_through_it_and_its_segments_are_gone() {
    let rig = Rig::new();
    let journal = rig.open();
    let outbox = outbox_of(&rig, &journal, &SINKS, 1 << 20);
    Rig::complete(&journal, 1..6);
    drain(&rig, &journal, &outbox).await;
    take_all(&outbox, 0);
    outbox.close();
    assert_eq!(files(&outbox), 1, "a sink lacks it");
    take_all(&outbox, 1);
    assert_eq!(files(&outbox), 1, "a killed process would find its events in the segment");
    outbox.note_segments(Some(2), 2);
    outbox.prune();
    assert_eq!(files(&outbox), 0);
    assert_eq!(fs::read_dir(&outbox.dir).unwrap().count(), 0, "nor any position");
}

#[tokio::test]
async fn a_sink_begins_when_it_is_configured_and_ends_with_its_configuration() {
    let rig = Rig::new();
    let journal = rig.open();
    let outbox = outbox_of(&rig, &journal, &["one"], 1 << 20);
    Rig::complete(&journal, 1..4);
    drain(&rig, &journal, &outbox).await;
    assert_eq!(sinks_of(&outbox.lock().files[0].path), ["one"]);
    drop((journal, outbox));
    let heir = rig.open();
    let outbox = outbox_of(&rig, &heir, &["two"], 1 << 20);
    recover(&rig, &heir, &outbox).await;
    assert_eq!(take_all(&outbox, 0), Vec::<u128>::new());
    assert_eq!(files(&outbox), 0, "nobody wants it");
}

#[tokio::test]
async fn beyond_the_bounds_the_oldest_goes_and_is_counted_for_those_that_lack_it() {
    let rig = Rig::with(|config| config.max_bytes = 1 << 30);
    let journal = rig.open();
    let outbox = outbox_of(&rig, &journal, &SINKS, 40_000);
    for round in 0..50 {
        Rig::complete(&journal, 1 + round * 4..5 + round * 4);
        drain(&rig, &journal, &outbox).await;
        take_all(&outbox, 0);
    }
    let missed = outbox.sinks[1].1.missed.get();
    let taken = take_all(&outbox, 1);
    assert_eq!(outbox.sinks[0].1.missed.get(), 0);
    assert!(missed > 0 && taken.len() > 20, "{missed} missed, {} taken", taken.len());
    assert_eq!(taken.len() as u64 + missed, 200);
    assert_eq!(taken.last(), Some(&200));
    // And by age.
    Rig::complete(&journal, 201..204);
    drain(&rig, &journal, &outbox).await;
    rig.clock.advance(Duration::from_hours(2));
    outbox.prune();
    assert_eq!(outbox.sinks[1].1.missed.get(), missed + 3);
    assert_eq!(take_all(&outbox, 1), Vec::<u128>::new());
    Rig::complete(&journal, 204..206);
    drain(&rig, &journal, &outbox).await;
    assert_eq!(take_all(&outbox, 1), [204, 205], "it goes on");
}

#[test]
fn damage_costs_the_lines_it_hits_and_a_position_in_doubt_sends_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000000000001-x-000000.events");
    let rig = Rig::new();
    let journal = rig.open();
    Rig::complete(&journal, 1..4);
    let line = |number: u128| {
        use crate::metering::double::settlement;
        use crate::metering::event::settled;
        let header = crate::metering::header::Header::fit("n", Uuid::nil(), 1, &[], 8192).unwrap();
        let event = settled(&admission(number), &settlement(crate::model::usage::Outcome::Complete), &header);
        Record::from(&event).line()
    };
    let bytes = [line(1), b"{\"torn\n".to_vec(), line(2), line(3)[..40].to_vec()].concat();
    fs::write(&path, &bytes).unwrap();
    let length = bytes.len() as u64;
    let chunk = read_chunk(&path, 0, length, 100).unwrap();
    assert_eq!((chunk.records.len(), chunk.damaged, chunk.to), (2, 2, length));
    assert_eq!(read_position(&path, "one", length), length, "never for it");
    for (at, expected) in [(0, 0), (17, 17), (length, length), (length + 1, 0), (u64::MAX, 0)] {
        write_position(&path, "one", at).unwrap();
        assert_eq!(read_position(&path, "one", length), expected);
    }
    fs::write(position_path(&path, "one"), "x").unwrap();
    assert_eq!(read_position(&path, "one", length), 0);
}
