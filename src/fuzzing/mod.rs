//! What must hold for any bytes whatever: the bodies of the fuzz targets.
//!
//! A target is a function of bytes that panics when a promise is broken. It is run in two ways:
//! by libFuzzer (`fuzz/`, `scripts/fuzz`), and in the unit tests, over the corpus and some thousand
//! mutations of it ([`tests`]). Compiled only for those: with `cfg(fuzzing)` and in tests.
//!
//! | target | promise |
//! |---|---|
//! | [`keys`] | the text of a key is read in one way; a key that was made is read as itself |
//! | [`paths`] | the canonical form is stable, no reading of it is another place; routes by their definition |
//! | [`heads`] | a verdict on a request's head is that of its bytes alone; hyper reads a plain one alike |
//! | [`answers`] | an upstream's head is read the same however it comes |
//! | [`chunks`] | so is a body in chunks, and as its definition says |
//! | [`headers`] | nothing that speaks in our name, for one hop, or as a credential crosses |
//! | [`proxied`] | a PROXY protocol header is read the same however it comes, and as its definition says |
//! | [`websockets`] | where a frame of a tunnel ends, however it comes |
//! | [`configuration`] | any text is a configuration or problems that name path and remedy |
//! | `auth/jwt/fuzzing` | only what the issuer signed verifies |
//! | `metering/fuzzing` | damage invents no event and stops nobody |
//!
//! To add one: a function here (or beside what is private, as the last two), a line in
//! [`TARGETS`], a folder in `fuzz/corpus/`, a file in `fuzz/fuzz_targets/`.

pub mod answers;
pub mod chunks;
pub mod configuration;
pub mod headers;
pub mod heads;
pub mod keys;
pub mod paths;
pub mod proxied;
pub mod websockets;

#[cfg(test)]
mod mutation;
#[cfg(test)]
mod tests;

/// A target by the name that its corpus and its program have.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("answer_head", answers::check),
    ("chunks", chunks::check),
    ("config", configuration::check),
    ("headers", headers::check),
    ("journal", crate::metering::fuzzing::check),
    ("jwt", crate::auth::jwt_fuzzing::check),
    ("key_text", keys::check),
    ("path_route", paths::check),
    ("proxy_protocol", proxied::check),
    ("request_head", heads::check),
    ("websocket", websockets::check),
];

/// The first byte, which says how the others are used.
pub(crate) fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (*first, rest))
}

/// `data` in pieces of sizes that follow from `seed`: of one byte, or of some.
pub(crate) fn pieces(seed: u8, data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = usize::from(seed % 16) + 1;
    let offset = usize::from(seed / 16);
    let (first, rest) = data.split_at(offset.min(data.len()));
    std::iter::once(first).chain(rest.chunks(step))
}

/// Runs a target by its name.
///
/// # Panics
/// A promise is broken, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let (_, check) = TARGETS.into_iter().find(|(target, _)| *target == name).expect("a target has this name");
    check(data);
}
