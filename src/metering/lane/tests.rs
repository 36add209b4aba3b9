use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use std::{fs, thread};

use super::super::double::{Rig, admission, part, settlement};
use super::super::slot::{SETTLEMENT_AT, SETTLEMENT_BYTES, SLOT_BYTES};
use super::super::sync::Syncing;
use super::*;
use crate::config::metering::SyncPolicy;

/// Slots of a segment of the rig.
const SLOTS: u128 = 16;

#[tokio::test]
async fn an_entry_that_stays_open_pins_no_segment() {
    let rig = Rig::new();
    let journal = rig.open();
    let stream = journal.meter(0).admit(&admission(1)).unwrap();
    stream.mark_sent();
    for rotation in 0..100 {
        let first = 1000 + rotation * SLOTS;
        Rig::complete(&journal, first..first + SLOTS);
        rig.drain(&journal).await;
        let files = rig.files(".segment").len();
        assert!(files <= 6, "{files} segments after {rotation} rotations");
        let oldest = rig.files(".segment")[0].file_stem().unwrap().to_str().unwrap().parse::<u128>().unwrap();
        assert!(oldest + 3 >= rotation, "segment {oldest} is still there after {rotation} rotations");
        assert!(journal.shared.lanes[0].lock().held.len() <= 3, "maps are let go of");
    }
    assert_eq!(rig.store.events().len(), 1600, "the stream is not over");
    stream.settle(&settlement(Outcome::ClientGone));
    rig.drain(&journal).await;
    let outcomes = rig.store.outcomes();
    assert_eq!(outcomes.len(), 1601);
    assert_eq!(outcomes[&admission(1).id], Outcome::ClientGone);
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 1601);
    assert_eq!(rig.metrics.metering_damaged.get(), 0);
    assert!(rig.files(".segment").len() <= 4);
}

#[tokio::test]
async fn more_open_entries_than_a_rotation_moves_end_as_one_event_each() {
    let rig = Rig::new();
    let journal = rig.open();
    let streams: Vec<_> = (0..12).map(|number| journal.meter(0).admit(&admission(number + 1)).unwrap()).collect();
    for rotation in 0..20 {
        let first = 1000 + rotation * 8;
        Rig::complete(&journal, first..first + 8);
        rig.drain(&journal).await;
        let files = rig.files(".segment").len();
        assert!(files <= 9, "{files} segments after {rotation} rotations");
    }
    for (number, stream) in streams.into_iter().enumerate() {
        if number % 2 == 0 {
            stream.mark_sent();
            stream.settle(&settlement(Outcome::Cut));
        }
    }
    rig.drain(&journal).await;
    let mut counts = BTreeMap::new();
    for outcome in rig.store.outcomes().into_values() {
        *counts.entry(outcome).or_insert(0) += 1;
    }
    let expected = [(Outcome::Complete, 160), (Outcome::Cut, 6), (Outcome::NotSent, 6)];
    assert_eq!(counts, expected.into());
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 172);
}

#[tokio::test]
async fn a_process_killed_between_a_copy_and_its_mark_leaves_one_event() {
    for (settled, expected) in [(false, Outcome::Interrupted), (true, Outcome::Complete)] {
        let rig = Rig::new();
        let journal = rig.open();
        let stream = journal.meter(0).admit(&admission(1)).unwrap();
        stream.mark_sent();
        Rig::complete(&journal, 1000..1000 + 2 * SLOTS);
        // The mark in the old slot was not written: the copy was.
        let old = fs::OpenOptions::new().write(true).open(&rig.files(".segment")[0]).unwrap();
        let half = [0; SETTLEMENT_BYTES];
        old.write_all_at(&half, 4096 + SETTLEMENT_AT as u64).unwrap();
        if settled {
            stream.settle(&settlement(Outcome::Complete));
        } else {
            std::mem::forget(stream);
        }
        drop(journal);
        let next = rig.open();
        rig.recover(&next).await;
        assert_eq!(rig.store.outcomes()[&admission(1).id], expected);
        assert_eq!(rig.store.sent.load(Ordering::SeqCst), 33, "each once");
        assert_eq!(rig.folders().len(), 1);
    }
}

#[tokio::test]
async fn a_moved_entry_whose_new_slot_is_lost_is_not() {
    let rig = Rig::new();
    let journal = rig.open();
    let stream = journal.meter(0).admit(&admission(1)).unwrap();
    stream.mark_sent();
    Rig::complete(&journal, 1000..1000 + 2 * SLOTS);
    let newest = fs::OpenOptions::new().write(true).open(&rig.files(".segment")[2]).unwrap();
    newest.write_all_at(&[0; SLOT_BYTES], 4096).unwrap();
    std::mem::forget(stream);
    drop(journal);
    let next = rig.open();
    rig.recover(&next).await;
    assert_eq!(rig.store.outcomes()[&admission(1).id], Outcome::Interrupted);
}

