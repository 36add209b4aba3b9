use std::fs::{self, File};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use super::super::double::{Rig, admission, settlement};
use super::super::slot::{SLOT_BYTES, Sent, Slot};
use super::*;
use crate::model::usage::Outcome;

/// What the durable copy of a journal's first segment holds.
fn durable(rig: &Rig, journal: &super::super::Journal) -> Vec<Slot> {
    let bytes = fs::read(&rig.files(".durable")[0]).unwrap();
    let seal = super::super::slot::Seal::new(journal.shared.folder.id(), 1);
    let slots = bytes[4096..].as_chunks::<SLOT_BYTES>().0.iter();
    (0..).zip(slots).map(|(slot, bytes)| Slot::read(seal, slot, bytes)).collect()
}

#[test]
fn a_pass_makes_all_that_changed_durable_and_only_that() {
    for policy in [SyncPolicy::EachRequest, SyncPolicy::Every(Duration::from_secs(1))] {
        let rig = Rig::with(|config| config.sync = policy);
        let journal = rig.open();
        let mut syncing = Syncing::default();
        let entry = journal.meter(0).admit(&admission(1)).unwrap();
        assert_eq!(durable(&rig, &journal)[0], Slot::Empty);
        syncing.pass(&journal.shared.lanes).unwrap();
        assert_eq!(durable(&rig, &journal)[0], Slot::Open(admission(1), Sent::No));
        entry.mark_sent();
        syncing.pass(&journal.shared.lanes).unwrap();
        assert_eq!(durable(&rig, &journal)[0], Slot::Open(admission(1), Sent::Yes));
        entry.settle(&settlement(Outcome::Complete));
        syncing.pass(&journal.shared.lanes).unwrap();
        assert_eq!(durable(&rig, &journal)[0], Slot::Settled(admission(1), settlement(Outcome::Complete)));
        assert!(durable(&rig, &journal)[1..].iter().all(|slot| *slot == Slot::Empty));
        let mut nothing = Vec::new();
        journal.shared.lanes[0].take_changes(&mut nothing);
        assert!(nothing.is_empty());
    }
}

#[test]
fn a_segment_that_was_let_go_of_is_still_written_out() {
    let rig = Rig::with(|config| config.sync = SyncPolicy::EachRequest);
    let journal = rig.open();
    Rig::complete(&journal, 1..18);
    Syncing::default().pass(&journal.shared.lanes).unwrap();
    assert!(durable(&rig, &journal).iter().all(|slot| matches!(slot, Slot::Settled(..))));
}

#[tokio::test]
async fn an_entry_that_went_on_outlives_the_power_though_its_old_segment_is_done() {
    let rig = Rig::with(|config| config.sync = SyncPolicy::Every(Duration::from_secs(1)));
    let journal = rig.open();
    let mut syncing = Syncing::default();
    let stream = journal.meter(0).admit(&admission(1)).unwrap();
    stream.mark_sent();
    syncing.pass(&journal.shared.lanes).unwrap();
    let first = rig.files(".durable").remove(0);
    Rig::complete(&journal, 1000..1034);
    rig.drain(&journal).await;
    assert!(first.exists(), "it has the only copy that is durable");

    // The power goes: of the maps nothing was written back.
    for path in rig.files(".segment") {
        File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    }
    mem::forget(stream);
    drop(journal);
    let next = rig.open();
    rig.recover(&next).await;
    assert_eq!(rig.store.outcomes().get(&admission(1).id), Some(&Outcome::Interrupted));
}

#[test]
fn pages_that_follow_one_another_are_written_at_once() {
    let rig = Rig::with(|config| {
        (config.sync, config.segment_bytes, config.max_bytes) = (SyncPolicy::EachRequest, 4 << 20, 64 << 20);
    });
    let journal = rig.open();
    let live = journal.shared.take_made().remove(0);
    let mut changes = Changes::none(live);
    for slot in [0, 15, 16, 40, 4000, 4016] {
        changes.note(slot);
    }
    assert_eq!(changes.runs(), [(0, 3), (250, 2)]);
    (0..changes.live.header.slots).for_each(|slot| changes.note(slot));
    let runs = changes.runs();
    assert_eq!(runs.iter().map(|(_, pages)| pages).sum::<u32>(), changes.live.header.slots.div_ceil(16));
    assert!(runs.iter().all(|(_, pages)| *pages <= CHUNK_SLOTS / PAGE_SLOTS));
}

