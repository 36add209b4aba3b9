use std::fs;
use std::sync::atomic::Ordering;

use super::super::double::{Rig, admission, settlement};
use super::super::slot::SETTLEMENT_AT;
use super::*;
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::usage::{Outcome, Settlement};

#[tokio::test]
async fn an_event_is_sent_once_and_what_is_open_waits() {
    let rig = Rig::new();
    let journal = rig.open();
    let open = journal.meter(0).admit(&admission(1)).unwrap();
    Rig::complete(&journal, 2..5);
    for _ in 0..3 {
        rig.drain(&journal).await;
    }
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 3);
    assert_eq!(journal.drain.lock().await.left(), 1);
    open.settle(&settlement(Outcome::Cut));
    rig.drain(&journal).await;
    assert_eq!(journal.drain.lock().await.left(), 0);
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 4);
    let event = rig.store.events().remove(0);
    assert_eq!(event, event::settled(&admission(1), &settlement(Outcome::Cut), &journal_header(&rig)));
    assert_eq!((event.route.as_str(), event.node.as_str()), ("orders", "node-a"));
    journal.shared.publish();
    let metrics = &rig.metrics;
    let counts = [&metrics.metering_admitted, &metrics.metering_settled, &metrics.metering_committed];
    assert_eq!(counts.map(prometheus_client::metrics::counter::Counter::get), [4, 4, 4]);
}

fn journal_header(rig: &Rig) -> super::super::header::Header {
    let segment = fs::File::open(&rig.files(".segment")[0]).unwrap();
    super::super::header::Header::read(&segment).unwrap()
}

#[tokio::test]
async fn a_segment_goes_only_after_its_last_entry_is_committed() {
    for (keep, kept) in [(Duration::ZERO, 0), (Duration::from_hours(1), 1)] {
        let rig = Rig::with(|config| config.keep = keep);
        let journal = rig.open();
        Rig::complete(&journal, 1..17);
        let last = {
            Rig::complete(&journal, 17..18);
            rig.files(".segment").len()
        };
        rig.store.away.store(true, Ordering::SeqCst);
        journal.shared.closing.cancel();
        rig.drain(&journal).await;
        assert_eq!((rig.files(".segment").len(), rig.committed().len()), (last, 0), "the store has nothing");
        rig.store.away.store(false, Ordering::SeqCst);
        rig.drain(&journal).await;
        assert_eq!((rig.files(".segment").len(), rig.committed().len()), (last - 1, kept));
        assert_eq!(rig.store.events().len(), 17);
        for path in rig.committed() {
            assert_eq!(fs::metadata(&path).unwrap().len(), 4096 + 16 * 256);
            rig.clock.advance(Duration::from_mins(59));
            rig.drain(&journal).await;
            assert!(path.exists());
            rig.clock.advance(Duration::from_mins(2));
            rig.drain(&journal).await;
            assert!(!path.exists(), "kept for an hour");
        }
    }
}

#[tokio::test]
async fn a_crash_after_the_commit_and_before_the_retirement_doubles_nothing() {
    let rig = Rig::with(|config| config.keep = Duration::from_hours(1));
    let journal = rig.open();
    Rig::complete(&journal, 1..10);
    rig.drain(&journal).await;
    // The segment is current: committed, and not retired.
    drop(journal);
    let next = rig.open();
    rig.recover(&next).await;
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 18, "sent again");
    assert_eq!(rig.store.events().len(), 9);
    assert_eq!((rig.folders().len(), rig.committed().len()), (1, 1));
}

#[tokio::test]
async fn a_damaged_half_in_a_segment_in_use_holds_up_nothing() {
    let rig = Rig::new();
    let journal = rig.open();
    Rig::complete(&journal, 1..18);
    let mut bytes = fs::read(&rig.files(".segment")[0]).unwrap();
    bytes[4096 + 3] ^= 1;
    bytes[4096 + 256 + SETTLEMENT_AT] ^= 1;
    fs::write(&rig.files(".segment")[0], bytes).unwrap();
    rig.drain(&journal).await;
    let outcomes = rig.store.outcomes();
    assert_eq!((outcomes.len(), rig.metrics.metering_damaged.get()), (16, 2));
    assert_eq!(outcomes.get(&admission(1).id), None);
    assert_eq!(outcomes[&admission(2).id], Outcome::Interrupted);
    assert!(!rig.files(".segment")[0].ends_with("00000001.segment"), "and it is retired");
}

