//! Making operators, and changing what they are and sign in with. Each takes the store in the hand
//! of whoever asks ([`Operators::store_for`]); the command line does the same without sessions.

use std::net::IpAddr;

use uuid::Uuid;

use super::password::{self, hash_here};
use super::{Known, OperatorFault, Operators, SignedIn};
use crate::config::admin::FirstOperator;
use crate::model::admin::{NewOperator, NewPassword, Operator, OperatorChange, Reach};
use crate::model::operator::Role;
use crate::model::secret::SecretText;
use crate::store::Store;
use crate::tasks;

/// Somebody who is to become an operator.
#[derive(Clone, Debug)]
pub struct NewPerson {
    /// What it signs in with.
    pub name: String,
    /// What it may, and to whom.
    pub reach: Reach,
    /// Its password.
    pub password: SecretText,
}

impl Operators {
    /// Changes the password of whoever asks, who must know the present one. Its sessions end, and one
    /// begins: whoever had got hold of one has none.
    ///
    /// # Errors
    /// The present password is wrong, or the new one cannot be one.
    pub async fn change_password(
        &self,
        known: &Known,
        present: &SecretText,
        new: &SecretText,
        address: IpAddr,
        request_id: Option<&str>,
    ) -> Result<SignedIn, OperatorFault> {
        let operator = self.store.operators.find(known.actor.id).await?.ok_or(OperatorFault::NotFound)?;
        password::check(&operator.name, new)?;
        // A stolen session must not be a way to guess.
        let charge = self.throttle.charge(&operator.name, address, self.clock.monotonic());
        let charge = charge.map_err(OperatorFault::TooMany)?;
        let hash = self.store.operators.password(operator.id).await?.ok_or(OperatorFault::NoPassword)?;
        if !self.passwords.verify(present, Some(hash)).await {
            return Err(OperatorFault::Wrong);
        }
        charge.give_back();
        let new = NewPassword { hash: self.passwords.hash(new).await, keep: None };
        let change = OperatorChange { password: Some(new), ..OperatorChange::default() };
        let store = self.store_for(&known.actor, request_id);
        store.operators.update(operator.id, change, self.clock.wall()).await?;
        self.forget_sessions();
        self.begin_again(&operator, Some(address), request_id).await
    }

    /// Changes an operator: its role, whether it may sign in. None: there is no such operator.
    /// Its sessions are asked anew.
    ///
    /// # Errors
    /// The store's; that nobody would be left is a conflict.
    pub async fn update(
        &self,
        store: &Store,
        id: Uuid,
        change: OperatorChange,
    ) -> Result<Option<Operator>, OperatorFault> {
        let changed = store.operators.update(id, change, self.clock.wall()).await;
        self.forget_sessions();
        Ok(changed?)
    }

    /// Gives an operator another password, by somebody who need not know the present one. All its
    /// sessions end.
    ///
    /// # Errors
    /// There is no such operator, or the password cannot be one.
    pub async fn reset_password(&self, store: &Store, id: Uuid, new: &SecretText) -> Result<Operator, OperatorFault> {
        let changed = reset_password(store, id, new, self.clock.wall()).await;
        self.forget_sessions();
        changed
    }
}

/// Makes an operator who signs in with a password.
///
/// # Errors
/// The name or the password cannot be one, or the name is taken.
pub async fn create_operator(store: &Store, person: NewPerson) -> Result<Operator, OperatorFault> {
    Ok(store.operators.create(new_operator(person).await?).await?)
}

/// Makes an owner if there is no operator at all; none: there is one.
///
/// # Errors
/// The name or the password cannot be one.
pub async fn create_first(store: &Store, first: &FirstOperator) -> Result<Option<Operator>, OperatorFault> {
    if !store.operators.list(None, 1).await?.items.is_empty() {
        return Ok(None);
    }
    let reach = Reach::new(Role::Owner, Vec::new())?;
    let person = NewPerson { name: first.name.clone(), reach, password: first.password.clone() };
    Ok(store.operators.create_first(new_operator(person).await?).await?)
}

/// Gives an operator another password; see [`Operators::reset_password`].
///
/// # Errors
/// There is no such operator, or the password cannot be one.
pub async fn reset_password(
    store: &Store,
    id: Uuid,
    new: &SecretText,
    at: jiff::Timestamp,
) -> Result<Operator, OperatorFault> {
    let operator = store.operators.find(id).await?.ok_or(OperatorFault::NotFound)?;
    if operator.issuer.is_some() {
        return Err(OperatorFault::NoPassword);
    }
    password::check(&operator.name, new)?;
    let text = new.clone();
    let hash = tasks::blocking(move || hash_here(text.expose())).await;
    let change = OperatorChange { password: Some(NewPassword { hash, keep: None }), ..OperatorChange::default() };
    store.operators.update(id, change, at).await?.ok_or(OperatorFault::NotFound)
}

async fn new_operator(person: NewPerson) -> Result<NewOperator, OperatorFault> {
    check_name(&person.name)?;
    password::check(&person.name, &person.password)?;
    let hash = tasks::blocking(move || hash_here(person.password.expose())).await;
    Ok(NewOperator { name: person.name, reach: person.reach, password: Some(hash), identity: None })
}

/// Whether people can tell a name from another.
pub(super) fn check_name(name: &str) -> Result<(), OperatorFault> {
    let legal =
        !name.is_empty() && name.trim() == name && name.chars().count() <= 200 && !name.chars().any(char::is_control);
    if legal { Ok(()) } else { Err(OperatorFault::Name) }
}
