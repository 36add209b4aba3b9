//! From a row to a key, or the reason why not.
//!
//! Rows are judged as they come, so that a raw key is held no longer than its row; what needs the
//! store (clients, keys that are there) is asked once for all of them.

use std::collections::HashMap;

use jiff::Timestamp;

use super::Problem;
use super::read::Row;
use crate::crypto::key_text::{KeyText, MalformedKey};
use crate::crypto::pepper::{Peppers, sha256};
use crate::model::access::Scopes;
use crate::model::client::{NAME_RULE, is_legal_name};
use crate::model::id::ClientId;
use crate::model::key::{HashKind, ImportedKey, KeyHash};
use crate::model::secret::SecretText;
use crate::store::{self, Store};

/// What raw keys are hashed with.
pub enum Hasher {
    /// The rows come from a file.
    FileHasNoKeys,
    /// There is no pepper.
    NoPepper,
    /// They are hashed.
    Ready {
        /// The live peppers.
        peppers: Box<Peppers>,
        /// The current one's number.
        version: i32,
    },
}

/// A key whose client is not known yet.
struct Candidate {
    line: u64,
    client: String,
    /// Under what else the store may have it.
    others: Vec<KeyHash>,
    key: ImportedKey,
}

/// Takes rows, and tells at the end what they come to.
pub struct Checker {
    hasher: Hasher,
    prefix: String,
    candidates: Vec<Candidate>,
    problems: Vec<Problem>,
    /// The line of each hash, under every hash that a key has.
    seen: HashMap<KeyHash, u64>,
    /// No more rows are taken.
    full: bool,
}

/// A key's hash as a row gives it.
struct Hashed {
    hash: KeyHash,
    kind: HashKind,
    others: Vec<KeyHash>,
    key_id: Option<String>,
    pepper_version: Option<i32>,
}

impl Hashed {
    fn of(hash: KeyHash, kind: HashKind) -> Self {
        Self { hash, kind, others: Vec::new(), key_id: None, pepper_version: None }
    }
}

impl Checker {
    /// One that has taken none. `prefix` is `auth.prefix`: what claims it must keep our rules.
    #[must_use]
    pub fn new(hasher: Hasher, prefix: String) -> Self {
        Self { hasher, prefix, candidates: Vec::new(), problems: Vec::new(), seen: HashMap::new(), full: false }
    }

    /// Judges a row as far as it can be without the store.
    pub fn take(&mut self, row: Row) {
        let line = row.line;
        if self.candidates.len() == ROWS_MAX {
            if !std::mem::replace(&mut self.full, true) {
                self.refuse(line, TOO_MANY);
            }
            return;
        }
        match self.candidate(row) {
            Ok(candidate) => self.candidates.push(candidate),
            Err(reason) => self.refuse(line, reason),
        }
    }

    /// What is wrong so far.
    #[cfg(test)]
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn refuse(&mut self, line: u64, reason: impl Into<String>) {
        self.problems.push(Problem { line, reason: reason.into() });
    }

    fn candidate(&mut self, row: Row) -> Result<Candidate, String> {
        let hashed = self.hashed(row.api_key_hash.as_deref(), row.sha256.as_deref(), row.key)?;
        let client = row.client.ok_or("`client` is missing: the id or name of one")?;
        let client = client.parse::<ClientId>().map_or(client, |id| id.to_string());
        let name = row.name.unwrap_or_else(|| NAME.to_owned());
        if !is_legal_name(&name) {
            return Err(format!("`name`: {NAME_RULE}"));
        }
        let scopes = Scopes::new(row.scopes);
        let scopes = scopes.map_err(|_| "`scopes`: one of them is no scope: visible ASCII without quote, backslash")?;
        let (expires_at, created_at) =
            (time("expires_at", row.expires_at.as_deref())?, time("created_at", row.created_at.as_deref())?);
        let all = || std::iter::once(&hashed.hash).chain(&hashed.others);
        if let Some(earlier) = all().find_map(|hash| self.seen.get(hash)) {
            return Err(format!("the same key as in line {earlier}"));
        }
        for hash in all() {
            self.seen.insert(*hash, row.line);
        }
        let key = ImportedKey {
            client_id: ClientId::NIL,
            name,
            key_id: hashed.key_id,
            hash: hashed.hash,
            hash_kind: hashed.kind,
            pepper_version: hashed.pepper_version,
            scopes,
            expires_at,
            created_at,
        };
        Ok(Candidate { line: row.line, client, others: hashed.others, key })
    }

    fn hashed(&self, hmac: Option<&str>, plain: Option<&str>, raw: Option<SecretText>) -> Result<Hashed, String> {
        match (hmac, plain, raw) {
            (Some(hmac), None, None) => Ok(Hashed::of(digest("api_key_hash", hmac)?, HashKind::Hmac)),
            (None, Some(plain), None) => Ok(Hashed::of(digest("sha256", plain)?, HashKind::Sha256)),
            (None, None, Some(raw)) => self.hashed_key(raw.expose()),
            (None, None, None) => Err("there is no key: one of `api_key_hash`, `sha256`, `key`".into()),
            _ => Err(SEVERAL.into()),
        }
    }

