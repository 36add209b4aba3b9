//! A store in memory that can be held, sent away and broken, and an authenticator over it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use crate::model::client::{Client, ClientChange, NewClient};
use crate::model::id::{ApiKeyId, ClientId, TokenId};
use crate::model::issued::{NewRefreshToken, NewToken, RefreshRecord, TokenRecord};
use crate::model::key::{ApiKey, CredentialRecord, ImportedKey, KeyChange, KeyHash, NewApiKey, NotRotated, Rotation};
use crate::store::changes::Change;
use crate::store::rotation::{HashCounts, HashMove, MoveTarget, Moved, NodeRecord, RotationStore};
use crate::store::tokens::TokenStore;
use crate::store::{ChangeReader, ChangeStore, ClientStore, KeyStore, Page, Result, StoreError};

/// The store.
pub(super) struct Double {
    pub(super) rows: Mutex<HashMap<KeyHash, CredentialRecord>>,
    pub(super) tokens: Mutex<Vec<TokenRecord>>,
    feed: Mutex<Vec<Change>>,
    /// Rows are read at once, and handed out when this is false.
    held: watch::Sender<bool>,
    /// How often a row was looked up.
    looked_up: watch::Sender<usize>,
    pub(super) away: AtomicBool,
    pub(super) panics: AtomicBool,
    /// Called while a row is on its way.
    pub(super) meanwhile: Mutex<Option<Box<dyn Fn() + Send>>>,
    pub(super) noted_versions: Mutex<Vec<(ApiKeyId, i32)>>,
    pub(super) noted_clients: Mutex<Vec<(ClientId, i32)>>,
    pub(super) moved: Mutex<Vec<HashMove>>,
    /// Whether a live process does not know the current pepper.
    pub(super) blocked: AtomicBool,
    pub(super) pruned: Mutex<Vec<Timestamp>>,
}

impl Double {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            tokens: Mutex::default(),
            feed: Mutex::default(),
            held: watch::Sender::new(false),
            looked_up: watch::Sender::new(0),
            away: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            meanwhile: Mutex::default(),
            noted_versions: Mutex::default(),
            noted_clients: Mutex::default(),
            moved: Mutex::default(),
            blocked: AtomicBool::new(false),
            pruned: Mutex::default(),
        })
    }

    pub(super) fn look_ups(&self) -> usize {
        *self.looked_up.borrow()
    }

    /// Resolves when that many look-ups have begun.
    pub(super) async fn looked_up(&self, count: usize) {
        self.looked_up.subscribe().wait_for(|begun| *begun >= count).await.unwrap();
    }

    pub(super) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(super) fn tell(&self, change: Change) {
        self.feed.lock().unwrap().push(change);
    }

    fn clients(&self) -> Vec<Client> {
        self.rows.lock().unwrap().values().map(|record| record.client.clone()).collect()
    }

    /// What was read is on its way.
    async fn hand_out(&self) -> Result<()> {
        self.looked_up.send_modify(|count| *count += 1);
        assert!(!self.panics.load(Ordering::SeqCst), "on purpose");
        if let Some(meanwhile) = &*self.meanwhile.lock().unwrap() {
            meanwhile();
        }
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        self.reach("a look-up")
    }

    fn reach(&self, operation: &'static str) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { operation, source: "on purpose".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl KeyStore for Double {
    async fn find_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<CredentialRecord>> {
        let row = {
            let rows = self.rows.lock().unwrap();
            hashes.iter().find_map(|hash| rows.get(hash).cloned())
        };
        self.hand_out().await?;
        Ok(row)
    }

    async fn note_pepper_version(&self, id: ApiKeyId, version: i32) -> Result<()> {
        self.noted_versions.lock().unwrap().push((id, version));
        Ok(())
    }

    async fn known_hashes(&self, _: &[KeyHash]) -> Result<Vec<KeyHash>> {
        unimplemented!("authentication imports nothing")
    }

    async fn import(&self, _: Vec<ImportedKey>) -> Result<u64> {
        unimplemented!("authentication imports nothing")
    }

    async fn create(&self, _: NewApiKey) -> Result<ApiKey> {
        unimplemented!("authentication creates no keys")
    }

    async fn find(&self, _: ApiKeyId) -> Result<Option<ApiKey>> {
        unimplemented!("authentication knows hashes only")
    }

    async fn find_by_key_id(&self, _: &str) -> Result<Option<ApiKey>> {
        unimplemented!("authentication knows hashes only")
    }

    async fn list(&self, _: Option<ClientId>, _: Option<ApiKeyId>, _: u32) -> Result<Page<ApiKey>> {
        unimplemented!("authentication lists nothing")
    }

    async fn working(&self, _: ClientId, _: Timestamp, _: u32) -> Result<Page<ApiKey>> {
        unimplemented!("authentication lists nothing")
    }

    async fn revoke(&self, _: ApiKeyId, _: Timestamp) -> Result<Option<ApiKey>> {
        unimplemented!("authentication revokes nothing")
    }

    async fn update(&self, _: ApiKeyId, _: KeyChange) -> Result<Option<ApiKey>> {
        unimplemented!("authentication changes nothing")
    }

    async fn rotate(&self, _: ApiKeyId, _: Rotation) -> Result<std::result::Result<ApiKey, NotRotated>> {
        unimplemented!("authentication rotates nothing")
    }
}

