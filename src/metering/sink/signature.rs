//! Signatures of what is posted, as Standard Webhooks says (standardwebhooks.com, version 1.0).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::record::Record;
use crate::model::clock::SharedClock;
use crate::model::secret::SecretBytes;

/// Signs messages.
pub(super) struct Signer {
    secret: SecretBytes,
    clock: SharedClock,
}

impl Signer {
    pub(super) fn new(secret: SecretBytes, clock: &SharedClock) -> Self {
        Self { secret, clock: Arc::clone(clock) }
    }

    /// Adds `webhook-id`, `webhook-timestamp` and `webhook-signature`.
    pub(super) fn sign(&self, id: &str, body: &[u8], headers: &mut HeaderMap) {
        let second = self.clock.wall().as_second().to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.expose()).expect("a key of any length will do");
        for part in [id.as_bytes(), b".", second.as_bytes(), b".", body] {
            mac.update(part);
        }
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        for (name, value) in [("webhook-id", id), ("webhook-timestamp", &second), ("webhook-signature", &signature)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
    }
}

/// The id of a batch: the same for the same records, so that a receiver knows a repeat.
pub(super) fn message_id(records: &[Record]) -> String {
    if let [record] = records {
        return record.id();
    }
    let mut digest = Sha256::new();
    for record in records {
        digest.update(record.id().as_bytes());
        digest.update(b"\n");
    }
    let digest = digest.finalize();
    let hex: Vec<String> = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("batch-{}", hex.concat())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::clock::ManualClock;

    /// The example of the specification's own libraries.
    #[test]
    fn the_published_example_is_signed_as_published() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let clock: SharedClock = ManualClock::at(Timestamp::from_second(1_614_265_330).unwrap());
        let mut headers = HeaderMap::new();
        let signer = Signer::new(SecretBytes::new(secret), &clock);
        signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#, &mut headers);
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
    }
}
