//! Admin tokens: for machines, and for clients that manage their own keys.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::manage::check_name;
use super::sessions::later;
use super::{Known, NOTED_EVERY, OperatorFault, Operators, Seen, Unknown};
use crate::crypto::admin_text;
use crate::model::admin::{AdminToken, NewAdminToken, Reach};
use crate::model::key::KeyHash;
use crate::model::operator::{Actor, ActorKind};
use crate::model::secret::SecretText;
use crate::store::{Store, StoreError};

/// A token that was just made.
#[derive(Debug)]
pub struct MadeToken {
    /// Shown once.
    pub text: SecretText,
    /// Its row.
    pub token: AdminToken,
}

impl Operators {
    /// Who the text after `Bearer` is of. Its row is asked, at most once a second.
    ///
    /// # Errors
    /// Nobody.
    pub async fn authenticate_bearer(&self, text: &str, address: Option<IpAddr>) -> Result<Known, Unknown> {
        let hash = admin_text::hash_of(text).ok_or(Unknown::Text)?;
        let token = self.token(hash).await?.ok_or(Unknown::Text)?;
        let now = self.clock.wall();
        if token.revoked_at.is_some() {
            return Err(Unknown::Revoked);
        }
        if !token.is_live(now) {
            return Err(Unknown::Expired);
        }
        if token.last_used_at.is_none_or(|used| later(used, NOTED_EVERY) <= now)
            && self.note(token.id, now, self.store.admin_tokens.note_use(token.id, now)).await
        {
            self.tokens.invalidate(&hash);
        }
        let actor = Actor {
            kind: ActorKind::Token,
            id: token.id,
            name: token.name.clone(),
            role: token.role,
            clients: token.clients.clone(),
            address,
        };
        Ok(Known { actor: Arc::new(actor), session: None })
    }

    /// Revokes a token; none: there is no such token. `store` is in the hand of whoever asks
    /// ([`Self::store_for`]).
    ///
    /// # Errors
    /// The store's.
    pub async fn revoke_token(&self, store: &Store, id: Uuid) -> Result<Option<AdminToken>, StoreError> {
        let revoked = store.admin_tokens.revoke(id, self.clock.wall()).await;
        self.tokens.invalidate_all();
        revoked
    }

    async fn token(&self, hash: KeyHash) -> Result<Option<Arc<AdminToken>>, StoreError> {
        if let Some(seen) = self.tokens.get(&hash).filter(|seen| self.is_fresh(seen.at)) {
            return Ok(Some(seen.row));
        }
        let at = self.clock.monotonic();
        let Some(row) = self.store.admin_tokens.find_by_hash(&hash).await? else { return Ok(None) };
        let row = Arc::new(row);
        self.tokens.insert(hash, Seen { row: Arc::clone(&row), at });
        Ok(Some(row))
    }
}

/// Makes a token. `store` is in the hand of whoever asks; the command line has no [`Operators`].
///
/// # Errors
/// A name that is none; the store's.
pub async fn create_token(
    store: &Store,
    name: &str,
    reach: Reach,
    expires_at: Option<Timestamp>,
) -> Result<MadeToken, OperatorFault> {
    check_name(name)?;
    let made = admin_text::generate();
    let new = NewAdminToken { name: name.to_owned(), token_id: made.token_id, hash: made.hash, reach, expires_at };
    Ok(MadeToken { text: made.text, token: store.admin_tokens.create(new).await? })
}
