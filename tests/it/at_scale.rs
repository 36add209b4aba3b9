//! A whole adoption at the size that was promised: 100,000 raw keys become hashes and change their
//! pepper on two nodes, while callers go on at a steady rate. Nobody is refused. Takes minutes, so
//! it runs on demand and prints its figures:
//!
//! `cargo test --release --test it -- --ignored --nocapture at_scale`

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::backfill::older;
use crate::callers::{Crowd, ask};
use crate::database::TestDatabase;
use crate::harness::{Key, PEPPER, Setup, eventually, text};
use crate::rotation::{NEXT, counted, restart, set_peppers};
use crate::upstream::Upstream;

const KEYS: u32 = 100_000;

/// Nobody uses these until the end.
const DORMANT: u32 = 10_000;

/// A cached key is read again, and so asks again to be moved, not only half a minute later.
const READ_OFTEN: &str = "[auth]\ncache_ttl = \"5s\"\n";

/// How often every key is used after the change.
const PASSES_MAX: usize = 20;

/// Callers that walk, on each node.
const WALKERS: usize = 4;

/// Callers that ask with the old application's keys, one after the other.
struct Walk {
    next: Arc<AtomicU32>,
    refused: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Walk {
    /// Over the keys numbered so, on all these addresses.
    fn over(addresses: &[SocketAddr], first: u32, last: u32) -> Self {
        let (next, refused) = (Arc::new(AtomicU32::new(first)), Arc::new(AtomicUsize::new(0)));
        let threads = addresses
            .repeat(WALKERS)
            .iter()
            .map(|address| {
                let (address, next, refused) = (*address, Arc::clone(&next), Arc::clone(&refused));
                std::thread::spawn(move || {
                    let mut stream = None;
                    let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
                    for number in numbers.take_while(|number| *number <= last) {
                        let asked = Instant::now();
                        let status = insist(address, &mut stream, &format!("raw-key-of-{number}"));
                        if status != 200 {
                            refused.fetch_add(1, Ordering::Relaxed);
                            println!("raw-key-of-{number} got {status} after {:.1?} from {address}", asked.elapsed());
                        }
                    }
                })
            })
            .collect();
        Self { next, refused, threads }
    }

    fn reached(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    /// Waits for its end; how many were refused.
    fn end(self) -> usize {
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.refused.load(Ordering::Relaxed)
    }
}

/// Asks until somebody answers: a node that restarts closes its connections and its socket.
fn insist(address: SocketAddr, stream: &mut Option<TcpStream>, key: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: octroi\r\nX-API-Key: {key}\r\n\r\n");
    loop {
        let open = stream.take().or_else(|| TcpStream::connect(address).ok());
        if let Some(mut open) = open
            && let Some(status) = ask(&mut open, request.as_bytes())
        {
            *stream = Some(open);
            return status;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Uses keys until all have moved: those that came too early, or more at once than are queued, move
/// when they are used again, as they would be in any hour. How many were refused.
fn used_until_moved(addresses: &[SocketAddr], first: u32, last: u32, left: impl Fn() -> i64) -> usize {
    let mut refused = 0;
    for pass in 1..=PASSES_MAX {
        refused += Walk::over(addresses, first, last).end();
        println!("left after pass {pass}: {}", left());
        if left() == 0 {
            return refused;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    panic!("{} keys that are used do not move", left());
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = act();
    println!("{what}: {:.1?}", began.elapsed());
    done
}

#[test]
#[ignore = "takes minutes; prints figures"]
fn a_hundred_thousand_keys_are_adopted_and_change_their_pepper_and_nobody_is_refused() {
    let upstream = Upstream::start_counting();
    let database = TestDatabase::create();
    older(&database, KEYS);
    let mut setups = [(); 2].map(|()| Setup::new(upstream.address, &database.url(), READ_OFTEN));
    let left = |database: &TestDatabase| -> i64 {
        database.query("SELECT count(*) FROM api_keys WHERE pepper_version = 1")[0].get(0)
    };
    let client = setups[0].client(&["busy", "--rate", "1000000/s", "--burst", "1000000"]);
    let busy: Vec<Key> = (0..4).map(|_| setups[0].key(&client, &[])).collect();
    let mut gateways = [setups[0].start(), setups[1].start()];
    let crowds: Vec<Crowd> = setups
        .iter()
        .flat_map(|setup| busy.iter().map(|key| Crowd::start(setup.data, 1, "/", &key.raw, Duration::from_millis(10))))
        .collect();
    let addresses = [setups[0].data, setups[1].data];

    let run = timed("backfill run", || setups[0].json(&["backfill", "run"]));
    assert_eq!((&run["new"], &run["remaining"]), (&KEYS.into(), &0.into()));
    let differences = timed("backfill verify", || setups[0].json(&["backfill", "verify"]));
    assert_eq!(differences["items"], serde_json::json!([]));
    let finished = timed("backfill finish", || setups[0].json(&["backfill", "finish"]));
    assert_eq!(finished["forgotten"], KEYS);

    // The walk begins under the old pepper and goes on through both restarts of both nodes.
    let walk = Walk::over(&addresses, 1, KEYS - DORMANT);
    eventually("the walk is under way", || walk.reached() > 1_000);
    set_peppers(&mut setups, PEPPER, NEXT);
    gateways = timed("both know both peppers (two restarts)", || restart(&setups, gateways));
    set_peppers(&mut setups, NEXT, PEPPER);
    let reached = walk.reached();
    gateways = timed("the new one is current (two restarts)", || restart(&setups, gateways));
    println!("keys used before anything moved: {reached}, of which {} are left", left(&database));
    let mut refused = timed("the walk over the other keys", || walk.end());
    refused += timed("used again until all have moved", || {
        used_until_moved(&addresses, 1, KEYS - DORMANT, || left(&database) - i64::from(DORMANT))
    });
    println!("left under the old pepper: {} (dormant)", left(&database));

    let rehash = setups[0].octroi(&["pepper", "rehash"]);
    assert_eq!(rehash.status.code(), Some(1));
    set_peppers(&mut setups, NEXT, "");
    let too_early = setups[0].octroi(&["serve"]);
    assert_eq!(too_early.status.code(), Some(78));
    assert!(text(&too_early.stderr).contains("10000 keys"), "{}", text(&too_early.stderr));
    refused += timed("the dormant keys are used", || {
        used_until_moved(&addresses, KEYS - DORMANT + 1, KEYS, || left(&database))
    });
    gateways = timed("without the old pepper (two restarts)", || restart(&setups, gateways));
    let moved = counted(&setups[0]);
    assert_eq!(moved, (vec![(1, 0, false), (2, i64::from(KEYS) + 4, true)], 0));
    timed("all keys once more", || refused += Walk::over(&addresses, 1, KEYS).end());

    let mut answered = 0;
    for crowd in crowds {
        let tally = crowd.stop();
        refused += tally.other_than(200);
        answered += tally.count();
    }
    let walked = 2 * (KEYS - DORMANT) + DORMANT + KEYS;
    println!(
        "requests: {} steady, {walked} with adopted keys; refused: {refused}; left: {}",
        answered,
        left(&database)
    );
    assert_eq!(refused, 0);
    for gateway in gateways {
        assert!(!gateway.log().contains("raw-key-of"));
        assert_eq!(gateway.stop(), 0);
    }
}
