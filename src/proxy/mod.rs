//! The data path: the walk of one request.
//!
//! ```text
//! server ─ handle ─ check_head ─ find_route ─ authenticate ─ authorize ─ limit ─ admit ─ forward
//!             │         400 414 431   400 404 405   400 401 403 429 503  403   429    503    413 502 504
//!             └── a rejection becomes its answer here, once; a response's body settles its exchange
//! ```
//!
//! `gateway` holds the order, in one function, with the reason for each place; `docs/request.md`
//! tells it at length. Refuses to own: who a caller is (`auth`), what it may spend (`limit`),
//! what is written into the books (`metering`), sockets (`server`).

mod body;
mod context;
mod exchange;
mod forward;
mod gateway;
pub mod headers;
pub mod path;
mod pool;
pub mod rejection;
mod reserved;
pub mod route;
mod upload;

pub use body::ResponseBody;
pub use gateway::{Gateway, Shared};