#[tokio::test]
async fn batches_follow_one_another_until_nothing_is_left() {
    let rig = Rig::with(|config| (config.segment_bytes, config.max_bytes) = (2 << 20, 64 << 20));
    let journal = rig.open();
    let count = BATCH as u128 * 2 + 300;
    Rig::complete(&journal, 1..count + 1);
    rig.drain(&journal).await;
    assert_eq!(rig.store.sent.load(Ordering::SeqCst), 10_300);
    assert_eq!(rig.store.events().len(), 10_300);
}

#[tokio::test]
async fn counts_of_refusals_wait_for_the_store() {
    let rig = Rig::new();
    let journal = rig.open();
    let at = Timestamp::from_second(1_790_000_100).unwrap();
    journal.rejected().record(at, ClientId::NIL, ApiKeyId::NIL, 0, 429, "rate_limited");
    rig.store.away.store(true, Ordering::SeqCst);
    rig.drain(&journal).await;
    assert_eq!(rig.store.rejected(), []);
    journal.rejected().record(at, ClientId::NIL, ApiKeyId::NIL, 0, 429, "rate_limited");
    rig.store.away.store(false, Ordering::SeqCst);
    rig.drain(&journal).await;
    rig.drain(&journal).await;
    let rejected = rig.store.rejected();
    assert_eq!((rejected.len(), rejected[0].requests, rejected[0].route.as_str()), (1, 2, "orders"));
}

/// What quotas are told and what the ledger says agree at every moment that anybody can see: an
/// event that was charged here is counted once, whether it is open, settled or committed, and one
/// that a predecessor left is counted when the ledger is read.
#[tokio::test]
async fn quotas_count_each_event_once_whoever_committed_it() {
    use crate::clients::{Ledger, LiveClients};
    use crate::model::client::{Allowance, Client, ClientStatus};
    use crate::model::rate::RateLimit;

    let rig = Rig::new();
    let predecessor = rig.open();
    Rig::complete(&predecessor, 101..105);
    drop(predecessor);

    let at = admission(1).occurred_at;
    let clients = LiveClients::new(&rig.metrics);
    let client = Client {
        id: admission(1).client_id,
        name: "acme".into(),
        status: ClientStatus::Active,
        rate: None,
        burst: None,
        plan_id: None,
        allowance: Allowance { quota: Some("1000/day".parse().unwrap()), ..Allowance::default() },
        metadata: serde_json::json!({}),
        created_at: at,
        updated_at: at,
    };
    let default = RateLimit::new("1/s".parse().unwrap(), None);
    let live = clients.attach(&client, default, clients.mark(), Monotonic(1), at).client;
    let terms = live.terms();
    let counter = &terms.quotas[0].counter;
    let span = counter.span(at).unwrap();
    let ledger = Ledger::new(Arc::clone(&clients));
    let read = async || {
        let held = ledger.hold().await;
        let units: i64 = rig.store.events().iter().map(|event| i64::from(event.units)).sum();
        held.read(counter, &span, units);
        span.used()
    };

    let journal = rig.open();
    journal.report_to(Arc::clone(&ledger));
    for _ in 1..=6 {
        span.charge(3, Some(1_000)).unwrap();
    }
    let open = journal.meter(0).admit(&admission(1)).unwrap();
    Rig::complete(&journal, 2..7);
    assert_eq!(read().await, 18, "nothing is committed");
    rig.drain(&journal).await;
    assert_eq!((span.used(), read().await), (18, 18), "five are committed, one is open");
    rig.recover(&journal).await;
    assert_eq!((span.used(), read().await), (18, 30), "what the predecessor left is seen in the ledger");
    span.correct(4);
    open.settle(&Settlement { units: Some(7), ..settlement(Outcome::Complete) });
    assert_eq!(read().await, 34);
    rig.drain(&journal).await;
    assert_eq!((span.used(), read().await, rig.store.events().len()), (34, 34, 10));
}
