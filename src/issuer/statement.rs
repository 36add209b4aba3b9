//! What a client used in a closed month, signed so that the client can prove it and nobody can change
//! it (a JWS, RFC 7515). The same text whenever it is asked for.
//!
//! Refuses to own: closing months (`store::months`), and who may have which statement.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{SigningKeys, TokenIssuer};
use crate::crypto::signing::SigningKey;
use crate::model::client::Client;
use crate::model::id::ClientId;
use crate::model::month::Month;
use crate::store::months::{Adjustment, MonthStore};
use crate::store::{StoreError, UsageSum};

/// The type in the header: a token is none, and no gateway takes it for one.
const TYPE: &str = "octroi-statement+jwt";

/// Why there is no statement.
#[derive(Debug, Error)]
pub enum StatementFault {
    /// Nothing signs, or only a secret: whoever could check with that could also sign.
    #[error(
        "a statement needs a key whose public half clients can have: make one with `openssl genpkey -algorithm \
         ed25519 -out FILE` and name it in `issuer.signing_key_file`"
    )]
    NoKey,
    /// It may still grow.
    #[error("{0} is not closed; run `octroi usage close {0}` first")]
    NotClosed(Month),
    /// The key that signs does not.
    #[error("the signing key did not sign")]
    Signing,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A statement, and its signed text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SignedStatement {
    /// What it says.
    pub statement: Statement,
    /// The same, signed: a compact JWS of the type `octroi-statement+jwt`.
    pub jws: String,
}

/// What a client used in a closed month.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Statement {
    /// Who says so.
    pub iss: String,
    /// Of which client: its id.
    pub sub: Uuid,
    /// Its own id: client and month.
    pub jti: String,
    /// When the month was closed, in seconds since 1970.
    pub iat: i64,
    /// What the client is called.
    pub client_name: String,
    /// Like `2026-10`.
    pub month: String,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment of the next one.
    pub to: Timestamp,
    /// When the month was closed.
    pub closed_at: Timestamp,
    /// What the month was frozen at.
    pub total: StatedSums,
    /// What of the total came for months that were closed before.
    pub adjustments: Vec<StatedAdjustment>,
}

/// Sums of a statement.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the columns of `closed_month_totals`")]
pub struct StatedSums {
    pub requests: u64,
    pub units: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_us: u64,
    /// Refusals; not among `requests`.
    pub rejected: u64,
}

/// What came for a month that was closed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatedAdjustment {
    /// The month.
    pub corrects: String,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "they are sums")]
    pub sums: StatedSums,
}

impl From<&UsageSum> for StatedSums {
    fn from(sum: &UsageSum) -> Self {
        Self {
            requests: sum.requests,
            units: sum.units,
            bytes_in: sum.bytes_in,
            bytes_out: sum.bytes_out,
            duration_us: sum.duration_us,
            rejected: sum.rejected,
        }
    }
}

impl From<&Adjustment> for StatedAdjustment {
    fn from(adjustment: &Adjustment) -> Self {
        Self { corrects: adjustment.corrects.clone(), sums: StatedSums::from(&adjustment.sum) }
    }
}

/// Who signs statements: a name and a key that others can check with.
#[derive(Clone, Copy, Debug)]
pub struct Signatory<'k> {
    name: &'k str,
    key: &'k SigningKey,
}

impl<'k> Signatory<'k> {
    /// The issuer of this name, with its keys; none: nothing is configured that signs.
    ///
    /// # Errors
    /// Nobody could check what it signs.
    pub fn of(name: &'k str, keys: Option<&'k SigningKeys>) -> Result<Self, StatementFault> {
        let key = keys.map(SigningKeys::current).filter(|key| key.public().is_some());
        key.map(|key| Self { name, key }).ok_or(StatementFault::NoKey)
    }

    /// The statement of a client and a month.
    ///
    /// # Errors
    /// The month is not closed; the store is away.
    pub async fn sign(
        &self,
        months: &dyn MonthStore,
        client: &Client,
        month: Month,
    ) -> Result<SignedStatement, StatementFault> {
        let statement = self.statement(months, (client.id, &client.name), month).await?;
        // By way of a value: its members have one order, whatever the struct's, and so the text has.
        let claims = serde_json::to_value(&statement).map_err(|_| StatementFault::Signing)?;
        let jws = self.key.sign(TYPE, &claims).ok_or(StatementFault::Signing)?;
        Ok(SignedStatement { statement, jws })
    }

    async fn statement(
        &self,
        months: &dyn MonthStore,
        (client, client_name): (ClientId, &str),
        month: Month,
    ) -> Result<Statement, StatementFault> {
        let closed = months.closed(month).await?.ok_or(StatementFault::NotClosed(month))?;
        let totals = months.totals(month, Some(client)).await?;
        let adjustments = months.adjustments(month.starts(), month.ends(), Some(client)).await?;
        Ok(Statement {
            iss: self.name.to_owned(),
            sub: client.0,
            jti: format!("{client}/{month}"),
            iat: closed.closed_at.as_second(),
            client_name: client_name.to_owned(),
            month: month.to_string(),
            from: month.starts(),
            to: month.ends(),
            closed_at: closed.closed_at,
            total: totals.last().map(|(_, total)| StatedSums::from(total)).unwrap_or_default(),
            adjustments: adjustments.iter().map(StatedAdjustment::from).collect(),
        })
    }
}

impl TokenIssuer {
    /// Who signs statements here.
    ///
    /// # Errors
    /// Nobody could check what it signs.
    pub fn signatory(&self) -> Result<Signatory<'_>, StatementFault> {
        Signatory::of(&self.name, Some(&self.keys))
    }
}
