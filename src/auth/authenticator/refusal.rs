//! What a refusal tells by how it comes: as little as by what it says.
//!
//! Who holds a key that opens nothing must not learn whether it ever was one: a list of keys that
//! leaked somewhere would be worth more for it. So a key that was revoked or has expired is treated
//! as one that never was: charged to its address, remembered for as long, looked up again after it.
//!
//! What remains is that a store takes longer to find a row than to find none. An attacker who may
//! ask as often as the budget allows could measure that; so what a look-up refused is told at the
//! end of a slot (`slots`). Nobody waits who gets in, and what is refused without a look-up is told
//! at once, to all alike.

use std::net::IpAddr;

use super::Authenticator;
use crate::auth::error::AuthError;
use crate::model::clock::Monotonic;

impl Authenticator {
    /// Passes on what came of reading a key again that was good when it was read last. One that is
    /// not any more is refused as a stranger's would be, also for the budget.
    pub(super) async fn settle<T>(
        &self,
        outcome: Result<T, AuthError>,
        address: IpAddr,
        began: Monotonic,
    ) -> Result<T, AuthError> {
        if let Err(AuthError::Invalid { .. }) = &outcome {
            drop(self.charge(address, || None).await?);
            self.end_of_slot(began).await;
        }
        outcome
    }

    /// Resolves at the end of the slot that began then.
    pub(super) async fn end_of_slot(&self, began: Monotonic) {
        self.slots.end(self.clock.monotonic().since(began)).await;
    }
}
