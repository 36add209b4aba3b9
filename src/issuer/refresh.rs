//! Exchanging refresh tokens.
//!
//! A refresh token is used once: one conditional update decides who did, and the successor is
//! stored in the same step. Who presents it again within the grace lost the answer, or raced
//! against himself; he gets the same successor, which follows from the token and its row. Who
//! presents it later has what somebody else used: nobody can tell the thief from the owner, so the
//! family ends (RFC 9700 §4.14.2).

use std::sync::Arc;

use jiff::Timestamp;

use super::grant::{joined, narrowed};
use super::{Asked, GrantFault, Issued, RefreshFault, TokenIssuer};
use crate::clients::{CredentialKind, Principal};
use crate::crypto::refresh_text::RefreshTexts;
use crate::model::id::ClientId;
use crate::model::issued::{Grant, RefreshRecord};
use crate::model::rate::RateLimit;
use crate::model::secret::SecretText;

/// A refresh token that is known, and whose it is.
#[derive(Debug)]
pub struct PresentedRefresh {
    /// Whom it is charged to, and from where it may be used.
    pub principal: Principal,
    text: SecretText,
    record: RefreshRecord,
}

impl PresentedRefresh {
    /// Its row.
    #[must_use]
    pub fn record(&self) -> &RefreshRecord {
        &self.record
    }
}

impl TokenIssuer {
    /// Looks a refresh token up; none: there is none such. Whether it holds is judged when it is used.
    ///
    /// # Errors
    /// The store could not say.
    pub async fn find_refresh(self: &Arc<Self>, text: &SecretText) -> Result<Option<PresentedRefresh>, GrantFault> {
        if !self.refresh_texts.as_ref().is_some_and(|texts| texts.is_one(text.expose())) {
            return Ok(None);
        }
        let hash = RefreshTexts::hash(text);
        let (mark, began) = (self.with.clients.mark(), self.with.clock.monotonic());
        let found = self.stored(move |issuer| async move { issuer.with.store.find_refresh(hash).await }).await?;
        Ok(found.map(|record| {
            let (default, wall) = (self.with.default_limit, self.with.clock.wall());
            let live = self.with.clients.attach(&record.client, default, mark, began, wall).client;
            let key_limit = record.key.rate.map(|rate| RateLimit::new(rate, record.key.burst));
            let principal = Principal {
                kind: CredentialKind::Key,
                api_key_id: record.key.id,
                key_limiter: key_limit.map(|limit| live.key_limiter(record.key.id, limit, began)),
                allowed_addresses: Some(Box::new(record.key.allowed_addresses.clone())),
                ..Principal::nobody(live)
            };
            PresentedRefresh { principal, text: text.clone(), record }
        }))
    }

    /// Exchanges a refresh token. `by` is the client whose key came with it, if one did.
    ///
    /// # Errors
    /// Why nothing was issued. A token that was used too long ago ends its family.
    pub async fn refresh(
        self: &Arc<Self>,
        presented: PresentedRefresh,
        asked: Asked,
        by: Option<ClientId>,
    ) -> Result<Issued, GrantFault> {
        let PresentedRefresh { text, mut record, .. } = presented;
        if by.is_some_and(|client| client != record.client.id) {
            return Err(RefreshFault::OtherClient.into());
        }
        let now = self.with.clock.wall();
        if record.used_for.is_none() {
            judge(&record, now)?;
            let grant = self.asked_of(&record, &asked)?;
            if let Some(issued) = self.exchange(&text, &record, grant, now).await? {
                return Ok(issued);
            }
            // Somebody was faster: what he left decides.
            let hash = RefreshTexts::hash(&text);
            let found = self.stored(move |issuer| async move { issuer.with.store.find_refresh(hash).await }).await?;
            record = found.ok_or(RefreshFault::Unknown)?;
        }
        self.replay(&text, &record, &asked, now).await
    }

    /// Ends the family of a refresh token. Whether it had not ended before.
    ///
    /// # Errors
    /// The store could not be asked.
    pub async fn revoke_refresh(self: &Arc<Self>, presented: &PresentedRefresh) -> Result<bool, GrantFault> {
        self.end_family(&presented.record, self.with.clock.wall()).await
    }

    /// Whether a refresh token could be exchanged for the first time now.
    #[must_use]
    pub fn holds(&self, presented: &PresentedRefresh) -> bool {
        presented.record.used_for.is_none() && judge(&presented.record, self.with.clock.wall()).is_ok()
    }

