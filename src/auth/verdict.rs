//! Whose a raw key is, and what a gateway would say to it now.
//!
//! The key is not repeated, wherever it turns out to be from. Nothing is written, not even what a
//! gateway would note. Routes, scopes, addresses and limits are decided for a request, not for a
//! key: here they are named.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::pepper_guard::PepperError;
use crate::crypto::key_text::{KeyText, MalformedKey};
use crate::crypto::pepper::{KeyHashes, Pepper, PepperOrigin, Peppers};
use crate::model::client::{Client, ClientStatus};
use crate::model::id::ClientId;
use crate::model::key::{ApiKey, CredentialRecord, HashKind, KeyDefect};
use crate::store::{Result as StoreResult, Store};

/// Why a key would be refused. A closed set, which scripts may branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = KeyRefusal)]
pub enum Reason {
    /// Its length or its characters are wrong.
    Malformed,
    /// It was mistyped or cut.
    BadCheckDigits,
    /// It is nobody's.
    Unknown,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
    /// It is good, and its client is suspended.
    ClientSuspended,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Why a gateway would refuse it; none: it would not.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub detail: String,
    /// Under which pepper its hash stands: `current`, `previous`, or `none` for an imported one.
    pub pepper: Option<&'static str>,
    /// The key; none: nobody's, or a client's own legacy hash.
    pub key: Option<ApiKey>,
    /// Whose it is.
    pub client: Option<Client>,
}

impl Verdict {
    /// Of a key that is nobody's.
    #[must_use]
    pub fn nobody(reason: Reason) -> Self {
        Self { reason: Some(reason), detail: sentence(reason).to_owned(), pepper: None, key: None, client: None }
    }

    /// Whether a gateway would let it in.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.reason.is_none()
    }
}

/// Who looks at keys, with what, and when.
#[derive(Clone, Copy)]
pub struct Examiner<'e> {
    /// `auth.prefix`
    pub prefix: &'e str,
    /// The live peppers.
    pub peppers: &'e Peppers,
    /// Now.
    pub now: Timestamp,
    /// The clients of whose keys it may know: others' are nobody's to it.
    pub sees: &'e (dyn Fn(ClientId) -> bool + Sync),
}

impl Examiner<'_> {
    /// What can be said without a store.
    #[must_use]
    pub fn unseen(&self, raw: &[u8]) -> Option<Verdict> {
        match KeyText::parse(self.prefix, raw) {
            Err(MalformedKey::Check) => Some(Verdict::nobody(Reason::BadCheckDigits)),
            Err(MalformedKey::Shape | MalformedKey::Legacy) => Some(Verdict::nobody(Reason::Malformed)),
            Ok(_) => None,
        }
    }

    /// All that can be said.
    ///
    /// # Errors
    /// The store has keys of another pepper only, or is away.
    pub async fn examine(&self, raw: &[u8], store: &Store) -> Result<Verdict, PepperError> {
        if let Some(verdict) = self.unseen(raw) {
            return Ok(verdict);
        }
        let hashes = self.peppers.hashes(self.peppers.current.hash(raw), raw);
        if let Some((record, origin)) = self.look_up(&hashes, store).await? {
            return Ok(self.judge(record, origin));
        }
        // With another pepper than the store's every key is unknown, and that is not the key's fault.
        let known = store.peppers.list().await?;
        let fingerprint = self.peppers.current.fingerprint();
        let previous = self.peppers.previous.as_ref().map(Pepper::fingerprint);
        let ours = |seen: &str| seen == fingerprint || previous.as_deref() == Some(seen);
        if !known.is_empty() && !known.iter().any(|record| ours(&record.fingerprint)) {
            return Err(PepperError::Mismatch);
        }
        Ok(Verdict::nobody(Reason::Unknown))
    }

    async fn look_up(
        &self,
        hashes: &KeyHashes,
        store: &Store,
    ) -> StoreResult<Option<(CredentialRecord, PepperOrigin)>> {
        let Some(record) = store.keys.find_by_hash(hashes.as_slice()).await? else { return Ok(None) };
        let origin = hashes.origin(record.matched);
        let found = origin.filter(|origin| counts(&record, *origin) && (self.sees)(record.client.id));
        Ok(found.map(|origin| (record, origin)))
    }

    /// In the order of a gateway: the key before its client.
    fn judge(&self, record: CredentialRecord, origin: PepperOrigin) -> Verdict {
        let reason = match (record.key.as_ref().and_then(|key| key.defect(self.now)), record.client.status) {
            (Some(KeyDefect::Revoked), _) => Some(Reason::Revoked),
            (Some(KeyDefect::Expired), _) => Some(Reason::Expired),
            (None, ClientStatus::Suspended) => Some(Reason::ClientSuspended),
            (None, ClientStatus::Active) => None,
        };
        let detail =
            reason.map_or_else(|| welcome(record.key.as_ref(), &record.client), |why| sentence(why).to_owned());
        let pepper = match origin {
            PepperOrigin::Current => "current",
            PepperOrigin::Previous => "previous",
            PepperOrigin::Unpeppered => "none",
        };
        Verdict { reason, detail, pepper: Some(pepper), key: record.key, client: Some(record.client) }
    }
}

/// As gateways see it: a plain hash is a credential only where an import left one.
fn counts(record: &CredentialRecord, origin: PepperOrigin) -> bool {
    let kind = record.key.as_ref().map_or(HashKind::Hmac, |key| key.hash_kind);
    (kind == HashKind::Sha256) == (origin == PepperOrigin::Unpeppered)
}

fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::Malformed => "this is no key's text: its length or its characters are wrong; a gateway answers 401",
        Reason::BadCheckDigits => "its check digits do not fit: it was mistyped or cut; a gateway answers 401",
        Reason::Unknown => "no key of this store; a gateway answers 401",
        Reason::Revoked => "the key is revoked; a gateway answers 401",
        Reason::Expired => "the key has expired; a gateway answers 401",
        Reason::ClientSuspended => "the key is good and its client suspended; a gateway answers 403",
    }
}

/// What a good key opens, and the conditions on it.
fn welcome(key: Option<&ApiKey>, client: &Client) -> String {
    let of = format!("a good key of the client {}", client.name);
    let Some(key) = key else { return of + ", its legacy hash: without scopes" };
    let scopes =
        if key.scopes.is_empty() { "without scopes".into() } else { format!("with the scopes {}", key.scopes) };
    let from = (!key.allowed_addresses.is_empty()).then(|| format!("only from {}", key.allowed_addresses));
    let until = key.expires_at.map(|until| format!("until {until}"));
    let parts: Vec<String> = [Some(of), Some(scopes), from, until].into_iter().flatten().collect();
    parts.join(", ")
}