/// Power may go at any moment: what was durable stays so while an entry moves.
#[tokio::test]
async fn a_segment_stays_until_what_was_moved_out_of_it_is_durable_elsewhere() {
    let rig = Rig::with(|config| config.sync = SyncPolicy::Every(Duration::from_secs(1)));
    let journal = rig.open();
    let mut syncing = Syncing::default();
    let stream = journal.meter(0).admit(&admission(1)).unwrap();
    syncing.pass(&journal.shared.lanes).unwrap();
    Rig::complete(&journal, 1000..1000 + 2 * SLOTS);
    let is_there = || rig.files(".segment")[0].ends_with("00000001.segment");
    for _ in 0..2 {
        rig.drain(&journal).await;
        assert!(is_there(), "the only durable trace of the entry");
    }
    syncing.pass(&journal.shared.lanes).unwrap();
    rig.drain(&journal).await;
    assert!(!is_there());
    stream.settle(&settlement(Outcome::Complete));
    rig.drain(&journal).await;
    assert_eq!(rig.store.outcomes()[&admission(1).id], Outcome::Complete);
}

#[tokio::test]
async fn an_interim_record_is_an_event_of_its_own_and_no_request() {
    let rig = Rig::new();
    let journal = rig.open();
    let stream = journal.meter(0).admit(&admission(1)).unwrap();
    stream.mark_sent();
    let told = |number| stream.record(&part(number, admission(1).id), &settlement(Outcome::Complete));
    assert!(told(2) && told(3));
    rig.drain(&journal).await;
    let events = rig.store.events();
    let kinds: Vec<_> =
        events.iter().map(|event| (event.id, event.kind.as_str(), event.kind.parent(), event.units)).collect();
    let of_the_first = |number| (admission(number).id, "stream", Some(admission(1).id), 0);
    assert_eq!(kinds, [of_the_first(2), of_the_first(3)]);
    // The process is killed: the records are there, and the request has its one event.
    std::mem::forget(stream);
    drop(journal);
    let next = rig.open();
    rig.recover(&next).await;
    let outcomes = rig.store.outcomes();
    assert_eq!((outcomes.len(), outcomes[&admission(1).id]), (3, Outcome::Interrupted));
}

#[tokio::test]
async fn without_room_an_interim_record_is_left_out_and_nobody_is_turned_away() {
    let rig = Rig::new();
    let journal = rig.open();
    let stream = journal.meter(0).admit(&admission(1)).unwrap();
    for number in 2..=SLOTS {
        assert!(stream.record(&part(number, admission(1).id), &settlement(Outcome::Complete)), "record {number}");
    }
    assert!(!stream.record(&part(99, admission(1).id), &settlement(Outcome::Complete)));
    assert!(!journal.is_full());
    assert!(Rig::supply(&journal));
    assert!(stream.record(&part(99, admission(1).id), &settlement(Outcome::Complete)));
    stream.settle(&settlement(Outcome::Complete));
    rig.drain(&journal).await;
    assert_eq!(rig.store.events().len() as u128, SLOTS + 1);
}

#[tokio::test]
async fn an_entry_is_settled_from_any_thread() {
    let rig = Rig::new();
    let journal = rig.open();
    let (first, second) = (journal.meter(0).admit(&admission(1)), journal.meter(0).admit(&admission(2)));
    thread::spawn(move || {
        first.unwrap().settle(&settlement(Outcome::Complete));
        drop(second);
    })
    .join()
    .unwrap();
    rig.drain(&journal).await;
    let expected = [(admission(1).id, Outcome::Complete), (admission(2).id, Outcome::NotSent)];
    assert_eq!(rig.store.outcomes(), expected.into());
}

#[tokio::test]
async fn a_dropped_entry_settles_itself_with_what_it_knows() {
    for (marks, outcome, units) in [
        (vec![], Outcome::NotSent, 0),
        (vec![true], Outcome::ClientGone, 3),
        (vec![true, false], Outcome::NotSent, 0),
        (vec![true, false, true], Outcome::ClientGone, 3),
    ] {
        let rig = Rig::new();
        let journal = rig.open();
        let entry = journal.meter(0).admit(&admission(1)).unwrap();
        for sent in marks {
            if sent { entry.mark_sent() } else { entry.clear_sent() }
        }
        rig.clock.advance(Duration::from_micros(2_500));
        drop(entry);
        rig.drain(&journal).await;
        let event = rig.store.events().remove(0);
        assert_eq!((event.outcome, event.units, event.duration_us), (outcome, units, 2_500));
        assert_eq!((event.status, event.bytes_in, event.bytes_out), (None, 0, 0));
    }
}