    /// Whether something may be given for a refresh token: it holds, or was used a moment ago.
    #[must_use]
    pub fn is_worth_something(&self, presented: &PresentedRefresh) -> bool {
        let record = &presented.record;
        record.used_for.is_none_or(|age| age < self.refresh_grace) && judge(record, self.with.clock.wall()).is_ok()
    }

    /// Uses a token up. None: somebody else did, or it was revoked, a moment ago.
    async fn exchange(
        self: &Arc<Self>,
        text: &SecretText,
        record: &RefreshRecord,
        grant: Grant,
        now: Timestamp,
    ) -> Result<Option<Issued>, GrantFault> {
        let successor = self.successor_of(text, record)?;
        let row = self.refresh_row(&successor, record.family_id, Some(record.id), record.grant(), now)?;
        let minted = self.mint(grant, Some(record.family_id), now)?;
        let issued = self.issued(&minted, Some(successor));
        let used = record.id;
        let exchanged =
            self.stored(move |issuer| async move { issuer.with.store.rotate(used, row, minted.row).await }).await?;
        if exchanged {
            self.with.metrics.tokens_issued_to_refresh_tokens.inc();
        }
        Ok(exchanged.then_some(issued))
    }

    /// Answers for a token that was used before.
    async fn replay(
        self: &Arc<Self>,
        text: &SecretText,
        record: &RefreshRecord,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Issued, GrantFault> {
        if record.revoked_at.is_some() {
            return Err(RefreshFault::Revoked.into());
        }
        if record.used_for.ok_or(RefreshFault::Unknown)? >= self.refresh_grace {
            tracing::warn!(
                client = %record.client.id, family = %record.family_id,
                "a refresh token was used again: its family is revoked"
            );
            self.with.metrics.token_families_revoked.inc();
            self.end_family(record, now).await?;
            return Err(RefreshFault::Reused.into());
        }
        judge(record, now)?;
        let successor = self.successor_of(text, record)?;
        let minted = self.mint(self.asked_of(record, asked)?, Some(record.family_id), now)?;
        let issued = self.issued(&minted, Some(successor));
        let used = record.id;
        let stored =
            self.stored(move |issuer| async move { issuer.with.store.issue_beside(used, minted.row).await }).await?;
        if !stored {
            return Err(RefreshFault::Revoked.into());
        }
        self.with.metrics.tokens_issued_to_refresh_tokens.inc();
        Ok(issued)
    }

    async fn end_family(self: &Arc<Self>, record: &RefreshRecord, now: Timestamp) -> Result<bool, GrantFault> {
        let family = record.family_id;
        let revoked =
            self.stored(move |issuer| async move { issuer.with.store.revoke_family(family, now).await }).await?;
        Ok(revoked > 0)
    }

    fn successor_of(&self, text: &SecretText, record: &RefreshRecord) -> Result<SecretText, GrantFault> {
        let texts = self.refresh_texts.as_ref().ok_or(GrantFault::NoRefreshTokens)?;
        Ok(texts.successor(text, &record.nonce))
    }

    /// What a token of the family is granted: what is asked for, within what the family was granted and
    /// its key may still do. The family keeps what it has.
    fn asked_of(&self, record: &RefreshRecord, asked: &Asked) -> Result<Grant, GrantFault> {
        let held = record.scopes.within(&record.key.scopes);
        let scopes = narrowed(asked.scopes.clone(), &held)?;
        let audience = match joined(&asked.audiences)? {
            None => record.audience.clone(),
            Some(wanted) => {
                let granted = |audience| match &record.audience {
                    Some(granted) => granted.split(' ').any(|other| other == audience),
                    None => self.audiences.iter().any(|other| other == audience),
                };
                if !wanted.split(' ').all(granted) {
                    return Err(GrantFault::Audience);
                }
                Some(wanted)
            }
        };
        Ok(Grant { scopes, audience, ..record.grant() })
    }
}

/// Whether a token holds at `now`, whether or not it was used.
fn judge(record: &RefreshRecord, now: Timestamp) -> Result<(), RefreshFault> {
    if record.revoked_at.is_some() {
        return Err(RefreshFault::Revoked);
    }
    if record.expires_at <= now {
        return Err(RefreshFault::Expired);
    }
    if let Some(defect) = record.key.defect(now) {
        return Err(RefreshFault::of(defect));
    }
    if record.client.is_suspended() {
        return Err(RefreshFault::Suspended);
    }
    Ok(())
}
