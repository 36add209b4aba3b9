//! Forms that are answered with a secret and not with a redirect: each has a number of its own, so that
//! what it asks for is done once, however often it is sent (a reload sends it again).

use std::future::Future;

use maud::{Markup, html};

use crate::api::caller::Caller;
use crate::api::fault::{Fault, Result};
use crate::api::state::Api;
use crate::store::idempotency::{Claim, IdempotencyKey, StoredAnswer};

/// The longest number that is one of ours.
const LONGEST: usize = 64;

/// The form's own number.
pub(super) fn number(api: &Api) -> Markup {
    html! { input type="hidden" name="once" value=(api.request_id()); }
}

/// Does what a form with this number asks for, unless it was done.
pub(super) async fn once<T>(
    caller: &Caller,
    number: Option<&str>,
    deed: &str,
    doing: impl Future<Output = Result<T>>,
) -> Result<T> {
    let number = number.filter(|number| number.len() <= LONGEST);
    let number = number.ok_or_else(|| Fault::bad_request("this form is not one of ours"))?;
    let key = IdempotencyKey {
        scope: format!("page:{}", caller.actor().id),
        key: number.to_owned(),
        request_hash: deed.to_owned(),
    };
    let store = &caller.store.idempotency;
    match store.claim(&key).await? {
        Claim::New => {}
        Claim::Running(_) | Claim::Mismatch | Claim::Answered(_) => {
            return Err(Fault::conflict(
                "this form was sent before: what it asked for was made then and is not shown again. Look for it, and \
                 revoke it if it was not kept",
            ));
        }
    }
    let outcome = doing.await;
    let noted = match &outcome {
        Ok(_) => store.complete(&key, &StoredAnswer { status: 200, body: String::new() }).await,
        // What was refused changed nothing, and may be sent again.
        Err(fault) if fault.status.is_client_error() => store.release(&key).await,
        // What failed may have been done: whoever sends it again has to look.
        Err(_) => Ok(()),
    };
    // What was made is shown, also where that cannot be noted: nobody is shown it again.
    if let Err(error) = noted {
        tracing::warn!(%error, deed, "what came of a form was not noted: sent again, it will be refused");
    }
    outcome
}
