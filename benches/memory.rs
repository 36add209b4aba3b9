//! What a known caller costs in memory: 100,000 clients, each with a key, and each key used once.
//!
//! Counted is the process's anonymous memory (`RssAnon`), so with everything the allocator takes
//! beside what was asked for: the principal, its headers, the live client with its limiter, and their
//! places in the caches. Prints bytes for each principal.
//!
//! `cargo bench --bench memory`

mod gate;

use std::hint::black_box;

use octroi::model::id::ClientId;

use crate::gate::Bench;

/// As many as the cache of identities holds.
const CLIENTS: u32 = 100_000;

/// DESIGN: what a cached principal may take.
const TARGET: u64 = 1_024;

/// Memory of this process that no file backs.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says so");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1_024
}

/// As many clients, named as customers are; by SQL, for it takes a second and not minutes.
fn clients(bench: &Bench) -> Vec<ClientId> {
    let file = rusqlite::Connection::open(bench.folder.path().join("bench.db")).expect("the store is a file");
    file.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO clients (name, rate) SELECT 'Customer Number ' || i, '100/s' FROM n",
        [CLIENTS],
    )
    .expect("clients are made");
    let mut query = file.prepare("SELECT id FROM clients WHERE name LIKE 'Customer%'").expect("it is SQL");
    let ids = query.query_map([], |row| row.get::<_, String>(0)).expect("it runs");
    ids.map(|id| id.expect("a row").parse().expect("an id")).collect()
}

fn main() {
    let bench = Bench::new();
    let owners = clients(&bench);
    let requests = bench.keys(owners.into_iter());
    let gate = bench.gate(bench.no_issuers());
    // What the store and the runtimes take once, they take now.
    let warm = bench.keys(std::iter::repeat_n(bench.client, 1_000));
    for headers in &warm {
        black_box(bench.runtime.block_on(bench.call(&gate, headers)));
    }
    let before = anonymous_bytes();
    bench.runtime.block_on(async {
        for headers in &requests {
            black_box(bench.call(&gate, headers).await);
        }
    });
    let each = (anonymous_bytes() - before) / u64::from(CLIENTS);
    println!("{CLIENTS} clients, one key each, all known: {each} bytes a principal (target: {TARGET})");
    assert!(each <= TARGET, "a principal takes more than it may");
}