    fn hashed_key(&self, raw: &str) -> Result<Hashed, String> {
        let (peppers, version) = match &self.hasher {
            Hasher::FileHasNoKeys => return Err(ONLY_STDIN.into()),
            Hasher::NoPepper => return Err("a raw key needs the pepper: set API_KEY_PEPPER".into()),
            Hasher::Ready { peppers, version } => (peppers, version),
        };
        let key_id = match KeyText::parse(&self.prefix, raw.as_bytes()) {
            Ok(KeyText::Ours { key_id }) => Some(key_id.to_owned()),
            Ok(KeyText::Legacy) => None,
            Err(MalformedKey::Check) => return Err("`key`: its check digits do not fit".into()),
            Err(MalformedKey::Shape) => return Err("`key`: it starts like one of ours and has another shape".into()),
            Err(MalformedKey::Legacy) => return Err("`key`: write 8 to 256 visible ASCII characters".into()),
        };
        let hash = peppers.current.hash(raw.as_bytes());
        let previous = peppers.previous.as_ref().map(|pepper| pepper.hash(raw.as_bytes()));
        let others = previous.into_iter().chain([sha256(raw.as_bytes())]).collect();
        Ok(Hashed { hash, kind: HashKind::Hmac, others, key_id, pepper_version: Some(*version) })
    }

    /// The keys with their clients, and everything that is wrong. Keys are complete only when
    /// nothing is.
    pub(super) async fn finish(mut self, store: &Store) -> store::Result<(Vec<ImportedKey>, Vec<Problem>)> {
        self.refuse_known(store).await?;
        let clients = clients(store, &self.candidates).await?;
        let mut keys = Vec::with_capacity(self.candidates.len());
        for mut candidate in std::mem::take(&mut self.candidates) {
            match clients.get(&candidate.client).copied().unwrap_or(Named::Nobody) {
                Named::One(id) => {
                    candidate.key.client_id = id;
                    keys.push(candidate.key);
                }
                // The value is not repeated: where columns were mixed up it is a key.
                Named::Nobody => self.refuse(candidate.line, "`client`: there is none of this id or name"),
                Named::Several => {
                    self.refuse(candidate.line, "`client`: several bear this name; name it by its id");
                }
            }
        }
        Ok((keys, self.problems))
    }

    async fn refuse_known(&mut self, store: &Store) -> store::Result<()> {
        let mut known = Vec::new();
        let hashes: Vec<KeyHash> = self
            .candidates
            .iter()
            .flat_map(|candidate| std::iter::once(candidate.key.hash).chain(candidate.others.iter().copied()))
            .collect();
        for some in hashes.chunks(CHUNK) {
            known.extend(store.keys.known_hashes(some).await?);
        }
        for hash in known {
            if let Some(line) = self.seen.get(&hash).copied() {
                self.refuse(line, "the store has this key already");
            }
        }
        self.problems.sort_by_key(|problem| problem.line);
        self.problems.dedup();
        Ok(())
    }
}

/// What is wrong with a row that brings a raw key where none is read, for who must not even send it.
#[must_use]
pub fn misplaced_key(row: &Row) -> Option<Problem> {
    row.key.as_ref()?;
    let brings_more = row.api_key_hash.is_some() || row.sha256.is_some();
    let reason = if brings_more { SEVERAL } else { ONLY_STDIN };
    Some(Problem { line: row.line, reason: reason.to_owned() })
}

/// Whom a name or an id means.
#[derive(Clone, Copy, Debug)]
enum Named {
    Nobody,
    One(ClientId),
    Several,
}

/// The clients that rows name. A few are asked for one by one; for many the list is read once.
async fn clients(store: &Store, candidates: &[Candidate]) -> store::Result<HashMap<String, Named>> {
    let mut named: HashMap<String, Named> =
        candidates.iter().map(|candidate| (candidate.client.clone(), Named::Nobody)).collect();
    if named.len() <= ONE_BY_ONE {
        for (text, found) in &mut named {
            *found = client(store, text).await?;
        }
        return Ok(named);
    }
    let mut after = None;
    loop {
        let page = store.clients.list(after, PAGE).await?;
        for client in &page.items {
            // An id decides, whatever else is named so.
            if let Some(found) = named.get_mut(&client.id.to_string()) {
                *found = Named::One(client.id);
            }
            if let Some(found) = named.get_mut(&client.name)
                && client.name.parse::<ClientId>().is_err()
            {
                *found = if matches!(found, Named::Nobody) { Named::One(client.id) } else { Named::Several };
            }
            after = Some(client.id);
        }
        if !page.more || page.items.is_empty() {
            return Ok(named);
        }
    }
}

async fn client(store: &Store, text: &str) -> store::Result<Named> {
    if let Ok(id) = text.parse::<ClientId>() {
        return Ok(store.clients.find(id).await?.map_or(Named::Nobody, |client| Named::One(client.id)));
    }
    Ok(match store.clients.find_by_name(text).await?.as_slice() {
        [] => Named::Nobody,
        [client] => Named::One(client.id),
        _ => Named::Several,
    })
}

fn digest(column: &str, text: &str) -> Result<KeyHash, String> {
    // A look-up asks in lower case; whoever exported the hashes need not have known.
    KeyHash::from_hex(text).ok_or_else(|| format!("`{column}`: write 64 hex digits"))
}

fn time(column: &str, text: Option<&str>) -> Result<Option<Timestamp>, String> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|_| format!("`{column}`: write a time of RFC 3339, like 2026-11-22T20:00:00Z"))
}

const SEVERAL: &str = "more than one of `api_key_hash`, `sha256`, `key`";
const ONLY_STDIN: &str = "raw keys are read from stdin only: octroi key import - --format csv";

/// What a key is called that brings no name.
const NAME: &str = "imported";

/// So many rows at a time: they are one transaction, and stand in memory.
const ROWS_MAX: usize = 1_000_000;
const TOO_MANY: &str = "more than 1000000 rows: import them in parts; the rest was not checked";

/// Hashes asked for in one query.
const CHUNK: usize = 5_000;

/// Up to so many clients are looked up each by itself.
const ONE_BY_ONE: usize = 200;
const PAGE: u32 = 1_000;
