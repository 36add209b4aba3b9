//! HTTP/1.1 on the wire (RFC 9112), as functions of bytes: no sockets, no waiting, no policy.
//!
//! | file | owns |
//! |---|---|
//! | [`answer`] | the head of a response: parsed strictly, and how its body ends |
//! | [`request`] | the head of a request: the plain shape, what is refused, what another engine judges |
//! | [`response`] | the head of a response, written |
//! | [`chunks`] | the chunked coding, read and written |
//! | [`outgoing`] | a body on its way out, in its framing |
//! | [`fields`] | header lines between bytes and a map; lengths; where a head ends |
//!
//! Whatever two readers could take for two things is refused: the bytes come from peers that may
//! be hostile, and what follows a message on its connection is the next message.

pub mod answer;
pub mod chunks;
pub mod fields;
pub mod outgoing;
pub mod request;
pub mod response;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// By the chunked coding.
    Chunked,
    /// The connection's end is the body's.
    UntilClose,
}
