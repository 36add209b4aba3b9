//! What the feed of changes reports.

use uuid::Uuid;

use crate::model::id::{ApiKeyId, ClientId};

/// Something that may contradict what a process remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A client's status, limits or legacy hash changed, or it was removed.
    Client(ClientId),
    /// A key was added, changed or removed.
    Key {
        /// Whose key.
        client: ClientId,
        /// Which. Nil when it is the client's own legacy hash, which has no row in `api_keys`.
        key: ApiKeyId,
        /// Whether a hash became known that was not before: negative answers are void.
        added: bool,
    },
    /// Anything may have changed: a bulk job ran, or the feed cannot say.
    All,
}

/// How many rows one poll reports singly; above, dropping everything is cheaper than a list.
pub(super) const MOST_CHANGES: u16 = 1_000;

/// Adds what a row of `changes` says to `found`.
///
/// Never fails: a row this version cannot read (a newer kind, an id that is missing) is read as
/// widely as possible. An error would be met again at every poll, and stop the feed for good.
pub(super) fn push_row(found: &mut Vec<Change>, kind: &str, client: Option<Uuid>, key: Option<Uuid>) {
    let (client, key) = (client.map(ClientId), key.map(ApiKeyId));
    match (kind, client, key) {
        ("client", Some(client), _) => found.push(Change::Client(client)),
        ("client_hash", Some(client), _) => {
            found.push(Change::Client(client));
            found.push(Change::Key { client, key: ApiKeyId::NIL, added: true });
        }
        ("key", Some(client), Some(key)) => found.push(Change::Key { client, key, added: false }),
        ("key_added", Some(client), Some(key)) => found.push(Change::Key { client, key, added: true }),
        _ => found.push(Change::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_and_whatever_cannot_be_read_means_all() {
        let (client, key) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let of_key = |key, added| Change::Key { client: ClientId(client), key, added };
        for (kind, key, expected) in [
            ("client", None, vec![Change::Client(ClientId(client))]),
            ("client_hash", None, vec![Change::Client(ClientId(client)), of_key(ApiKeyId::NIL, true)]),
            ("key", Some(key), vec![of_key(ApiKeyId(key), false)]),
            ("key_added", Some(key), vec![of_key(ApiKeyId(key), true)]),
            ("all", None, vec![Change::All]),
            ("key", None, vec![Change::All]),
            ("from a newer version", Some(key), vec![Change::All]),
        ] {
            let mut found = Vec::new();
            push_row(&mut found, kind, Some(client), key);
            assert_eq!(found, expected, "{kind}");
        }
    }
}
