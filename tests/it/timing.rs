//! What the time until a refusal tells: not whether the key ever was one.
//!
//! Kinds of keys that open nothing are asked for in turn, each round in another order, on one
//! connection to the real gateway. Whatever else the machine does falls on all kinds alike, so that
//! ranks can be compared: by chance a kind differs from another by [`SIGNIFICANT`] standard
//! deviations less than once in ten million runs. The same statistic must see a kind that *is*
//! answered in another way, in the same run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use octroi::crypto::key_text::{Environment, check_digits, generate};

use crate::callers::{connect, fetch, parse};
use crate::harness::{Setup, eventually};
use crate::upstream::Upstream;

/// Standard deviations that chance does not reach.
const SIGNIFICANT: f64 = 5.5;

/// How far apart two samples lie: the Mann-Whitney U, in standard deviations from what it would be
/// if both were drawn from the same. Ties count half.
fn distance(left: &[Duration], right: &[Duration]) -> f64 {
    let mut all: Vec<(Duration, bool)> =
        left.iter().map(|time| (*time, true)).chain(right.iter().map(|time| (*time, false))).collect();
    all.sort_by_key(|(time, _)| *time);
    let mut rank_sum = 0.0;
    let mut ties = 0.0;
    for group in all.chunk_by(|one, other| one.0 == other.0) {
        let before = all.partition_point(|(time, _)| *time < group[0].0);
        let (before, size) = (float(before), float(group.len()));
        rank_sum += (before + size.midpoint(1.0)) * float(group.iter().filter(|(_, is_left)| *is_left).count());
        ties += size * size * size - size;
    }
    let (n, m) = (float(left.len()), float(right.len()));
    let total = n + m;
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let deviation = (n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)))).sqrt();
    (u - n * m / 2.0) / deviation
}

fn float(count: usize) -> f64 {
    u32::try_from(count).unwrap().into()
}

/// A sequence without a pattern, the same in each run.
fn shuffled(seed: &mut u64, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, usize::try_from(*seed >> 33).unwrap() % (last + 1));
    }
    order
}

#[test]
fn the_statistic_sees_a_delay_and_only_a_delay() {
    let mut seed = 7;
    // As skewed as answers are: most fast, few slow.
    let mut sample = || -> Vec<Duration> {
        shuffled(&mut seed, 400).iter().map(|place| Duration::from_nanos(80_000 + (place * place) as u64)).collect()
    };
    let (one, other) = (sample(), sample());
    assert!(distance(&one, &other).abs() < 0.1, "the same times in another order");
    assert!(distance(&one[..200], &one[200..]).abs() < SIGNIFICANT);
    let delayed: Vec<Duration> = other.iter().map(|time| *time + Duration::from_micros(40)).collect();
    let seen = distance(&delayed, &one);
    assert!(seen > SIGNIFICANT, "{seen}");
    assert!((distance(&one, &delayed) + seen).abs() < 1e-6);
    // Every value the same: no way to tell.
    assert!(distance(&[Duration::ZERO; 9], &[Duration::ZERO, Duration::MAX, Duration::ZERO]).abs() < 2.0);
}

/// Asks on a connection that stays; the status, and the time until the answer was whole.
fn timed(stream: &mut TcpStream, key: &str) -> (u16, Duration) {
    let request = format!("GET / HTTP/1.1\r\nHost: octroi\r\nX-API-Key: {key}\r\n\r\n");
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    let began = Instant::now();
    stream.write_all(request.as_bytes()).unwrap();
    loop {
        let read = stream.read(&mut buffer[filled..]).unwrap();
        assert!(read > 0, "the connection was closed");
        filled += read;
        let took = began.elapsed();
        if let Some(answer) = parse(&buffer[..filled], false) {
            return (answer.status, took);
        }
    }
}

/// The public id of a key of ours with another secret, its check digits right.
fn with_another_secret(key: &str) -> String {
    let other = generate("octroi", Environment::Live);
    let secret = &other.text.expose()[other.key_id.len()..other.key_id.len() + 32];
    let covered = format!("{}{secret}", &key[..key.len() - 38]);
    let check = check_digits(covered.as_bytes());
    covered + std::str::from_utf8(&check).unwrap()
}

fn fresh(count: usize) -> Vec<String> {
    (0..count).map(|_| generate("octroi", Environment::Live).text.expose().to_owned()).collect()
}

fn hmac_hex(raw: &str) -> String {
    let secret = octroi::model::secret::SecretBytes::new(crate::harness::PEPPER.as_bytes().to_vec());
    octroi::crypto::pepper::Pepper::new(&secret).hash(raw.as_bytes()).to_hex()
}

/// Keys by how they came not to work; as many of each kind.
struct Graveyard {
    kinds: BTreeMap<&'static str, Vec<String>>,
}

/// Stores keys and ends them in every way: before the gateway saw them, and while it knew them.
fn bury(setup: &Setup, count: usize) -> Graveyard {
    let client = setup.client(&["acme", "--rate", "1000000/s", "--burst", "1000000"]);
    let mut kinds = BTreeMap::new();
    let mut rows = "client,api_key_hash\n".to_owned();
    for kind in ["revoked", "revoked while known", "expired", "expired while known", "good"] {
        let keys = fresh(count);
        for key in &keys {
            let _ = writeln!(rows, "{client},{}", hmac_hex(key));
        }
        kinds.insert(kind, keys);
    }
    std::fs::write(setup.path("keys.csv"), rows).unwrap();
    setup.json(&["key", "import", "keys.csv"]);
    let wrong = kinds["good"].iter().map(|key| with_another_secret(key)).collect();
    kinds.insert("wrong secret", wrong);
    kinds.insert("unknown", fresh(count));
    kinds.insert("unknown again", fresh(count));
    let mistyped = fresh(count).into_iter().map(|key| key[..61].to_owned() + "0");
    kinds.insert(
        "mistyped",
        mistyped.map(|key| if key.ends_with("00") { key.replace("00", "01") } else { key }).collect(),
    );
    Graveyard { kinds }
}

