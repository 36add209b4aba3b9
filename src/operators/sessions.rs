//! Signing in and out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::manage::check_name;
use super::{Attendance, Known, LoginFault, NOTED_EVERY, OperatorFault, Operators, Seen, SignedIn, Unknown};
use crate::crypto::session_text::SessionClaims;
use crate::model::admin::{NewOperator, NewSession, Operator, OperatorChange, Reach, Session};
use crate::model::operator::{Actor, ActorKind};
use crate::model::secret::SecretText;
use crate::store::StoreError;

impl Operators {
    /// Whether there is a secret to sign sessions with.
    #[must_use]
    pub fn can_sign_in(&self) -> bool {
        self.texts.is_some()
    }

    /// Signs somebody in: a new session, whatever there was before.
    ///
    /// # Errors
    /// Why not; unknown names look like mistyped passwords, and take as long.
    pub async fn login(
        &self,
        name: &str,
        password: &SecretText,
        address: IpAddr,
        request_id: Option<&str>,
    ) -> Result<SignedIn, LoginFault> {
        if self.texts.is_none() {
            return Err(LoginFault::NoSecret);
        }
        let charge = self.throttle.charge(name, address, self.clock.monotonic()).map_err(LoginFault::TooMany)?;
        let operator = self.store.operators.find_by_name(name).await?;
        // Also asked for where there is nobody: an unknown name is as many questions.
        let id = operator.as_ref().map_or(Uuid::nil(), |operator| operator.id);
        let hash = self.store.operators.password(id).await?;
        let operator = operator.filter(|operator| operator.disabled_at.is_none());
        let hash = hash.filter(|_| operator.is_some());
        let fits = self.passwords.verify(password, hash).await;
        let Some(operator) = operator.filter(|_| fits) else {
            tracing::warn!(%address, "a login failed");
            return Err(LoginFault::Wrong);
        };
        charge.give_back();
        self.begin(&operator, Some(address), request_id).await
    }

    /// Signs in somebody whom an issuer vouches for, `(issuer, subject)`: who comes for the first time is made
    /// an operator, and whose role there changed has another one here.
    ///
    /// # Errors
    /// It is disabled, its name is another's, or the store's.
    pub async fn login_from_elsewhere(
        &self,
        (issuer, subject): (&str, &str),
        name: &str,
        reach: Reach,
        address: Option<IpAddr>,
        request_id: Option<&str>,
    ) -> Result<SignedIn, OperatorFault> {
        let found = if let Some(found) = self.store.operators.find_by_identity(issuer, subject).await? {
            found
        } else {
            check_name(name)?;
            let identity = Some((issuer.to_owned(), subject.to_owned()));
            let new = NewOperator { name: name.to_owned(), reach: reach.clone(), password: None, identity };
            // It makes itself, and has no row yet that the audit could name.
            let actor = Arc::new(Actor {
                kind: ActorKind::Operator,
                id: Uuid::nil(),
                name: name.to_owned(),
                role: reach.role,
                clients: reach.clients.clone(),
                address,
            });
            self.store_for(&actor, request_id).operators.create(new).await?
        };
        if found.disabled_at.is_some() {
            return Err(OperatorFault::Disabled);
        }
        let operator = if found.role == reach.role {
            found
        } else {
            let change = OperatorChange { reach: Some(reach), ..OperatorChange::default() };
            let store = self.store_for(&Self::actor_of(&found, address), request_id);
            let changed = store.operators.update(found.id, change, self.clock.wall()).await?;
            self.forget_sessions();
            changed.ok_or(OperatorFault::NotFound)?
        };
        self.begin_again(&operator, address, request_id).await
    }

    /// Begins a session for an operator who is known already.
    pub(super) async fn begin_again(
        &self,
        operator: &Operator,
        address: Option<IpAddr>,
        request_id: Option<&str>,
    ) -> Result<SignedIn, OperatorFault> {
        self.begin(operator, address, request_id).await.map_err(|fault| match fault {
            LoginFault::Store(error) => OperatorFault::Store(error),
            _ => OperatorFault::NoSecret,
        })
    }

