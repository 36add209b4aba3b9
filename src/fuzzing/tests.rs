//! Every target over its corpus and some thousand mutations of it, the same each time.
//!
//! The same bodies run under libFuzzer (`scripts/fuzz`), which finds more because it sees which
//! code an input reaches; its build takes minutes, and these take seconds.

use std::path::Path;

use super::mutation::Random;
use super::{TARGETS, Target};

/// Mutations of each target, in a debug build a few seconds of all targets together. `OCTROI_FUZZ_RUNS` sets
/// another number.
const RUNS: usize = 40_000;

/// Shows the input that a target broke at.
struct Shown<'d>(&'d str, &'d [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} broke at b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    // The order of a folder is the machine's.
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn run((name, check): Target, share: usize) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let one = |data: &[u8]| {
        let _shown = Shown(name, data);
        check(data);
    };
    for data in &corpus {
        one(data);
    }
    let runs = crate::config::test_setting("OCTROI_FUZZ_RUNS").and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let mut random = Random(name.len() as u64);
    for _ in 0..runs / share {
        let mut data = corpus[random.below(corpus.len())].clone();
        random.mutate(&mut data, &corpus);
        one(&data);
    }
}

macro_rules! targets {
    ($($test:ident: $name:literal, one in $share:literal;)*) => {
        const TESTED: &[&str] = &[$($name),*];

        $(#[test]
        fn $test() {
            run(TARGETS.into_iter().find(|(name, _)| *name == $name).unwrap(), $share);
        })*
    };
}

targets! {
    an_upstreams_head_is_read_the_same_however_it_comes: "answer_head", one in 1;
    a_body_in_chunks_is_read_the_same_however_it_comes: "chunks", one in 1;
    any_text_is_a_configuration_or_problems: "config", one in 8;
    nothing_crosses_that_is_not_for_the_upstream: "headers", one in 1;
    damage_to_a_journal_invents_no_event: "journal", one in 8;
    nothing_verifies_but_what_was_signed: "jwt", one in 4;
    a_key_is_read_in_one_way: "key_text", one in 1;
    no_reading_of_a_path_is_another_place: "path_route", one in 1;
    a_proxys_word_is_read_the_same_however_it_comes: "proxy_protocol", one in 1;
    hyper_reads_a_plain_head_alike: "request_head", one in 1;
    a_frame_ends_where_its_header_says: "websocket", one in 1;
}

#[test]
fn every_target_has_its_test_and_its_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for (name, _) in TARGETS {
        assert!(TESTED.contains(&name), "{name} has no test");
        assert!(programs.join(format!("{name}.rs")).exists(), "{name} has no program");
    }
}
