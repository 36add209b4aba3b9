//! One order at an authority, from the account to the certificate (RFC 8555 §7).

use std::io;
use std::time::Duration;

use instant_acme::{
    Account, AccountBuilder, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rustls::crypto::aws_lc_rs;

use super::challenges::Challenges;
use super::{AcmeFault, files};
use crate::config::acme::{AcmeChallenge, AcmeConfig};
use crate::tasks;

/// How long the authority may take to look, and to issue: minutes, where it is busy.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).timeout(Duration::from_mins(3));

/// Orders a certificate and keeps it.
pub(super) async fn certificate(config: &AcmeConfig, challenges: &Challenges) -> Result<(), AcmeFault> {
    let account = account(config).await?;
    let names: Vec<Identifier> = config.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let shown = Shown(challenges);
    prove(&mut order, config.challenge, shown.0).await?;
    if order.poll_ready(&PATIENCE).await? != OrderStatus::Ready {
        return Err(refusal(&mut order).await);
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    let config = config.clone();
    Ok(tasks::blocking(move || files::write_certificate(&config, &chain, &key)).await?)
}

/// Shown until it goes out of scope, however the order ends.
struct Shown<'c>(&'c Challenges);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Shows what each name asks for, and has the authority look.
async fn prove(order: &mut Order, by: AcmeChallenge, challenges: &Challenges) -> Result<(), AcmeFault> {
    let kind = match by {
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http01 => ChallengeType::Http01,
    };
    let provider = aws_lc_rs::default_provider();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization.challenge(kind.clone()).ok_or(AcmeFault::NotOffered)?;
        let proof = challenge.key_authorization();
        match by {
            AcmeChallenge::TlsAlpn01 => {
                let name = challenge.identifier().to_string();
                challenges.show_certificate(&name, proof.digest().as_ref(), &provider)?;
            }
            AcmeChallenge::Http01 => challenges.show_text(&challenge.token, proof.as_str()),
        }
        challenge.set_ready().await?;
    }
    Ok(())
}

/// Why the authority does not want to, in its words.
async fn refusal(order: &mut Order) -> AcmeFault {
    let mut reasons: Vec<String> = order.state().error.iter().map(ToString::to_string).collect();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            let name = state.identifier().to_string();
            let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            reasons.extend(errors.map(|error| format!("{name}: {error}")));
        }
    }
    AcmeFault::Refused(reasons.join("; "))
}

/// The account of before, or a new one.
async fn account(config: &AcmeConfig) -> Result<Account, AcmeFault> {
    let path = files::account(config);
    match tokio::fs::read(&path).await {
        Ok(kept) => {
            let kept = zeroize::Zeroizing::new(kept);
            let credentials: AccountCredentials =
                serde_json::from_slice(&kept).map_err(|_| AcmeFault::Account(path))?;
            Ok(builder(config)?.from_credentials(credentials).await?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let contact: Vec<&str> = config.contacts.iter().map(String::as_str).collect();
            let asked = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
            let (account, credentials) = builder(config)?.create(&asked, config.directory.clone(), None).await?;
            let text = zeroize::Zeroizing::new(serde_json::to_vec(&credentials)?);
            tasks::blocking(move || files::write_private(&path, &text)).await?;
            Ok(account)
        }
        Err(error) => Err(error.into()),
    }
}

fn builder(config: &AcmeConfig) -> Result<AccountBuilder, AcmeFault> {
    Ok(match &config.authorities {
        Some(file) => Account::builder_with_root(file)?,
        None => Account::builder()?,
    })
}
