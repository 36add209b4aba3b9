//! What a request pays for being seen: its metrics, and the look whether anybody watches.
//!
//! Metrics cannot be turned off, so that what they cost is measured here, beside what a request costs as a
//! whole (`benches/peers/run`); the access log has a switch and is measured there (`--access-log`).

#![allow(missing_docs, reason = "a benchmark's main function is made by a macro")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use octroi::model::usage::Outcome;
use octroi::telemetry::metrics::Metrics;
use octroi::telemetry::snapshot::Snapshot;
use octroi::telemetry::tail::Tail;

fn telemetry(criterion: &mut Criterion) {
    let routes: Vec<String> = (0..20).map(|number| format!("route {number}")).collect();
    let metrics = Metrics::new(&routes, &["up".to_owned()]);
    let (admitted, _) = metrics.limit_counters("default");
    criterion.bench_function("metrics of one request", |bencher| {
        bencher.iter(|| {
            metrics.requests_in_flight.inc();
            metrics.auth_passed();
            metrics.auth_cache_hit.inc();
            admitted.inc();
            metrics.metering_admitted.inc();
            metrics.upstream_answered(0, black_box(Duration::from_micros(300)));
            metrics.metering_settled.inc();
            metrics.request_ended(black_box(Some(7)), Outcome::Complete, Some(200), Duration::from_micros(350));
            metrics.requests_in_flight.dec();
        });
    });
    let tail = Tail::new();
    criterion
        .bench_function("the look whether anybody watches", |bencher| bencher.iter(|| black_box(&tail).is_watched()));
    criterion.bench_function("a snapshot for the overview", |bencher| {
        bencher.iter(|| Snapshot::read(&metrics.encode().expect("text")));
    });
}

criterion_group!(benches, telemetry);
criterion_main!(benches);
