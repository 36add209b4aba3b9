//! Key texts, key hashes, peppers: mechanisms without IO and without product rules.

pub mod key_text;
pub mod pepper;