impl Graveyard {
    /// Ends the keys of a kind by SQL.
    fn end(&self, setup: &Setup, kind: &str, how: &str) {
        let mut file = rusqlite::Connection::open(setup.path("octroi.db")).unwrap();
        file.busy_timeout(Duration::from_secs(5)).unwrap();
        let all = file.transaction().unwrap();
        for key in &self.kinds[kind] {
            let sql = format!("UPDATE api_keys SET {how} WHERE api_key_hash = ?1");
            assert_eq!(all.execute(&sql, [hmac_hex(key)]).unwrap(), 1);
        }
        all.commit().unwrap();
    }

    /// Asks for every key of the kinds once, in rounds of one each; the times of each kind.
    fn ask(&self, setup: &Setup, kinds: &[&'static str]) -> BTreeMap<&'static str, Vec<Duration>> {
        let mut stream = connect(setup.data);
        let mut times: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
        let mut seed = 11;
        for round in 0..self.kinds[kinds[0]].len() {
            for place in shuffled(&mut seed, kinds.len()) {
                let kind = kinds[place];
                let (status, took) = timed(&mut stream, &self.kinds[kind][round]);
                assert_eq!(status, 401, "{kind}");
                times.entry(kind).or_default().push(took);
            }
        }
        times
    }
}

const ALIKE: [&str; 6] =
    ["wrong secret", "revoked", "revoked while known", "expired", "expired while known", "unknown again"];

/// Prints how far every kind lies from unknown keys, and fails if one can be told from them.
fn look_alike(what: &str, times: &BTreeMap<&'static str, Vec<Duration>>) {
    let median = |kind: &str| {
        let mut sorted = times[kind].clone();
        sorted.sort();
        sorted[sorted.len() / 2]
    };
    println!("{what}: unknown keys in {:?}", median("unknown"));
    let mut told_apart = Vec::new();
    for kind in ALIKE {
        let far = distance(&times[kind], &times["unknown"]);
        println!("  {kind:20} {:>9.1?}, {far:+.2} standard deviations", median(kind));
        if far.abs() > SIGNIFICANT {
            told_apart.push((kind, far));
        }
    }
    assert!(told_apart.is_empty(), "{what}: told from unknown keys: {told_apart:?}");
}

/// `count` keys of each kind.
fn dead_keys_cannot_be_told_from_unknown_ones(count: usize) {
    let upstream = Upstream::start_counting();
    let budget = "[auth.failures]\nrate = \"1000000/s\"\nburst = 1000000\n";
    let setup = Setup::sqlite_with(upstream.address, budget);
    let graveyard = bury(&setup, count);
    graveyard.end(&setup, "revoked", "revoked_at = CURRENT_TIMESTAMP");
    graveyard.end(&setup, "expired", "expires_at = '2020-01-01T00:00:00.000000Z'");
    let soon = jiff::Timestamp::now() + Duration::from_secs(4 + count as u64 / 200);
    graveyard.end(&setup, "expired while known", &format!("expires_at = '{soon:.6}'"));
    let _gateway = setup.start();
    let status = |raw: &str| fetch(setup.data, "/", &[&format!("X-API-Key: {raw}")]).status;
    let mut stream = connect(setup.data);
    for kind in ["revoked while known", "expired while known", "good"] {
        for key in &graveyard.kinds[kind] {
            assert_eq!(timed(&mut stream, key).0, 200, "{kind}");
        }
    }
    graveyard.end(&setup, "revoked while known", "revoked_at = CURRENT_TIMESTAMP");
    let last = |kind: &str| graveyard.kinds[kind].last().unwrap();
    eventually("the revocation is known", || status(last("revoked while known")) == 401);
    eventually("their time is over", || status(last("expired while known")) == 401);

    let all: Vec<&'static str> = ALIKE.into_iter().chain(["unknown", "mistyped"]).collect();
    look_alike("the first time", &graveyard.ask(&setup, &all));
    std::thread::sleep(Duration::from_secs(2));
    let later = graveyard.ask(&setup, &all);
    look_alike("looked up again", &later);
    // What never reaches the store is told at once, and the statistic sees it.
    let seen = distance(&later["unknown"], &later["mistyped"]);
    assert!(seen > SIGNIFICANT, "the statistic is blind: {seen}");
    // At once again: as many keys as are asked twice within two seconds.
    let mut times: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    let mut seed = 13;
    for round in 0..count {
        // A connection is closed after so many requests; its first answer is not timed.
        stream = connect(setup.data);
        for place in shuffled(&mut seed, all.len()) {
            let key = &graveyard.kinds[all[place]][round];
            timed(&mut stream, key);
            for _ in 0..3 {
                times.entry(all[place]).or_default().push(timed(&mut stream, key).1);
            }
        }
    }
    look_alike("at once again", &times);
}

#[test]
fn dead_keys_cannot_be_told_from_unknown_ones_by_time() {
    dead_keys_cannot_be_told_from_unknown_ones(120);
}

/// `cargo test --test it -- --ignored --nocapture timing`
#[test]
#[ignore = "takes minutes; prints figures"]
fn dead_keys_cannot_be_told_from_unknown_ones_by_much_time() {
    dead_keys_cannot_be_told_from_unknown_ones(1_000);
}
