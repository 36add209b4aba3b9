//! Key texts, key hashes, peppers: mechanisms without IO.
//!
//! Nothing here knows of clients, stores or requests. A raw key is only ever a [`SecretText`] or
//! a borrowed slice of the request it came in; what leaves is a [`KeyHash`].
//!
//! [`SecretText`]: crate::model::secret::SecretText
//! [`KeyHash`]: crate::model::key::KeyHash

pub mod admin_text;
pub mod core_dumps;
pub mod key_text;
pub mod pepper;
pub mod refresh_text;
pub mod session_text;
pub mod shell_text;
pub mod signing;
