//! Keys that come, go and do not come, on a clock that is moved by hand.

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::super::testing::{Signer, key_set};
use super::*;
use crate::config::token_issuer::TokenTypes;
use crate::model::clock::ManualClock;
use crate::tasks::Tasks;

/// A second less than [`UNKNOWN_PAUSE`].
const ALMOST: Duration = Duration::from_secs(29);

struct Bench {
    folder: TempDir,
    clock: Arc<ManualClock>,
    source: Arc<KeySource>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let config = TokenIssuerConfig {
            issuer: "issuer".to_owned(),
            audiences: vec![],
            algorithms: TokenAlgorithm::PUBLIC.to_vec(),
            keys: KeyLocation::File(folder.path().join("keys.json")),
            client_claim: "azp".to_owned(),
            scopes_claim: "scope".to_owned(),
            leeway: Duration::ZERO,
            max_lifetime: Duration::from_hours(1),
            types: TokenTypes { named: vec![], absent: true },
        };
        let source = KeySource::new(&config, Arc::clone(&clock) as SharedClock).unwrap();
        Self { folder, clock, source }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys.json")
    }

    fn publish(&self, id: &str) {
        std::fs::write(self.file(), key_set(&[&Signer::new(id, "EdDSA")])).unwrap();
    }

    async fn knows(&self, id: &str) -> bool {
        let held = self.source.keys().await.unwrap();
        held.set.find(Some(id), TokenAlgorithm::EdDSA).is_ok()
    }

    fn attempts(&self) -> u64 {
        *self.source.attempts.borrow()
    }

    /// The task that keeps the set fresh; its first attempt has ended.
    async fn running(&self) {
        let mut attempts = self.source.attempts.subscribe();
        Tasks::spawn_here(Arc::clone(&self.source).run(Metrics::new(&[], &[]), CancellationToken::new()));
        attempts.wait_for(|ended| *ended > 0).await.unwrap();
    }
}

/// What may stand where a key set should; none: no file.
fn nonsense() -> [(&'static str, Option<String>); 6] {
    [
        ("garbage", Some("<html>".to_owned())),
        ("half a set", Some("{\"keys\":[{\"kty\":".to_owned())),
        ("no usable key", Some("{\"keys\":[]}".to_owned())),
        ("nothing", Some(String::new())),
        ("too much", Some(" ".repeat(SET_MAX + 1))),
        ("no file", None),
    ]
}

#[tokio::test]
async fn what_is_no_set_never_replaces_one() {
    let bench = Bench::new();
    bench.publish("first");
    bench.source.attempt().await;
    assert!(!bench.source.is_away());
    for (what, text) in nonsense() {
        match text {
            Some(text) => std::fs::write(bench.file(), text).unwrap(),
            None => std::fs::remove_file(bench.file()).unwrap(),
        }
        bench.source.attempt().await;
        assert!(bench.knows("first").await, "{what}");
        assert!(bench.source.is_away(), "{what}");
        assert_eq!(bench.source.generation(), 1, "{what}");
    }
    bench.publish("second");
    bench.source.attempt().await;
    assert!(bench.knows("second").await && !bench.knows("first").await);
    assert!(!bench.source.is_away());
    assert_eq!(bench.source.generation(), 2);
    bench.source.attempt().await;
    assert_eq!(bench.source.generation(), 2, "the same set is no change");
}

#[tokio::test]
async fn a_set_that_nobody_confirms_serves_for_a_day() {
    let bench = Bench::new();
    bench.publish("first");
    bench.source.attempt().await;
    std::fs::rename(bench.file(), bench.folder.path().join("away")).unwrap();
    bench.clock.advance(SET_AGE_MAX);
    bench.source.attempt().await;
    assert!(bench.source.keys().await.is_ok());
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.source.keys().await.unwrap_err(), NoKeys);
    std::fs::rename(bench.folder.path().join("away"), bench.file()).unwrap();
    bench.source.attempt().await;
    assert!(bench.knows("first").await);
}

#[tokio::test]
async fn without_a_first_set_there_is_none_to_judge_by() {
    let bench = Bench::new();
    // Whoever comes while the first attempt is under way waits for it.
    let (keys, _) = tokio::join!(bench.source.keys(), bench.source.attempt());
    assert_eq!(keys.unwrap_err(), NoKeys);
    assert_eq!(bench.source.keys().await.unwrap_err(), NoKeys, "and nobody waits when none is");
    assert!(bench.source.is_away());

    let bench = Bench::new();
    bench.publish("first");
    let (keys, _) = tokio::join!(bench.source.keys(), bench.source.attempt());
    assert!(keys.is_ok());
}

#[tokio::test]
async fn a_thousand_unknown_keys_are_one_look_and_then_none_for_half_a_minute() {
    let bench = Bench::new();
    bench.publish("first");
    bench.running().await;
    bench.publish("second");
    for (what, pause, looks) in [
        ("the first may", Duration::ZERO, 1),
        ("the next not at once", Duration::ZERO, 0),
        ("nor a little later", ALMOST, 0),
        ("but then", Duration::from_secs(1), 1),
    ] {
        bench.clock.advance(pause);
        let before = bench.attempts();
        let mut crowd = JoinSet::new();
        for _ in 0..1_000 {
            let source = Arc::clone(&bench.source);
            crowd.spawn(async move { source.look_again().await });
        }
        let waited = crowd.join_all().await.into_iter().filter(|waited| *waited).count();
        assert_eq!(bench.attempts() - before, looks, "{what}");
        assert!(waited as u64 <= 1_000 * looks && (looks == 0 || waited > 0), "{what}: {waited}");
        assert!(bench.knows("second").await, "{what}");
    }
}

#[tokio::test]
async fn an_issuer_that_just_failed_is_left_alone() {
    let bench = Bench::new();
    bench.publish("first");
    bench.running().await;
    std::fs::remove_file(bench.file()).unwrap();
    assert!(bench.source.look_again().await);
    bench.clock.advance(ALMOST);
    assert!(!bench.source.look_again().await);
    assert_eq!(bench.attempts(), 2);
    assert!(bench.knows("first").await);
}
