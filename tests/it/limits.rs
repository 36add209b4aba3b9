//! Rate limits: what is allowed, what is said about it, and that the books show both.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::callers::fetch;
use crate::harness::Setup;
use crate::upstream::Upstream;

#[test]
fn a_burst_over_the_limit_is_refused_with_the_time_to_wait() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme", "--rate", "1/m", "--burst", "3"]);
    let key = setup.key(&client, &[]);
    let gateway = setup.start();
    let ask = || fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]);
    for remaining in [2, 1, 0] {
        let answer = ask();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some(r#""client";q=3;w=180"#));
        let state = answer.header("ratelimit").unwrap();
        assert!(state.starts_with(&format!(r#""client";r={remaining};t="#)), "{state}");
    }
    let refused = ask();
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((55..=60).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").unwrap().starts_with(r#""client";r=0;t="#));
    assert_eq!(gateway.stop(), 0);
    let total = &setup.usage("outcome")["total"];
    assert_eq!((&total["requests"], &total["rejected"]), (&3.into(), &1.into()));
}

#[test]
fn clients_without_limits_share_the_default_s_numbers_and_not_its_budget() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, "[limits.default]\nrate = \"1/h\"\nburst = 2\n");
    let keys: Vec<_> = ["one", "two"].iter().map(|name| setup.key(&setup.client(&[name]), &[])).collect();
    let _gateway = setup.start();
    for key in &keys {
        let statuses: Vec<u16> =
            (0..3).map(|_| fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status).collect();
        assert_eq!(statuses, [200, 200, 429]);
    }
}

#[test]
fn concurrent_callers_never_get_more_than_the_burst() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme", "--rate", "1/h", "--burst", "20"]);
    let key = setup.key(&client, &[]);
    let _gateway = setup.start();
    let admitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..5 {
                    if fetch(setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status == 200 {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 20);
    assert_eq!(upstream.seen().len(), 20);
}
