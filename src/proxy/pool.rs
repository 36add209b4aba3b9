//! A worker's connections to one upstream: made on the worker, kept on the worker.
//!
//! Idle connections are a stack: the last one used is the likeliest to be alive, and the rest age
//! away. Sockets are not probed before use; a request that a dead connection never took goes out
//! on another one. The mutex is the worker's own and never contended: it is there because tasks
//! of a current-thread runtime must be `Send`.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use super::upload::Upload;
use crate::config::upstream::{Endpoint, UpstreamConfig};
use crate::model::clock::{Monotonic, SharedClock};
use crate::tasks::Tasks;

/// The bound of hyper's read buffer on upstream connections.
const READ_BUFFER: usize = 64 * 1024;

/// Why no connection could be had.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// Refused, unreachable, unknown name.
    #[error("cannot connect: {0}")]
    Refused(#[source] io::Error),
    /// `connect_timeout` passed.
    #[error("connecting took too long")]
    TimedOut,
    /// hyper could not take the socket over.
    #[error("the connection broke at once")]
    Broken(#[source] hyper::Error),
}

/// One worker's connections to one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) config: UpstreamConfig,
    endpoints: Vec<EndpointPool>,
    turn: AtomicUsize,
    clock: SharedClockDebug,
}

/// A clock in a type that derives `Debug`.
struct SharedClockDebug(SharedClock);

impl std::fmt::Debug for SharedClockDebug {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("clock")
    }
}

#[derive(Debug)]
struct EndpointPool {
    endpoint: Endpoint,
    host: HeaderValue,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Upload>,
    since: Monotonic,
}

/// A connection in use, with the way back to its pool.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) sender: SendRequest<Upload>,
    /// Whether it has carried a request before.
    pub(super) reused: bool,
    pool: Arc<Pool>,
    endpoint: usize,
}

impl Pool {
    pub(super) fn new(config: UpstreamConfig, clock: SharedClock) -> Arc<Self> {
        let endpoints = config
            .endpoints
            .iter()
            .map(|endpoint| EndpointPool {
                host: HeaderValue::try_from(&endpoint.authority).expect("an authority is visible ASCII"),
                endpoint: endpoint.clone(),
                idle: Mutex::default(),
            })
            .collect();
        Arc::new(Self { config, endpoints, turn: AtomicUsize::new(0), clock: SharedClockDebug(clock) })
    }

    /// The endpoint whose turn it is.
    pub(super) fn next_endpoint(&self) -> usize {
        if self.endpoints.len() == 1 { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) % self.endpoints.len() }
    }

    /// How many endpoints there are.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// An endpoint's own name.
    pub(super) fn host(&self, endpoint: usize) -> &HeaderValue {
        &self.endpoints[endpoint].host
    }

    /// An idle connection that is still good, as far as is known.
    pub(super) async fn take_idle(self: &Arc<Self>, endpoint: usize) -> Option<Lease> {
        loop {
            let idle = self.endpoints[endpoint].idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if self.clock.0.monotonic().since(idle.since) > self.config.keep_alive {
                continue;
            }
            let mut sender = idle.sender;
            // Ready at once, or after the connection's task has put its last answer away; an
            // error when it was closed meanwhile.
            if sender.ready().await.is_ok() {
                return Some(Lease { sender, reused: true, pool: Arc::clone(self), endpoint });
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(self: &Arc<Self>, endpoint: usize) -> Result<Lease, ConnectError> {
        let Endpoint { host, port, .. } = &self.endpoints[endpoint].endpoint;
        let connect = async {
            match host.parse::<IpAddr>() {
                Ok(address) => TcpStream::connect((address, *port)).await,
                Err(_name) => TcpStream::connect((host.as_str(), *port)).await,
            }
        };
        let stream = tokio::time::timeout(self.config.connect_timeout, connect)
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(ConnectError::Refused)?;
        // Requests leave at once; a failure costs latency and nothing else.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .handshake::<_, Upload>(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Broken)?;
        Tasks::spawn_here(async move {
            // How it ended is told to whoever waits for an answer on it.
            drop(connection.await);
        });
        Ok(Lease { sender, reused: false, pool: Arc::clone(self), endpoint })
    }
}

impl Lease {
    /// Gives the connection back: its answer was read whole and its request has left whole.
    pub(super) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let place = &self.pool.endpoints[self.endpoint];
        let mut idle = place.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.pool.config.keep_alive_connections {
            idle.push(Idle { sender: self.sender, since: self.pool.clock.0.monotonic() });
        }
    }
}