#[async_trait]
impl RotationStore for Double {
    async fn unaware(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn move_hashes(&self, moves: &[HashMove], target: &MoveTarget) -> Result<Moved> {
        self.reach("rotation.move_hashes")?;
        assert_eq!((target.version, target.everywhere_current), (2, false));
        if self.blocked.load(Ordering::SeqCst) {
            return Ok(Moved::Blocked);
        }
        self.moved.lock().unwrap().extend(moves);
        Ok(Moved::Rows(moves.len() as u64))
    }

    async fn note_client_pepper_version(&self, client: ClientId, version: i32) -> Result<()> {
        self.noted_clients.lock().unwrap().push((client, version));
        Ok(())
    }

    async fn announce(&self, _: &NodeRecord) -> Result<()> {
        unimplemented!("authentication announces nothing")
    }

    async fn leave(&self, _: Uuid) -> Result<()> {
        unimplemented!("authentication announces nothing")
    }

    async fn count_hashes(&self, _: Timestamp) -> Result<HashCounts> {
        unimplemented!("authentication counts nothing")
    }
}

/// The clients of a [`Double`] are those of its keys.
#[async_trait]
impl ClientStore for Double {
    async fn find(&self, id: ClientId) -> Result<Option<Client>> {
        let client = self.clients().into_iter().find(|client| client.id == id);
        self.hand_out().await?;
        Ok(client)
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Client>> {
        let clients = self.clients().into_iter().filter(|client| client.name == name).collect();
        self.hand_out().await?;
        Ok(clients)
    }

    async fn find_many(&self, _: &[ClientId]) -> Result<Vec<Client>> {
        unimplemented!("authentication lists nothing")
    }

    async fn create(&self, _: NewClient) -> Result<Client> {
        unimplemented!("authentication creates no clients")
    }

    async fn list(&self, _: Option<ClientId>, _: u32) -> Result<Page<Client>> {
        unimplemented!("authentication lists nothing")
    }

    async fn update(&self, _: ClientId, _: ClientChange) -> Result<Option<Client>> {
        unimplemented!("authentication changes nothing")
    }
}

/// Tokens of our own, as rows of a [`Double`].
#[async_trait]
impl TokenStore for Double {
    async fn find(&self, id: TokenId) -> Result<Option<TokenRecord>> {
        let record = self.tokens.lock().unwrap().iter().find(|record| record.id == id).cloned();
        self.hand_out().await?;
        Ok(record)
    }

    async fn issue(&self, _: NewToken, _: Option<NewRefreshToken>) -> Result<()> {
        unimplemented!("authentication issues nothing")
    }

    async fn revoke(&self, _: TokenId, _: Timestamp) -> Result<bool> {
        unimplemented!("authentication revokes nothing")
    }

    async fn find_refresh(&self, _: KeyHash) -> Result<Option<RefreshRecord>> {
        unimplemented!("authentication knows no refresh tokens")
    }

    async fn rotate(&self, _: Uuid, _: NewRefreshToken, _: NewToken) -> Result<bool> {
        unimplemented!("authentication rotates nothing")
    }

    async fn issue_beside(&self, _: Uuid, _: NewToken) -> Result<bool> {
        unimplemented!("authentication issues nothing")
    }

    async fn revoke_family(&self, _: Uuid, _: Timestamp) -> Result<u64> {
        unimplemented!("authentication revokes nothing")
    }

    async fn prune(&self, _: Timestamp, _: u32) -> Result<u64> {
        unimplemented!("authentication prunes no tokens")
    }
}

struct Reader {
    store: Arc<Double>,
    position: usize,
}

#[async_trait]
impl ChangeReader for Reader {
    async fn poll(&mut self) -> Result<Vec<Change>> {
        self.store.reach("changes.poll")?;
        let feed = self.store.feed.lock().unwrap();
        let new = feed[self.position..].to_vec();
        self.position = feed.len();
        Ok(new)
    }
}

/// The feed's half of a [`Double`]: a reader needs to share it.
pub(super) struct Feed(pub(super) Arc<Double>);

#[async_trait]
impl ChangeStore for Feed {
    async fn follow(&self) -> Result<Box<dyn ChangeReader>> {
        self.0.reach("changes.follow")?;
        let position = self.0.feed.lock().unwrap().len();
        Ok(Box::new(Reader { store: Arc::clone(&self.0), position }))
    }

    async fn prune(&self, before: Timestamp) -> Result<u64> {
        self.0.pruned.lock().unwrap().push(before);
        Ok(0)
    }
}
