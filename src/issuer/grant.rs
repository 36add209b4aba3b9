//! From a key's rights to a verification token.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use uuid::{NoContext, Uuid};

use super::{GrantFault, TokenIssuer};
use crate::clients::Principal;
use crate::config::issuer::{TOKEN_TYPE, is_audience};
use crate::crypto::refresh_text::RefreshTexts;
use crate::model::access::Scopes;
use crate::model::id::TokenId;
use crate::model::issued::{Grant, NewRefreshToken, NewToken};
use crate::model::secret::SecretText;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Fewer scopes than there might be; none: all.
    pub scopes: Option<Scopes>,
    /// A refresh token as well.
    pub offline: bool,
    /// Whom it is for; none: the gateway's own audiences.
    pub audiences: Vec<String>,
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The verification token.
    pub access_token: SecretText,
    /// Seconds until it ends.
    pub expires_in: u64,
    /// What it may do.
    pub scopes: Scopes,
    /// The refresh token, if one was asked for or exchanged.
    pub refresh_token: Option<SecretText>,
}

/// What a verification token says (RFC 9068 §2.2).
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: Audience<'a>,
    exp: i64,
    iat: i64,
    jti: TokenId,
    client_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
}

/// One is written as itself, several as a list (RFC 7519 §4.1.3).
#[derive(Serialize)]
#[serde(untagged)]
enum Audience<'a> {
    One(&'a str),
    Several(Vec<&'a str>),
}

/// A token on its way: its text and its row.
pub(super) struct Minted {
    pub(super) text: SecretText,
    pub(super) row: NewToken,
}

impl TokenIssuer {
    /// Issues a token to whoever presented a key. No grant begins with a token (`auth` refuses that).
    ///
    /// # Errors
    /// Why nothing was issued.
    pub async fn grant(self: &Arc<Self>, principal: &Principal, asked: Asked) -> Result<Issued, GrantFault> {
        let scopes = narrowed(asked.scopes, &principal.scopes)?;
        let grant = Grant {
            client_id: principal.client.id,
            api_key_id: (!principal.api_key_id.is_nil()).then_some(principal.api_key_id),
            audience: self.granted_audience(&asked.audiences)?,
            scopes,
        };
        let now = self.with.clock.wall();
        let refresh = if asked.offline { Some(self.first_refresh(&grant, now)?) } else { None };
        let minted = self.mint(grant, refresh.as_ref().map(|(_, row)| row.family_id), now)?;
        let (text, row) = refresh.unzip();
        let issued = self.issued(&minted, text);
        self.stored(move |issuer| async move { issuer.with.store.issue(minted.row, row).await }).await?;
        self.with.metrics.tokens_issued_to_keys.inc();
        Ok(issued)
    }

    /// The audiences asked for, as a row holds them, if a token may be for each.
    fn granted_audience(&self, asked: &[String]) -> Result<Option<String>, GrantFault> {
        let is_allowed = |audience: &String| match &self.allowed_audiences {
            Some(allowed) => self.audiences.contains(audience) || allowed.contains(audience),
            None => true,
        };
        if !asked.iter().all(is_allowed) {
            return Err(GrantFault::Audience);
        }
        joined(asked)
    }

    /// Signs a token for `grant`; its row is not stored yet.
    pub(super) fn mint(&self, grant: Grant, family_id: Option<Uuid>, now: Timestamp) -> Result<Minted, GrantFault> {
        let id = TokenId(time_ordered(now));
        let subject = grant.client_id.to_string();
        let expires_at = now.checked_add(self.token_lifetime).map_err(|_| GrantFault::Signing)?;
        let audiences: Vec<&str> = match &grant.audience {
            Some(audience) => audience.split(' ').collect(),
            None => self.audiences.iter().map(String::as_str).collect(),
        };
        let claims = Claims {
            iss: &self.name,
            sub: &subject,
            aud: if let [one] = audiences[..] { Audience::One(one) } else { Audience::Several(audiences) },
            exp: expires_at.as_second(),
            iat: now.as_second(),
            jti: id,
            client_id: &subject,
            scope: &grant.scopes.to_string(),
        };
        let text = self.keys.current().sign(TOKEN_TYPE, &claims).ok_or(GrantFault::Signing)?;
        let row = NewToken { id, grant, family_id, subject, issued_at: now, expires_at };
        Ok(Minted { text: SecretText::new(text), row })
    }

    /// What the caller is given.
    pub(super) fn issued(&self, minted: &Minted, refresh_token: Option<SecretText>) -> Issued {
        Issued {
            access_token: minted.text.clone(),
            expires_in: self.token_lifetime.as_secs(),
            scopes: minted.row.grant.scopes.clone(),
            refresh_token,
        }
    }

    fn first_refresh(&self, grant: &Grant, now: Timestamp) -> Result<(SecretText, NewRefreshToken), GrantFault> {
        let texts = self.refresh_texts.as_ref().ok_or(GrantFault::NoRefreshTokens)?;
        if grant.api_key_id.is_none() {
            return Err(GrantFault::LegacyHash);
        }
        let text = texts.first();
        let family_id = time_ordered(now);
        let row = self.refresh_row(&text, family_id, None, grant.clone(), now)?;
        Ok((text, row))
    }

    /// The row of a refresh token of this text.
    pub(super) fn refresh_row(
        &self,
        text: &SecretText,
        family_id: Uuid,
        parent_id: Option<Uuid>,
        grant: Grant,
        now: Timestamp,
    ) -> Result<NewRefreshToken, GrantFault> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| GrantFault::Signing)?;
        Ok(NewRefreshToken {
            id: time_ordered(now),
            family_id,
            parent_id,
            hash: RefreshTexts::hash(text),
            nonce,
            grant,
            issued_at: now,
            expires_at: now.checked_add(self.refresh_lifetime).map_err(|_| GrantFault::Signing)?,
        })
    }
}

/// The scopes asked for, if `held` contains them; without a wish all of them.
pub(super) fn narrowed(asked: Option<Scopes>, held: &Scopes) -> Result<Scopes, GrantFault> {
    let scopes = asked.unwrap_or_else(|| held.clone());
    if !held.contain_all(&scopes) {
        return Err(GrantFault::Scope);
    }
    if scopes.iter().count() > SCOPES_MAX {
        return Err(GrantFault::TooManyScopes);
    }
    Ok(scopes)
}

/// Audiences as a row holds them.
pub(super) fn joined(audiences: &[String]) -> Result<Option<String>, GrantFault> {
    if audiences.len() > AUDIENCES_MAX || !audiences.iter().all(|audience| is_audience(audience)) {
        return Err(GrantFault::Audience);
    }
    let mut named: Vec<&str> = Vec::with_capacity(audiences.len());
    for audience in audiences {
        if !named.contains(&audience.as_str()) {
            named.push(audience);
        }
    }
    Ok((!named.is_empty()).then(|| named.join(" ")))
}

/// Rows are read and pruned in the order of time.
fn time_ordered(now: Timestamp) -> Uuid {
    let (seconds, nanoseconds) = (now.as_second().unsigned_abs(), now.subsec_nanosecond().unsigned_abs());
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, nanoseconds))
}

/// What our own reader takes (`auth::jwt`).
const SCOPES_MAX: usize = 64;

/// Nobody's token is for more.
const AUDIENCES_MAX: usize = 8;