#[test]
fn what_a_failing_disk_does_not_take_is_tried_again() {
    let rig = Rig::with(|config| config.sync = SyncPolicy::EachRequest);
    let journal = rig.open();
    let _entry = journal.meter(0).admit(&admission(1)).unwrap();
    let good = rig.files(".durable").remove(0);
    // The one file to which every write fails with "no space left on device".
    let failing = LiveSegment::stand_in(&journal.shared.take_made()[0], open("/dev/full"));
    let mut changes = Changes::none(failing);
    changes.note(0);
    let mut syncing = Syncing { pending: vec![changes], ..Syncing::default() };
    let error = syncing.pass(&[]).unwrap_err();
    assert_eq!((error.kind(), syncing.pending.len()), (io::ErrorKind::StorageFull, 1));
    let mended = LiveSegment::stand_in(&syncing.pending[0].live, open(good.to_str().unwrap()));
    syncing.pending[0].live = mended;
    syncing.pass(&[]).unwrap();
    assert_eq!(syncing.pending.len(), 0);
    assert_eq!(durable(&rig, &journal)[0], Slot::Open(admission(1), Sent::No));
}

fn open(path: &str) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn poll(future: impl Future<Output = ()>) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn only_every_waits_and_for_a_pass_that_began_afterwards() {
    let interval = Gate::new(SyncPolicy::Every(Duration::from_secs(1)), OnFull::Refuse).unwrap();
    assert!(poll(interval.pass()));
    assert!(Gate::new(SyncPolicy::Never, OnFull::Refuse).is_none());

    let gate = Gate::new(SyncPolicy::EachRequest, OnFull::Refuse).unwrap();
    let mut early = Box::pin(gate.pass());
    let mut context = Context::from_waker(Waker::noop());
    assert!(early.as_mut().poll(&mut context).is_pending());
    let (first, last) = gate.begin();
    let mut late = Box::pin(gate.pass());
    assert!(late.as_mut().poll(&mut context).is_pending());
    gate.succeeded(first);
    assert!(early.as_mut().poll(&mut context).is_ready());
    assert!(late.as_mut().poll(&mut context).is_pending(), "its slot may have been written after the pass began");
    gate.succeeded(gate.begin().0);
    assert!(late.as_mut().poll(&mut context).is_ready());
    assert!(!last);
    gate.stop();
    assert!(gate.begin().1);
}

#[test]
fn while_the_disk_fails_refuse_refuses_and_serve_does_not_wait() {
    for (on_full, refuses, passes) in [(OnFull::Refuse, true, false), (OnFull::Serve, false, true)] {
        let gate = Gate::new(SyncPolicy::EachRequest, on_full).unwrap();
        gate.stop();
        gate.failed();
        assert_eq!((gate.refuses(), poll(gate.pass())), (refuses, passes));
        gate.succeeded(1);
        assert!(!gate.refuses());
    }
}

#[tokio::test]
async fn a_durable_entry_is_in_the_synced_file_before_its_request_goes_on() {
    let rig = Rig::with(|config| config.sync = SyncPolicy::EachRequest);
    let journal = rig.open();
    let (gate, lanes) = (journal.shared.gate.clone().unwrap(), journal.shared.lanes.clone());
    let thread = std::thread::spawn(move || run(&gate, &lanes));
    let meter = journal.meter(0);
    let entries: Vec<_> = (1..9).map(|number| meter.admit(&admission(number)).unwrap()).collect();
    let waiting: Vec<_> = entries.iter().map(super::super::Entry::durable).collect();
    for waiting in waiting {
        waiting.await;
    }
    let slots = durable(&rig, &journal);
    assert!(slots[..8].iter().all(|slot| matches!(slot, Slot::Open(_, Sent::No))));
    drop(entries);
    drop(journal);
    thread.join().unwrap();
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 0);
}
