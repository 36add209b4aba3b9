//! What metering costs a request: both halves of a slot, and the sent mark between them.
//!
//! Segments are as large as by default and made before the clock starts, as `prepare` does in a
//! running gateway. Nothing drains: that is the control runtime's time, not the worker's.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use octroi::config::metering::{MeteringConfig, OnFull, SyncPolicy};
use octroi::metering::{Journal, Meter};
use octroi::model::clock::{Clock, SharedClock, SystemClock};
use octroi::model::id::{ApiKeyId, ClientId, EventId, RequestId, TokenId};
use octroi::model::usage::{Admission, CountedMethod, Outcome, Settlement};
use octroi::telemetry::metrics::Metrics;
use uuid::Uuid;

/// Entries metered with one journal: fewer than its first segment has slots.
const ENTRIES: u64 = 16_000;

fn open(dir: &Path, sync: SyncPolicy, clock: &SharedClock) -> Journal {
    let config = MeteringConfig {
        dir: dir.to_owned(),
        segment_bytes: 4 << 20,
        max_bytes: 4 << 30,
        on_full: OnFull::Refuse,
        sync,
        keep: Duration::ZERO,
        retention: None,
        drain_interval: Duration::from_secs(1),
        cost_header: None,
        cost_max: 1_000,
        stream_interval: None,
    };
    Journal::open(&config, "bench", &["orders".to_owned()], 1, Arc::clone(clock), Metrics::new(&[], &[]))
        .expect("the temporary folder has room for a segment")
}

fn admission() -> Admission {
    let id = EventId(Uuid::from_u128(0x0199_f7a2_7d4c_7bce_9d6b_1f6e_2a3b_4c5d));
    Admission {
        id,
        request_id: RequestId::from(id),
        client_id: ClientId(Uuid::from_u128(1)),
        api_key_id: ApiKeyId(Uuid::from_u128(2)),
        token_id: TokenId::NIL,
        occurred_at: Timestamp::from_second(1_790_000_000).expect("a time of this century"),
        route: 0,
        method: CountedMethod::Get,
        units: 1,
        kind: octroi::model::usage::EventKind::Request,
    }
}

fn settlement() -> Settlement {
    Settlement {
        status: Some(200),
        outcome: Outcome::Complete,
        reason: None,
        duration_us: 321,
        bytes_in: 0,
        bytes_out: 1024,
        units: None,
    }
}

fn meter_one(meter: &Meter, admission: &Admission, settlement: &Settlement) {
    let entry = meter.admit(black_box(admission)).expect("fewer entries than slots");
    entry.mark_sent();
    entry.settle(black_box(settlement));
}

/// The time that so many entries take, in journals made on the way and not counted.
fn measure(sync: SyncPolicy, entries: u64) -> Duration {
    let clock = SystemClock::shared();
    let (admission, settlement) = (admission(), settlement());
    let (mut left, mut took) = (entries, Duration::ZERO);
    while left > 0 {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let journal = open(dir.path(), sync, &clock);
        let meter = journal.meter(0);
        let round = left.min(ENTRIES);
        let began = clock.monotonic();
        for _ in 0..round {
            meter_one(&meter, &admission, &settlement);
        }
        took += clock.monotonic().since(began);
        left -= round;
    }
    took
}

fn metering(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metering");
    group.throughput(Throughput::Elements(1));
    let clock = SystemClock::new();
    group.bench_function("a monotonic time, for comparison", |bencher| bencher.iter(|| clock.monotonic()));
    for (name, sync) in [("never", SyncPolicy::Never), ("1s", SyncPolicy::Every(Duration::from_secs(1)))] {
        group.bench_function(format!("admit, mark, settle; sync {name}"), |bencher| {
            bencher.iter_custom(|entries| measure(sync, entries));
        });
    }
    group.finish();
}

criterion_group!(benches, metering);
criterion_main!(benches);
