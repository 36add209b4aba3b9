//! What can go wrong, in words that give nothing away.

use std::time::Duration;

use thiserror::Error;

use super::password::WeakPassword;
use crate::model::admin::ReachFault;
use crate::store::StoreError;

/// Why a login did not succeed. Unknown, disabled and mistyped look alike.
#[derive(Debug, Error)]
pub enum LoginFault {
    /// Name or password are wrong.
    #[error("the name or the password is wrong")]
    Wrong,
    /// Too many tries.
    #[error("too many tries; again in {} s", .0.as_secs().max(1))]
    TooMany(Duration),
    /// There is no `JWT_SECRET`.
    #[error("nobody can sign in: JWT_SECRET is not set")]
    NoSecret,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why somebody is nobody. All of it is one 401 outside; the words are for the log.
#[derive(Debug, Error)]
pub enum Unknown {
    /// Not a text of ours, or of a session or token that is not there.
    #[error("no session and no token has this text")]
    Text,
    /// It was revoked, or its operator disabled.
    #[error("it is revoked")]
    Revoked,
    /// Its time is over, or it was not used for too long.
    #[error("its time is over")]
    Expired,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why operators, tokens and passwords were not changed.
#[derive(Debug, Error)]
pub enum OperatorFault {
    /// The password cannot be one.
    #[error(transparent)]
    Password(#[from] WeakPassword),
    /// Role and clients do not go together.
    #[error(transparent)]
    Reach(#[from] ReachFault),
    /// A name that people could mistake.
    #[error("a name is 1 to 200 characters, none of them a control character, without blanks at its ends")]
    Name,
    /// The present password was not given, or is wrong.
    #[error("the present password is wrong")]
    Wrong,
    /// Too many tries.
    #[error("too many tries; again in {} s", .0.as_secs().max(1))]
    TooMany(Duration),
    /// There is no such operator.
    #[error("there is no such operator")]
    NotFound,
    /// It may not sign in.
    #[error("this operator may not sign in any more")]
    Disabled,
    /// There is no `JWT_SECRET`.
    #[error("nobody can sign in: JWT_SECRET is not set")]
    NoSecret,
    /// The operator comes by an issuer, and has no password here.
    #[error("this operator signs in at an issuer and has no password here")]
    NoPassword,
    /// The store; a name that is taken is its conflict.
    #[error(transparent)]
    Store(#[from] StoreError),
}
