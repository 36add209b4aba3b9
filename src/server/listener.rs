//! Listening: taking an address for all workers, and each worker's share of its connections.
//!
//! Every worker has a socket of its own on each address (SO_REUSEPORT), so that the kernel
//! spreads connections and no worker wakes for another. The first bind of an address is without
//! the option: were the address taken by somebody else, even by somebody who would share it, a
//! part of the traffic would go there, silently. The option is set on that same socket
//! afterwards, so that the address is never let go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcp};
use std::os::unix::net::{UnixListener as StdUnix, UnixStream as StdUnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;

use super::arrival::{Arrived, Entrance, Lost, Speaks, arrive};
use super::places::{Place, Places};
use super::stream::Stream;
use super::watch::{Sweeper, TICK, Watch};
use super::{Handler, Refusal, connection, http2};
use crate::config::server::{ServerConfig, TimeoutConfig};
use crate::model::causes::with_causes;
use crate::model::clock::{Clock as _, SystemClock};
use crate::tasks::Tasks;
use crate::wire::problem::to_last_bytes;

/// How many connections the kernel keeps for a worker that is busy.
const BACKLOG: i32 = 4096;

/// The pause after a failed accept that is no fault of the connection: out of file descriptors
/// or memory. Trying again at once would spin until somebody else closes something.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Takes `address` for `workers` workers. Port 0 takes a free one, the same for all.
///
/// # Errors
/// The address cannot be taken.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<StdTcp>> {
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let taken = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&taken)?;
        sockets.push(next);
    }
    // Only when all are bound: a socket that listens gets its share of connections.
    sockets.iter().try_for_each(|socket| socket.listen(BACKLOG))?;
    Ok(sockets.into_iter().map(StdTcp::from).collect())
}

/// Makes the Unix socket at `path` for `workers` workers, all of which accept from it. One that a
/// process left behind is replaced; one that somebody answers on is taken.
///
/// # Errors
/// It cannot be made.
pub fn bind_unix(path: &Path, workers: usize) -> io::Result<Vec<StdUnix>> {
    let bound = StdUnix::bind(path).or_else(|error| {
        let is_left_behind = error.kind() == io::ErrorKind::AddrInUse
            && StdUnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_left_behind {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        StdUnix::bind(path)
    })?;
    bound.set_nonblocking(true)?;
    let mut sockets = (1..workers).map(|_| bound.try_clone()).collect::<io::Result<Vec<_>>>()?;
    sockets.push(bound);
    Ok(sockets)
}

/// A worker's socket of one listener.
#[derive(Debug)]
pub struct Bound {
    socket: BoundSocket,
    entrance: Entrance,
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

impl Bound {
    /// From [`bind`].
    #[must_use]
    pub fn tcp(socket: StdTcp, entrance: Entrance) -> Self {
        Self { socket: BoundSocket::Tcp(socket), entrance }
    }

    /// From [`bind_unix`].
    #[must_use]
    pub fn unix(socket: StdUnix, entrance: Entrance) -> Self {
        Self { socket: BoundSocket::Unix(socket), entrance }
    }
}

/// The same in the hands of the runtime.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn of(socket: BoundSocket) -> io::Result<Self> {
        Ok(match socket {
            BoundSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            BoundSocket::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are written whole; waiting for more would only delay them. Without it the
                // connection still works.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), address))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), LOCAL))
            }
        }
    }
}

/// Where callers on a Unix socket are.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT do not hold the address; listeners do.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Accepts and serves on the calling worker's runtime until a soft stop, then waits for its
/// connections: idle ones end at once, busy ones when they are done, all at a hard stop.
///
/// `listeners`: this worker's socket of each.
///
/// # Errors
/// The sockets cannot be handed to the runtime.
pub async fn serve<H: Handler>(
    listeners: Vec<Bound>,
    handler: Arc<H>,
    config: &ServerConfig,
    places: Places,
    tasks: Tasks,
) -> io::Result<()> {
    let worker = Arc::new(Worker {
        handler,
        places,
        timeouts: config.timeouts,
        trusted_proxies: config.trusted_proxies.clone(),
        protocol: connection::Protocol::new(&config.limits),
        http2: http2::Protocol::new(&config.limits),
        clock: SystemClock::new(),
        sweeper: Sweeper::new(),
        connections: TaskTracker::new(),
        tasks,
    });
    worker.sweeper.clock().set_date(worker.clock.wall());
    let mut accepting = Vec::with_capacity(listeners.len());
    for Bound { socket, entrance } in listeners {
        let listener = Listener::of(socket)?;
        accepting.push(Tasks::spawn_here(Arc::clone(&worker).accept(listener, Arc::new(entrance))));
    }
    let sweeping = Tasks::spawn_here(Arc::clone(&worker).sweep());
    for accepting in accepting {
        // A panic in the loop is a bug; the worker ends with it, and a vital worker the process.
        accepting.await.map_err(io::Error::other)?;
    }
    worker.connections.close();
    worker.sweeper.drain();
    worker.connections.wait().await;
    sweeping.abort();
    Ok(())
}

