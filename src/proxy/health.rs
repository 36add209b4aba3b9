//! Health checks: each endpoint is asked for a path every few seconds, from the control runtime, for
//! all workers.
//!
//! A check opens a connection of its own, so that it sees what a new connection sees. Any status from
//! 200 to 399 is good; what takes too long, breaks off or is refused is not.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use http::{Request, StatusCode, Uri};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use crate::config::balancing::HealthConfig;
use crate::server::dial::Dialer;
use crate::server::{Speaks, Stream};
use crate::tasks::Tasks;
use crate::wire::http1::answer::AnswerParser;

/// Checks `endpoint` of `cluster` until a stop.
pub async fn keep_checking(
    cluster: Arc<Cluster>,
    endpoint: usize,
    dialer: Dialer,
    config: HealthConfig,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(config.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streak = Streak::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let is_good = is_good(&dialer, &config).await;
        if let Some(is_healthy) = streak.note(is_good, &config) {
            cluster.checked(endpoint, is_healthy);
        }
    }
}

/// Answers of one kind in a row.
#[derive(Debug, Default)]
struct Streak {
    is_good: bool,
    length: u32,
}

impl Streak {
    /// What it comes to, once it is long enough.
    fn note(&mut self, is_good: bool, config: &HealthConfig) -> Option<bool> {
        self.length = if self.is_good == is_good { self.length.saturating_add(1) } else { 1 };
        self.is_good = is_good;
        let enough = if is_good { config.healthy } else { config.unhealthy };
        (self.length >= enough).then_some(is_good)
    }
}

async fn is_good(dialer: &Dialer, config: &HealthConfig) -> bool {
    let status = tokio::time::timeout(config.timeout, ask(dialer, config)).await;
    matches!(status, Ok(Ok(status)) if status.is_success() || status.is_redirection())
}

async fn ask(dialer: &Dialer, config: &HealthConfig) -> io::Result<StatusCode> {
    let dialed = dialer.dial(None).await?;
    match (dialed.stream, dialed.speaks) {
        (stream, Speaks::Http1) => ask_http1(stream, dialer.authority(), config.path.as_str()).await,
        (stream, Speaks::Http2) => ask_http2(stream, dialer, config).await.map_err(io::Error::other),
    }
}

async fn ask_http1(mut stream: Stream, authority: &str, path: &str) -> io::Result<StatusCode> {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: octroi-health\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let (mut parser, mut bytes) = (AnswerParser::default(), BytesMut::new());
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(head) = parser.parse(&mut bytes, false).map_err(io::Error::other)? {
            return Ok(head.status);
        }
    }
}

async fn ask_http2(stream: Stream, dialer: &Dialer, config: &HealthConfig) -> Result<StatusCode, h2::Error> {
    let (mut sender, connection) = h2::client::handshake(stream).await?;
    // Ends with the sender.
    let driven = Tasks::spawn_here(connection);
    let uri = Uri::builder().scheme("http").authority(dialer.authority()).path_and_query(config.path.clone());
    let mut request = Request::new(());
    *request.uri_mut() = uri.build().expect("configuration takes only authorities and paths");
    let (response, _) = sender.send_request(request, true)?;
    let status = response.await?.status();
    driven.abort();
    Ok(status)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::uri::PathAndQuery;

    use super::*;

    #[test]
    fn one_bad_answer_is_no_outage_and_one_good_one_no_recovery() {
        let config = HealthConfig {
            path: PathAndQuery::from_static("/"),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
        };
        let mut streak = Streak::default();
        let answers = [true, true, false, false, true, false, false, false, true, true];
        let found: Vec<_> = answers.into_iter().map(|is_good| streak.note(is_good, &config)).collect();
        let (none, well, ill) = (None, Some(true), Some(false));
        assert_eq!(found, [none, well, none, none, none, none, none, ill, none, well]);
    }
}
