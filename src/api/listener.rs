//! The admin listener's connections: few, and none for ever.
//!
//! Operators, probes and scrapers share the process's descriptors with the callers, and
//! `admin.metrics_listen` may be open to a network: a head that does not come and a connection
//! too many end here as they do on the data listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::router::{AdminState, for_peer, router};
use crate::server::Crowds;
use crate::server::tls::Tls;
use crate::tasks::Tasks;

/// How many connections are served at once; more wait in the kernel until one ends.
const CONNECTIONS: usize = 64;

/// How many of those from one address: nobody alone takes all of them.
const CONNECTIONS_OF_ONE: usize = 32;

/// How long the next head, or a handshake, may take, also on an idle connection: a scraper connects
/// again, and a connection that says nothing is not worth a place.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last, whatever its peer does or fails to read: longer than the longest
/// answer, which somebody watches (`/v1/tail`).
const LIFE: Duration = Duration::from_mins(11);

/// The same where only probes and scrapers come.
const SHORT_LIFE: Duration = Duration::from_mins(1);

/// The pause after a failed accept that is no fault of the connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How one listener serves.
#[derive(Clone)]
struct Manner {
    router: Router,
    tls: Option<Arc<Tls>>,
    life: Duration,
    tasks: Tasks,
}

/// Serves until a hard stop: probes and scrapers are answered to the last.
pub async fn serve(listener: TcpListener, state: AdminState, tls: Option<Arc<Tls>>, tasks: Tasks) {
    let life = if state.api.is_some() { LIFE } else { SHORT_LIFE };
    let manner = Manner { router: router(state), tls, life, tasks: tasks.clone() };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let crowds = Crowds::new(CONNECTIONS_OF_ONE);
    let stop = tasks.hard().clone();
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            };
            // One too many of an address ends here: its others are not in the way of anybody else.
            let Some(member) = crowds.join(peer.ip()) else { continue };
            let connection = connection(stream, peer, manner.clone());
            tasks.spawn_control(async move {
                connection.await;
                drop((place, member));
            });
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accept => {}
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, manner: Manner) {
    let served = async {
        match &manner.tls {
            None => serve_http(stream, peer, &manner.router).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(HEAD, tls.acceptor().accept(stream)).await;
                if let Ok(Ok(stream)) = handshake {
                    serve_http(stream, peer, &manner.router).await;
                }
            }
        }
    };
    tokio::select! {
        // What goes wrong on it is its peer's affair.
        _ = tokio::time::timeout(manner.life, served) => {}
        () = manner.tasks.hard().cancelled() => {}
    }
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr, router: &Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(for_peer(router, peer)));
    // What goes wrong on it is its peer's affair.
    let _ = served.await;
}