/// What the connections of a worker share.
struct Worker<H> {
    handler: Arc<H>,
    places: Places,
    timeouts: TimeoutConfig,
    /// Whose word about the caller counts in the PROXY protocol.
    trusted_proxies: Vec<IpNet>,
    protocol: connection::Protocol,
    http2: http2::Protocol,
    /// For dates.
    clock: SystemClock,
    sweeper: Arc<Sweeper>,
    connections: TaskTracker,
    tasks: Tasks,
}

impl<H: Handler> Worker<H> {
    async fn accept(self: Arc<Self>, listener: Listener, entrance: Arc<Entrance>) {
        let mut exhausted = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.tasks.soft().cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    exhausted = false;
                    self.admit(stream, address, &entrance);
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    // Once, not ten times a second for as long as it lasts.
                    if !std::mem::replace(&mut exhausted, true) {
                        tracing::warn!(%error, "cannot accept connections; trying again until it works");
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: Stream, address: SocketAddr, entrance: &Arc<Entrance>) {
        let Some(mut place) = self.places.take() else {
            return self.turn_away(&stream, address, entrance);
        };
        // Behind the PROXY protocol nobody knows yet who calls.
        if !entrance.proxy_protocol && !place.is_for(address.ip()) {
            return self.turn_away(&stream, address, entrance);
        }
        if entrance.is_open() {
            let watch = self.watch(Watch::new(address, Arc::clone(self.sweeper.clock()), self.timeouts));
            let (handler, protocol) = (Arc::clone(&self.handler), self.protocol.clone());
            // Made inside: a future that is moved into another stands in it twice.
            Tasks::spawn_here(self.connections.track_future(async move {
                connection::run(stream, handler, watch, protocol).await;
                drop(place);
            }));
            return;
        }
        let (worker, entrance) = (Arc::clone(self), Arc::clone(entrance));
        Tasks::spawn_here(self.connections.track_future(async move {
            worker.receive(stream, address, &entrance, place).await;
        }));
    }

    /// Serves a connection that has to go through something first.
    async fn receive(&self, stream: Stream, address: SocketAddr, entrance: &Entrance, mut place: Place) {
        let arriving = arrive(stream, address, entrance, &self.trusted_proxies, self.timeouts.tls_handshake);
        let arrived = tokio::select! {
            arrived = arriving => arrived,
            () = self.tasks.hard().cancelled() => return,
        };
        let Arrived { stream, address, speaks, secured } = match arrived {
            Ok(arrived) => arrived,
            Err(lost) => return self.note_lost(&lost, address, entrance),
        };
        if entrance.proxy_protocol && !place.is_for(address.ip()) {
            return;
        }
        if secured.is_some() {
            self.places.metrics().tls_handshakes_done.inc();
        }
        let clock = Arc::clone(self.sweeper.clock());
        let watch = self.watch(Watch::of(address, secured, clock, self.timeouts));
        let handler = Arc::clone(&self.handler);
        match speaks {
            Speaks::Http1 => Box::pin(connection::run(stream, handler, watch, self.protocol.clone())).await,
            Speaks::Http2 => {
                Box::pin(http2::run(stream, handler, watch, Arc::clone(&self.sweeper), &self.http2)).await;
            }
        }
    }

    fn watch(&self, watch: Arc<Watch>) -> Arc<Watch> {
        self.sweeper.add(&watch);
        watch
    }

    /// Callers' mistakes and scanners: counted, and told to whoever looks for them.
    fn note_lost(&self, lost: &Lost, address: SocketAddr, entrance: &Entrance) {
        if entrance.tls.is_some() && !matches!(lost, Lost::Looked) {
            self.places.metrics().tls_handshakes_failed.inc();
        }
        tracing::debug!(%address, error = with_causes(lost), "a connection ended before its first request");
    }

    /// Best effort and no waiting: whoever is too many must not cost time.
    fn turn_away(&self, stream: &Stream, address: SocketAddr, entrance: &Entrance) {
        if !entrance.is_open() {
            return;
        }
        let answer = to_last_bytes(&self.handler.refuse(Refusal::Overloaded, address.ip().to_canonical()));
        // Past tokio, which does not know yet that the socket can be written.
        let socket = stream.socket();
        let _ = socket.send(&answer);
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }

    async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let started = ticks.tick().await;
        loop {
            tokio::select! {
                now = ticks.tick() => {
                    self.sweeper.clock().set(now - started);
                    self.sweeper.clock().set_date(self.clock.wall());
                    self.handler.tick(now.elapsed());
                    let remind_each = self.handler.remind_each();
                    self.sweeper.sweep(remind_each, |grant| self.handler.still_stands(grant));
                }
                () = self.tasks.hard().cancelled() => break,
            }
        }
        // A connection that was accepted at this very moment is cut by the next round.
        loop {
            self.sweeper.cut();
            ticks.tick().await;
        }
    }
}

/// Whether the failure is one connection's (it was reset before it was accepted) and not the
/// process's.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NetworkDown, NetworkUnreachable, TimedOut};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | NetworkDown | NetworkUnreachable | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_an_error_and_a_free_one_is_shared_by_all_workers() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let ours = bind(any, 3).unwrap();
        let address = ours[0].local_addr().unwrap();
        assert!(ours.iter().all(|listener| listener.local_addr().unwrap() == address));
        let again = bind(address, 1).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse, "even though the first would share it");
        drop(ours);
        bind(address, 2).unwrap();
    }
}