    /// Begins a session for an operator who showed who it is.
    ///
    /// # Errors
    /// The store's, or that sessions cannot be signed.
    pub async fn begin(
        &self,
        operator: &Operator,
        address: Option<IpAddr>,
        request_id: Option<&str>,
    ) -> Result<SignedIn, LoginFault> {
        let texts = self.texts.as_ref().ok_or(LoginFault::NoSecret)?;
        let now = self.clock.wall();
        let expires_at = later(now, self.lifetimes.absolute);
        let actor = Self::actor_of(operator, address);
        let store = self.store_for(&actor, request_id);
        let new = NewSession { operator_id: operator.id, address, at: now, expires_at };
        let session = store.operators.begin_session(new).await?;
        let (iat, exp) = (now.as_second(), expires_at.as_second());
        let text = texts.make(&SessionClaims { operator: operator.id, session: session.id, iat, exp });
        Ok(SignedIn { text, known: Known { actor, session: Some(session.id) }, expires_at })
    }

    /// Who a session's text is of. Its row is asked, at most once a second.
    ///
    /// # Errors
    /// Nobody.
    pub async fn authenticate_session(
        &self,
        text: &str,
        address: Option<IpAddr>,
        attendance: Attendance,
    ) -> Result<Known, Unknown> {
        let claims = self.texts.as_ref().and_then(|texts| texts.read(text)).ok_or(Unknown::Text)?;
        let now = self.clock.wall();
        if claims.exp <= now.as_second() {
            return Err(Unknown::Expired);
        }
        let row = self.session(claims.session).await?.ok_or(Unknown::Text)?;
        let (session, operator) = row.as_ref();
        if session.operator_id != claims.operator {
            return Err(Unknown::Text);
        }
        if session.revoked_at.is_some() || operator.disabled_at.is_some() {
            return Err(Unknown::Revoked);
        }
        if session.expires_at <= now
            || later(self.last_seen(session.id, session.last_seen_at), self.lifetimes.idle) <= now
        {
            return Err(Unknown::Expired);
        }
        if attendance == Attendance::Attended {
            self.note_session(session, now).await;
        }
        Ok(Known { actor: Self::actor_of(operator, address), session: Some(session.id) })
    }

    /// Ends a session; whether there was one to end.
    ///
    /// # Errors
    /// The store's.
    pub async fn logout(&self, known: &Known, request_id: Option<&str>) -> Result<bool, StoreError> {
        let Some(session) = known.session else { return Ok(false) };
        let ended = self.store_for(&known.actor, request_id).operators.end_session(session, self.clock.wall()).await;
        self.sessions.invalidate(&session);
        ended
    }

    /// Ends all sessions of an operator, `by` whoever asks; how many there were.
    ///
    /// # Errors
    /// The store's.
    pub async fn logout_everywhere(
        &self,
        operator: Uuid,
        by: &Known,
        request_id: Option<&str>,
    ) -> Result<u64, StoreError> {
        let ended = self.store_for(&by.actor, request_id).operators.end_sessions(operator, self.clock.wall()).await;
        self.forget_sessions();
        ended
    }

    /// The sessions of an operator that go on, the latest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn sessions_of(&self, operator: Uuid) -> Result<Vec<Session>, StoreError> {
        self.store.operators.sessions(operator, self.clock.wall()).await
    }

    /// Nothing that was read is believed any more.
    pub(super) fn forget_sessions(&self) {
        self.sessions.invalidate_all();
    }

    async fn session(&self, id: Uuid) -> Result<Option<Arc<(Session, Operator)>>, StoreError> {
        if let Some(seen) = self.sessions.get(&id).filter(|seen| self.is_fresh(seen.at)) {
            return Ok(Some(seen.row));
        }
        // The time before the question: what changes while it is answered is not believed longer.
        let at = self.clock.monotonic();
        let Some(row) = self.store.operators.find_session(id).await? else { return Ok(None) };
        let row = Arc::new(row);
        self.sessions.insert(id, Seen { row: Arc::clone(&row), at });
        Ok(Some(row))
    }

    async fn note_session(&self, session: &Session, now: Timestamp) {
        // Often enough that a short idle time is kept, too.
        let every = NOTED_EVERY.min(self.lifetimes.idle / 4);
        if later(session.last_seen_at, every) > now {
            return;
        }
        if self.note(session.id, now, self.store.operators.note_session(session.id, now)).await {
            self.sessions.invalidate(&session.id);
        }
    }
}

/// So much later, or never.
pub(super) fn later(moment: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    moment.checked_add(by).unwrap_or(Timestamp::MAX)
}
