use super::super::Peer;
use super::*;
use crate::model::usage::CutReason;

const TIMEOUTS: TimeoutConfig = TimeoutConfig {
    tls_handshake: Duration::from_secs(1),
    request_head: Duration::from_secs(10),
    body_idle: Duration::from_secs(30),
    write_idle: Duration::from_secs(30),
    keep_alive: Duration::from_secs(75),
};

/// How often long exchanges are reminded.
const EACH: Option<Duration> = Some(Duration::from_mins(5));

fn watched() -> (Arc<Sweeper>, Arc<Watch>) {
    let sweeper = Sweeper::new();
    let watch = Watch::new("[::ffff:192.0.2.1]:5".parse().unwrap(), Arc::clone(sweeper.clock()), TIMEOUTS);
    sweeper.add(&watch);
    (sweeper, watch)
}

/// Moves the coarse time and looks.
fn after(sweeper: &Sweeper, seconds: u64) {
    sweeper.clock.millis.fetch_add(seconds * 1_000, Relaxed);
    sweeper.sweep(EACH, |_| true);
}

#[test]
fn an_idle_connection_comes_to_rest_and_that_prolongs_nothing() {
    let (sweeper, watch) = watched();
    watch.enter(Phase::Idle);
    after(&sweeper, 0);
    assert_eq!(watch.phase(), Phase::Idle);
    after(&sweeper, 1);
    assert_eq!(watch.phase(), Phase::Resting);
    after(&sweeper, 74);
    assert_eq!(watch.verdict(), Verdict::None);
    after(&sweeper, 1);
    assert_eq!(watch.verdict(), Verdict::Close);
    let (sweeper, watch) = watched();
    watch.enter(Phase::Idle);
    after(&sweeper, 1);
    watch.received();
    assert_eq!(watch.phase(), Phase::Head, "what comes is the next head");
}

#[test]
fn each_phase_has_its_deadline() {
    type Act = fn(&Watch);
    let enter: [(&str, Act, u64, Verdict); 5] = [
        ("nothing came", |_| {}, 10, Verdict::Close),
        ("half a head", Watch::received, 10, Verdict::HeadTimeout),
        ("idle", |watch| watch.enter(Phase::Idle), 75, Verdict::Close),
        ("not reading", Watch::write_blocked, 30, Verdict::Stalled),
        ("lingering", |watch| watch.enter(Phase::Linger), 5, Verdict::Close),
    ];
    for (what, act, limit, verdict) in enter {
        let (sweeper, watch) = watched();
        if what == "not reading" {
            watch.request_began();
        }
        act(&watch);
        after(&sweeper, limit);
        assert_eq!(watch.verdict(), Verdict::None, "{what}, just in time");
        after(&sweeper, 1);
        assert_eq!(watch.verdict(), verdict, "{what}");
    }
}

#[test]
fn a_request_may_take_as_long_as_it_moves() {
    let (sweeper, watch) = watched();
    watch.received();
    watch.request_began();
    let peer = Peer::new(Arc::clone(&watch));
    after(&sweeper, 1_000);
    assert_eq!((watch.verdict(), peer.cut_reason(), watch.body_late()), (Verdict::None, None, false));
    watch.body_wanted(Waker::noop());
    after(&sweeper, 31);
    assert!(watch.body_late(), "a body that is waited for may not stand still");

    watch.response_ended();
    watch.flushed();
    assert_eq!(watch.phase(), Phase::Idle);
    watch.received();
    assert_eq!(watch.phase(), Phase::Head);
}

#[test]
fn a_handler_s_deadline_is_never_early() {
    let (sweeper, watch) = watched();
    let peer = Peer::new(Arc::clone(&watch));
    watch.request_began();
    peer.arm(Duration::from_secs(2));
    after(&sweeper, 2);
    assert!(!peer.is_late());
    after(&sweeper, 1);
    assert!(peer.is_late());
    peer.disarm();
    assert!(!peer.is_late());
}

#[test]
fn a_long_exchange_is_reminded_each_interval_from_its_beginning() {
    let (sweeper, watch) = watched();
    let peer = Peer::new(Arc::clone(&watch));
    let woken = |seconds| {
        after(&sweeper, seconds);
        peer.take_reminder()
    };
    watch.enter(Phase::Idle);
    after(&sweeper, 70);
    watch.request_began();
    // (seconds more, whether that is an interval)
    for (seconds, reminded) in [(1, false), (299, false), (1, true), (1, false), (299, false), (1, true), (301, true)] {
        assert_eq!(woken(seconds), reminded, "after {seconds} s more");
    }
    after(&sweeper, 301);
    watch.response_ended();
    watch.flushed();
    watch.request_began();
    assert!(!peer.take_reminder(), "that was another exchange's");
    assert!(!woken(300) && woken(1));
}

#[test]
fn a_cut_says_why_and_a_gone_connection_is_forgotten() {
    let (sweeper, watch) = watched();
    let peer = Peer::new(Arc::clone(&watch));
    assert_eq!(peer.address().to_string(), "192.0.2.1");
    assert_eq!(peer.address_value(), "192.0.2.1");
    sweeper.drain();
    assert!(watch.draining() && peer.cut_reason().is_none());
    sweeper.cut();
    assert_eq!(peer.cut_reason(), Some(CutReason::Shutdown));
    drop((watch, peer));
    sweeper.sweep(EACH, |_| true);
    assert!(sweeper.watches.lock().unwrap().is_empty());
}
