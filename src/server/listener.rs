//! Addresses and workers: who accepts, how many at once, and when no more.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};

use super::connection::{Backstops, serve};
use super::watch::{Connections, CutCause, LOOK_EVERY, Watch};
use super::{Handler, Peer};
use crate::config::server::{ServerConfig, TimeoutConfig};
use crate::model::clock::SharedClock;
use crate::tasks::Tasks;
use crate::telemetry::metrics::Metrics;
use crate::wire::problem::Problem;

/// Connections the kernel holds for us before we accept them.
const BACKLOG: i32 = 4096;

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a stopping worker looks whether its connections have ended.
const STOP_LOOK: Duration = Duration::from_millis(20);

/// An address that cannot be taken.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// Which.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// The sockets of one worker: one for each address.
pub type Listeners = Vec<StdTcpListener>;

/// Takes the addresses and makes one socket per worker for each. Returns the addresses bound.
///
/// Each address is first bound *without* SO_REUSEPORT: with it, a second process (or a forgotten
/// first one) could share the address, and half of the traffic would silently go elsewhere.
pub fn bind(addresses: &[SocketAddr], workers: usize) -> Result<(Vec<Listeners>, Vec<SocketAddr>), ListenError> {
    let mut listeners: Vec<Listeners> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for wanted in addresses {
        let failed = |source| ListenError { address: *wanted, source };
        // Listening proves that nobody else does; with a port of 0 it also says which one it is.
        let probe = socket(*wanted, false).map_err(failed)?;
        let address = probe.local_addr().map_err(failed)?;
        drop(probe);
        for worker in &mut listeners {
            worker.push(socket(address, true).map_err(failed)?);
        }
        bound.push(address);
    }
    Ok((listeners, bound))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What all workers' connections share.
#[derive(Debug)]
pub struct Limits {
    open: AtomicUsize,
    most: usize,
    timeouts: TimeoutConfig,
    backstops: Backstops,
}

impl Limits {
    /// The limits of a configuration.
    #[must_use]
    pub fn new(config: &ServerConfig) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            most: config.limits.connections,
            timeouts: config.timeouts,
            // Twice our own limits: what passes them here is refused with a problem document.
            backstops: Backstops {
                headers: config.limits.header_count * 2 + 32,
                head_bytes: (config.limits.headers + config.limits.uri) * 2,
            },
        })
    }
}

/// One worker's share of the server.
pub struct Worker<H> {
    /// Answers its requests.
    pub handler: Arc<H>,
    /// Its sockets.
    pub listeners: Listeners,
    /// Shared by all workers.
    pub limits: Arc<Limits>,
    /// Time.
    pub clock: SharedClock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// When to stop.
    pub tasks: Tasks,
}

impl<H: Handler> Worker<H> {
    /// Accepts and serves on the current runtime until told to stop, and until every connection
    /// has ended.
    pub async fn run(self) -> io::Result<()> {
        let connections = Arc::new(Connections::default());
        for listener in &self.listeners {
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            let acceptor = Acceptor {
                handler: Arc::clone(&self.handler),
                limits: Arc::clone(&self.limits),
                clock: Arc::clone(&self.clock),
                metrics: Arc::clone(&self.metrics),
                connections: Arc::clone(&connections),
            };
            let stop = self.tasks.soft().clone();
            Tasks::spawn_here(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = acceptor.accept(&listener) => {}
                }
            });
        }
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = self.tasks.soft().cancelled() => break,
                _ = tick.tick() => connections.look(self.clock.monotonic(), &self.limits.timeouts),
            }
        }
        // Closed here and not when the last connection ends: who comes now is told at once.
        drop(self.listeners);
        stop(&connections, &self.tasks, &self.clock, &self.limits.timeouts).await;
        Ok(())
    }
}

async fn stop(connections: &Connections, tasks: &Tasks, clock: &SharedClock, timeouts: &TimeoutConfig) {
    let mut cut = false;
    while connections.count() > 0 {
        connections.finish();
        connections.look(clock.monotonic(), timeouts);
        if tasks.hard().is_cancelled() && !cut {
            cut = true;
            connections.cut(CutCause::Shutdown);
        }
        tokio::time::sleep(STOP_LOOK).await;
    }
}

struct Acceptor<H> {
    handler: Arc<H>,
    limits: Arc<Limits>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
}

impl<H: Handler> Acceptor<H> {
    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => self.take(stream, address),
                Err(error) if is_callers_fault(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, address: SocketAddr) {
        let Some(place) = Place::take(&self.limits, &self.metrics) else {
            refuse(&stream);
            return;
        };
        // Answers leave at once; a failure costs latency and nothing else.
        let _ = stream.set_nodelay(true);
        let watch = Watch::new(Arc::clone(&self.clock));
        let registration = self.connections.add(Arc::clone(&watch));
        let (handler, backstops) = (Arc::clone(&self.handler), self.limits.backstops);
        Tasks::spawn_here(async move {
            let _held = (place, registration);
            serve(stream, Peer { address, connection: watch }, handler, backstops).await;
        });
    }
}

/// Errors of one connection that never came to be, not of the listener.
fn is_callers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// A connection over the cap gets a short answer, if its socket takes it at once.
fn refuse(stream: &TcpStream) {
    let problem = Problem {
        status: 503,
        code: "overloaded",
        title: "Overloaded",
        detail: "all connections are taken; come back in a moment",
        request_id: "",
    };
    let _ = stream.try_write(&problem.wire("Service Unavailable"));
}

/// A place under the cap, given back when the connection ends.
struct Place {
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
}

impl Place {
    fn take(limits: &Arc<Limits>, metrics: &Arc<Metrics>) -> Option<Self> {
        if limits.open.fetch_add(1, Ordering::AcqRel) >= limits.most {
            limits.open.fetch_sub(1, Ordering::AcqRel);
            metrics.request_rejected(None, 503);
            return None;
        }
        metrics.connections_open.inc();
        Some(Self { limits: Arc::clone(limits), metrics: Arc::clone(metrics) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::AcqRel);
        self.metrics.connections_open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_an_error_also_for_one_of_our_own() {
        let (first, bound) = bind(&["127.0.0.1:0".parse().unwrap()], 2).unwrap();
        assert_eq!(first.len(), 2);
        let error = bind(&bound, 2).unwrap_err();
        assert_eq!(error.address, bound[0]);
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(bind(&bound, 1).is_ok());
    }
}
