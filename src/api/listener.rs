//! The admin listener's connections: few, and none for ever.
//!
//! Operators, probes and scrapers share the process's descriptors with the callers, and
//! `admin.metrics_listen` may be open to a network: a head that does not come and a connection
//! too many end here as they do on the data listener.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::tasks::Tasks;

/// How many connections are served at once; more wait in the kernel until one ends.
const CONNECTIONS: usize = 64;

/// How long the next head may take, also on an idle connection: a scraper connects again, and a
/// connection that says nothing is not worth a place.
const HEAD: Duration = Duration::from_secs(10);

/// The pause after a failed accept that is no fault of the connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until a hard stop: probes and scrapers are answered to the last.
pub(super) async fn serve(listener: TcpListener, router: Router, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let stop = tasks.hard().clone();
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            };
            let connection = connection(stream, router.clone(), tasks.clone());
            tasks.spawn_control(async move {
                connection.await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accept => {}
    }
}

async fn connection(stream: TcpStream, router: Router, tasks: Tasks) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        // What goes wrong on it is its peer's affair.
        _ = served => {}
        () = tasks.hard().cancelled() => {}
    }
}
