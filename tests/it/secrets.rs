//! No secret is written: whatever a test used as one is looked for in everything that the program
//! wrote, as it is and in base64.
//!
//! The harness notes every raw key that it makes, every secret variable that it sets and every
//! credential that a caller sends or is given. A process's two streams are searched when it is
//! dropped, a setup's folder (store, journal, whatever else lies there) when the setup is. What may be
//! found somewhere after all stands in [`EXPECTED`], with the reason.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::harness::{Gateway, Setup};
use crate::upstream::Upstream;

/// Files in which a secret is meant to be, by the end of their name. Everything else, above all
/// stores, journals and outboxes, has none. Raw keys in the legacy column `clients.api_key` are only
/// in databases that `backfill` and `adoption` make on PostgreSQL, which lie in no folder of a setup.
const EXPECTED: [(&str, &str); 3] = [
    ("/octroi-data/pepper", "quickstart makes the pepper and keeps it where `auth.pepper_file` says"),
    ("/octroi-data/jwt-secret", "quickstart makes the issuer's secret and keeps it where its setting says"),
    (".secret", "files by which tests hand secrets over"),
];

/// What is shorter is a word that tests send as a bad credential, and not a secret.
const SHORTEST: usize = 24;

/// Secrets by whom they are for; none: for any.
static KNOWN: OnceLock<Mutex<HashMap<Option<SocketAddr>, HashSet<String>>>> = OnceLock::new();

/// Notes a secret that only the program at this address may know.
pub(crate) fn note(address: Option<SocketAddr>, secret: &str) {
    let hidden = hidden_part(secret);
    if hidden.len() >= SHORTEST {
        let known = KNOWN.get_or_init(Mutex::default);
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(address).or_default().insert(hidden.to_owned());
    }
}

/// Notes credentials in the lines of a request's head.
pub(crate) fn note_lines(address: SocketAddr, lines: &[&str]) {
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if ["x-api-key", "authorization"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
            let value = value.trim();
            note(Some(address), value.split_once(' ').map_or(value, |(_, credential)| credential));
        }
    }
}

/// Notes the tokens in an answer.
pub(crate) fn note_answer(address: SocketAddr, body: &[u8]) {
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    for name in ["access_token", "refresh_token", "key", "token", "password"] {
        body[name].as_str().inspect(|secret| note(Some(address), secret));
    }
}

/// The public part of a key is told everywhere; the rest of it is not.
fn hidden_part(secret: &str) -> &str {
    let mark = ["_live_", "_test_"].iter().find_map(|mark| secret.find(mark).map(|at| at + mark.len()));
    let is_key = secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match mark {
        Some(start) if is_key && secret.len() > start + 12 => &secret[start + 12..],
        _ => secret,
    }
}

/// Secrets of these addresses and those for any, and how each can look.
pub(crate) struct Searched(HashMap<[u8; 4], Vec<(Vec<u8>, String)>>);

impl Searched {
    pub(crate) fn for_all_of(addresses: &[SocketAddr]) -> Self {
        let known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let mut searched = Self(HashMap::new());
        for owner in addresses.iter().copied().map(Some).chain([None]) {
            for secret in known.get(&owner).into_iter().flatten() {
                searched.add(secret);
            }
        }
        searched
    }

    fn add(&mut self, secret: &str) {
        let mut looks = vec![secret.as_bytes().to_vec()];
        // Where it begins within three bytes decides how base64 looks; both ends hang on neighbours.
        for before in 0..3 {
            let text = [&vec![0; before][..], secret.as_bytes()].concat();
            for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                looks.push(encoded.as_bytes()[2 * before..encoded.len() - 2].to_vec());
            }
        }
        for look in looks {
            let start = look[..4].try_into().unwrap();
            let known = self.0.entry(start).or_default();
            if known.iter().all(|(other, _)| *other != look) {
                known.push((look, secret.to_owned()));
            }
        }
    }

    /// The secrets in some bytes.
    pub(crate) fn find(&self, bytes: &[u8]) -> Vec<String> {
        // One look at a table for most bytes: segments of journals are large.
        let mut starts = vec![false; 1 << 16];
        self.0.keys().for_each(|start| starts[usize::from(u16::from_be_bytes([start[0], start[1]]))] = true);
        let mut found = Vec::new();
        for (at, window) in bytes.windows(4).enumerate() {
            if !starts[usize::from(u16::from_be_bytes([window[0], window[1]]))] {
                continue;
            }
            for (look, secret) in self.0.get(window).into_iter().flatten() {
                if bytes[at..].starts_with(look) && !found.contains(secret) {
                    found.push(secret.clone());
                }
            }
        }
        found
    }

    /// The secrets in the files of a folder, with where they stand.
    pub(crate) fn find_in_files(&self, folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() {
                found.extend(self.find_in_files(&path));
            } else if path.is_file() && EXPECTED.iter().all(|(end, _)| !name.ends_with(end)) {
                let secrets = self.find(&std::fs::read(&path).unwrap_or_default());
                found.extend(secrets.iter().map(|secret| format!("{name}: {secret}")));
            }
        }
        found
    }
}

#[test]
fn a_leak_would_be_found_in_streams_stores_and_journals() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite(upstream.address);
    let client = setup.client(&["acme"]);
    let raw = setup.key(&client, &[]).raw;
    assert_eq!(setup.leaks(), Vec::<String>::new());
    let encoded = STANDARD_NO_PAD.encode(format!("u:{raw}"));
    for planted in [raw.clone(), format!("..{}", &raw[raw.len() - 38..]), encoded, URL_SAFE_NO_PAD.encode(&raw)] {
        std::fs::create_dir_all(setup.path("journal/x")).unwrap();
        for file in ["journal/x/planted", "octroi.db-planted"] {
            std::fs::write(setup.path(file), [b"\0\xff".as_slice(), planted.as_bytes(), b"\0"].concat()).unwrap();
            assert_eq!(setup.leaks().len(), 1, "{planted} in {file}");
            std::fs::remove_file(setup.path(file)).unwrap();
        }
        for stream in ["", " >&2"] {
            let mut echo = std::process::Command::new("sh");
            echo.args(["-c", &format!("echo '{planted}'{stream}")]);
            let mut echo = Gateway::run(echo);
            echo.is_of(&[setup.data]);
            echo.wait_exit();
            assert_eq!(echo.take_leaks().len(), 1, "{planted}{stream}");
        }
    }
    // The public part of a key is no secret.
    std::fs::write(setup.path("public"), &raw[..raw.len() - 38]).unwrap();
    assert_eq!(setup.leaks(), Vec::<String>::new());
}
