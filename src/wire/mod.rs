//! Mechanisms of HTTP messages, without knowledge of sockets, routes or clients.
//!
//! | file | owns |
//! |---|---|
//! | [`body`] | the kinds of body a response can have |
//! | [`observed`] | counts a body's bytes and tells its end exactly once |
//! | [`problem`] | the body of an error (RFC 9457), as a response or as raw bytes |
//! | [`percent`] | text as visible ASCII |
//! | [`mod@csv`] | texts in the lists that people open in spreadsheets |
//! | [`head`] | what a request's head may be, before anything is decided from it |
//! | [`http1`] | HTTP/1.1 as bytes: heads, lengths, chunks |
//! | [`http2`] | a body on its way into a stream |
//! | [`proxy_protocol`] | what a proxy in front says about who calls |
//! | [`websocket`] | the handshake's proof, and where a frame ends |

pub mod body;
pub mod csv;
pub mod head;
pub mod http1;
pub mod http2;
pub mod observed;
pub mod percent;
pub mod problem;
pub mod proxy_protocol;
pub mod websocket;
