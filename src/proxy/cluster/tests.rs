use std::time::Duration;

use super::*;
use crate::config::upstream::Endpoint;
use crate::proxy::upstream::tests::settings;

const SECOND: u64 = 1_000_000_000;

fn cluster(count: usize, change: impl FnOnce(&mut UpstreamConfig)) -> Arc<Cluster> {
    let mut config = settings(&[]);
    config.endpoints = (0..count).map(|number| Endpoint::parse(&format!("http://10.0.0.{number}")).unwrap()).collect();
    config.ejection = EjectionConfig {
        consecutive_failures: 3,
        base_time: Duration::from_secs(30),
        max_share: 50,
        return_time: Duration::from_secs(10),
    };
    change(&mut config);
    Cluster::new(&config, &Metrics::new(&[], &[]))
}

fn at(seconds: u64) -> Ask {
    Ask { tried: Tried::default(), turn: 0, key: 0, now: Monotonic(seconds * SECOND) }
}

fn chosen(cluster: &Arc<Cluster>, ask: &Ask) -> Option<usize> {
    match cluster.choose(ask) {
        Choice::Endpoint(endpoint, _) => Some(endpoint),
        Choice::Full | Choice::None => None,
    }
}

/// How often each was chosen in `asked` turns from `seconds` on.
fn shares(cluster: &Arc<Cluster>, asked: usize, seconds: u64) -> Vec<usize> {
    let mut shares = vec![0; cluster.endpoints.len()];
    for turn in 0..asked {
        shares[chosen(cluster, &Ask { turn, ..at(seconds) }).unwrap()] += 1;
    }
    shares
}

#[test]
fn round_robin_is_even_and_passes_over_what_was_tried() {
    let cluster = cluster(4, |_| {});
    assert_eq!(shares(&cluster, 400, 1), [100; 4]);
    let mut ask = at(1);
    let mut order = Vec::new();
    while let Some(next) = chosen(&cluster, &ask) {
        order.push(next);
        ask.tried.add(next);
    }
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2, 3], "each once, then none");
}

#[test]
fn the_same_client_gets_the_same_endpoint_and_only_those_of_a_lost_one_move() {
    let cluster = cluster(5, |config| config.balance = Balance::Hash);
    let all =
        |now| (0..1000).map(|key| chosen(&cluster, &Ask { key, turn: 7, ..at(now) }).unwrap()).collect::<Vec<_>>();
    let before = all(1);
    assert_eq!(before, all(2));
    (0..5).for_each(|endpoint| assert!(before.iter().filter(|chosen| **chosen == endpoint).count() > 120));
    cluster.checked(2, false);
    for (before, after) in before.into_iter().zip(all(3)) {
        assert!(before == after || (before == 2 && after != 2));
    }
}

#[test]
fn open_requests_decide_where_they_are_asked_for() {
    for balance in [Balance::LeastRequests, Balance::PowerOfTwo] {
        let cluster = cluster(3, |config| config.balance = balance);
        let mut held: Vec<Place> = Vec::new();
        for turn in 0..300 {
            let Choice::Endpoint(_, place) = cluster.choose(&Ask { turn, ..at(1) }) else { panic!("all are free") };
            held.extend(place);
        }
        let open: Vec<usize> = cluster.endpoints.iter().map(|standing| standing.open.load(Relaxed)).collect();
        assert!(open.iter().all(|open| (95..=105).contains(open)), "{balance:?}: {open:?}");
        drop(held);
        assert!(cluster.endpoints.iter().all(|standing| standing.open.load(Relaxed) == 0));
    }
}

#[test]
fn who_fails_is_ejected_for_longer_each_time_and_comes_back_bit_by_bit() {
    let cluster = cluster(2, |_| {});
    let fail = |seconds| (0..3).for_each(|_| cluster.failed(0, Monotonic(seconds * SECOND)));
    cluster.failed(0, Monotonic(SECOND));
    cluster.failed(0, Monotonic(SECOND));
    cluster.succeeded(0);
    cluster.failed(0, Monotonic(SECOND));
    assert_eq!(shares(&cluster, 100, 1), [50, 50], "not in a row");
    fail(2);
    assert_eq!(shares(&cluster, 100, 31), [0, 100]);
    let back = shares(&cluster, 1000, 33)[0];
    assert!((20..150).contains(&back), "at once a tenth of its half: {back}");
    let later = shares(&cluster, 1000, 38)[0];
    assert!((180..330).contains(&later), "after half of the time half of it: {later}");
    // Before it is all the way back: twice as long.
    fail(40);
    assert_eq!(shares(&cluster, 100, 99), [0, 100]);
    assert!(shares(&cluster, 100, 101)[0] > 0);
    assert_eq!(shares(&cluster, 1000, 200), [500, 500]);
    cluster.succeeded(0);
    fail(300);
    assert_eq!(shares(&cluster, 100, 329), [0, 100]);
    assert!(shares(&cluster, 100, 331)[0] > 0, "a first time again");
}

#[test]
fn never_more_than_the_share_is_ejected_and_never_the_last() {
    let cluster = cluster(4, |_| {});
    for endpoint in 0..4 {
        (0..9).for_each(|_| cluster.failed(endpoint, Monotonic(SECOND)));
    }
    assert_eq!(shares(&cluster, 100, 2).iter().filter(|share| **share > 0).count(), 2);
    let alone = self::cluster(1, |config| config.ejection.max_share = 100);
    (0..9).for_each(|_| alone.failed(0, Monotonic(SECOND)));
    assert_eq!(chosen(&alone, &at(2)), Some(0));
    let pair = self::cluster(2, |config| config.ejection.max_share = 100);
    (0..9).for_each(|_| pair.failed(0, Monotonic(SECOND)));
    (0..9).for_each(|_| pair.failed(1, Monotonic(SECOND)));
    assert_eq!(shares(&pair, 10, 2), [0, 10]);
}

#[test]
fn what_checks_say_holds_for_all_and_none_is_none() {
    let cluster = cluster(2, |_| {});
    cluster.checked(0, false);
    assert_eq!(shares(&cluster, 10, 1), [0, 10]);
    cluster.checked(1, false);
    assert!(matches!(cluster.choose(&at(1)), Choice::None));
    cluster.checked(0, true);
    assert_eq!(shares(&cluster, 10, 1), [10, 0]);
    let alone = self::cluster(1, |_| {});
    alone.checked(0, false);
    assert!(matches!(alone.choose(&at(1)), Choice::None));
}

#[tokio::test]
async fn who_finds_all_full_waits_in_a_queue_that_has_an_end() {
    let limits = EndpointLimits { requests: Some(2), pending: 1 };
    let cluster = cluster(2, |config| config.limits = limits);
    let take = || match cluster.choose(&at(1)) {
        Choice::Endpoint(_, place) => place,
        Choice::Full | Choice::None => None,
    };
    let held: Vec<_> = (0..4).map(|_| take().unwrap()).collect();
    assert!(matches!(cluster.choose(&at(1)), Choice::Full));
    let first = cluster.wait().expect("the queue takes one");
    assert!(cluster.wait().is_none());
    drop(held);
    first.freed().await;
    assert!(take().is_some());
    drop(first);
    assert!(cluster.wait().is_some());
}
