//! What a known caller costs in memory: 100,000 clients, each with a key, and each key used once.
//!
//! Counted is what this program allocates and keeps, each piece as large as the system's allocator
//! makes it: the principal, its headers, the live client with its limiter, and their places in the
//! caches. What SQLite keeps of its file is its own, bounded, and not counted.
//!
//! `cargo bench --bench memory`; sizes are the same without optimisation, and built sooner:
//! `cargo test --bench memory`

mod gate;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::iter::repeat_n;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use octroi::model::access::Scopes;
use octroi::model::id::ClientId;

use crate::gate::Bench;

/// As many as the cache of identities holds.
const CLIENTS: usize = 100_000;

/// What a cached principal may take: what it takes, rounded up to where a look is due. 32 bytes of it
/// are the hash by which a long stream finds the newest that is known of its key.
const TARGET: usize = 1_152;

/// Bytes that are allocated and not freed.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// What glibc takes for a piece: a word of its own, and whole sixteens.
fn chunk(layout: Layout) -> usize {
    (layout.size() + size_of::<usize>()).next_multiple_of(16).max(32)
}

#[expect(unsafe_code, reason = "an allocator cannot be had otherwise")]
// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(chunk(layout), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        LIVE.fetch_sub(chunk(layout), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(piece, layout) }
    }
}

/// As many clients, named as customers are; by SQL, for it takes a second and not minutes.
fn clients(bench: &Bench) -> Vec<ClientId> {
    let file = rusqlite::Connection::open(bench.folder.path().join("bench.db")).expect("the store is a file");
    file.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO clients (name, rate) SELECT 'Customer Number ' || i, '100/s' FROM n",
        [i64::try_from(CLIENTS).expect("small")],
    )
    .expect("clients are made");
    let mut query = file.prepare("SELECT id FROM clients WHERE name LIKE 'Customer%'").expect("it is SQL");
    let ids = query.query_map([], |row| row.get::<_, String>(0)).expect("it runs");
    ids.map(|id| id.expect("a row").parse().expect("an id")).collect()
}

/// Bytes that each of these clients takes when its key is known.
fn each(scopes: &Scopes) -> usize {
    let bench = Bench::new();
    let requests = bench.keys(clients(&bench).into_iter(), scopes);
    let gate = bench.gate(bench.no_issuers());
    // What the store and the runtimes take once, they take now.
    let warm = bench.keys(repeat_n(bench.client, 1_000), scopes);
    let ask = |requests: &[HeaderMap]| {
        bench.runtime.block_on(async {
            for headers in requests {
                let principal = black_box(bench.call(&gate, headers).await);
                // As the proxy does: what is made for the first copy stays.
                drop(black_box(principal.headers.clone()));
            }
        });
    };
    ask(&warm);
    let before = LIVE.load(Ordering::Relaxed);
    ask(&requests);
    (LIVE.load(Ordering::Relaxed) - before) / CLIENTS
}

fn main() {
    let plain = each(&Scopes::default());
    let scoped = each(&Scopes::new(["orders:read".to_owned()]).expect("a scope"));
    println!("{CLIENTS} clients with a key each, all known, bytes for each: {plain}, with a scope {scoped}");
    assert!(plain <= TARGET, "a known key takes more than {TARGET}");
}
