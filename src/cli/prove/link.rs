//! The wire between the gateway under proof and PostgreSQL, which can be cut in several ways.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::store::scratch::ServerPlace;
use crate::tasks::Tasks;

/// What the wire does to what goes over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wire {
    /// Nothing.
    Passes,
    /// Connections are closed, new ones at once.
    Refuses,
    /// Nothing arrives, and nobody is told.
    Silent,
    /// Everything arrives late.
    Slow,
    /// What is sent arrives and is done; the answers are lost.
    Forgets,
}

impl Wire {
    const ALL: [Self; 5] = [Self::Passes, Self::Refuses, Self::Silent, Self::Slow, Self::Forgets];
}

/// A wire to one server.
pub(super) struct Link {
    state: Arc<State>,
}

struct State {
    wire: AtomicU8,
    /// Counts cuts: every connection that was there ends.
    cuts: watch::Sender<u64>,
    /// Answers of the server that never arrived.
    forgotten: AtomicU64,
}

impl State {
    fn wire(&self) -> Wire {
        Wire::ALL[usize::from(self.wire.load(Relaxed))]
    }
}

impl Link {
    /// A free port. Nothing listens there until [`Link::start`] knows where it leads.
    pub(super) async fn bind() -> io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// Leads it to `far`.
    pub(super) fn start(listener: TcpListener, far: ServerPlace) -> Self {
        let state = State {
            wire: AtomicU8::new(Wire::Passes as u8),
            cuts: watch::Sender::new(0),
            forgotten: AtomicU64::new(0),
        };
        let state = Arc::new(state);
        Tasks::spawn_here(accept(listener, far, Arc::clone(&state)));
        Self { state }
    }

    /// Has the wire behave so from now on.
    pub(super) fn set(&self, wire: Wire) {
        self.state.wire.store(wire as u8, Relaxed);
        if wire == Wire::Refuses {
            self.cut();
        }
    }

    /// Ends every connection that is there.
    pub(super) fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many connections had an answer of the server that never arrived.
    pub(super) fn forgotten(&self) -> u64 {
        self.state.forgotten.load(Relaxed)
    }
}

async fn accept(listener: TcpListener, far: ServerPlace, state: Arc<State>) {
    loop {
        let Ok((near, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        if state.wire() != Wire::Refuses {
            Tasks::spawn_here(connect(near, far.clone(), Arc::clone(&state)));
        }
    }
}

async fn connect(near: TcpStream, far: ServerPlace, state: Arc<State>) {
    let _ = near.set_nodelay(true);
    match far {
        ServerPlace::Tcp(host, port) => {
            let Ok(far) = TcpStream::connect((host.as_str(), port)).await else { return };
            let _ = far.set_nodelay(true);
            carry(near, far, &state).await;
        }
        ServerPlace::Unix(path) => {
            let Ok(far) = UnixStream::connect(path).await else { return };
            carry(near, far, &state).await;
        }
    }
}

async fn carry(near: TcpStream, far: impl AsyncRead + AsyncWrite, state: &State) {
    let (from_near, to_near) = tokio::io::split(near);
    let (from_far, to_far) = tokio::io::split(far);
    let mut cuts = state.cuts.subscribe();
    let forgot = AtomicBool::new(false);
    tokio::select! {
        // Either end closes, or a cut: the connection is over, like one through a machine that died.
        () = pass(from_near, to_far, state, None) => {}
        () = pass(from_far, to_near, state, Some(&forgot)) => {}
        _ = cuts.changed() => {}
    }
    if forgot.load(Relaxed) {
        state.forgotten.fetch_add(1, Relaxed);
    }
}

/// Passes bytes on; `answers`: these are the server's, and it is noted when one is lost.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &State,
    answers: Option<&AtomicBool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        if state.wire() == Wire::Slow {
            sleep(Duration::from_millis(40)).await;
        }
        while state.wire() == Wire::Silent {
            sleep(Duration::from_millis(20)).await;
        }
        if let (Wire::Forgets, Some(forgot)) = (state.wire(), answers) {
            forgot.store(true, Relaxed);
            continue;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
