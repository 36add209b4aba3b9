//! The demo upstream of `octroi quickstart`: answers every request with what it saw.
//!
//! A real HTTP service on a socket of its own, so that what a newcomer sees is what any
//! upstream would see: identity headers set, the credential gone.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::tasks::Tasks;

/// A bound demo upstream.
#[derive(Debug)]
pub struct DemoUpstream {
    listener: TcpListener,
}

impl DemoUpstream {
    /// Binds `preferred`, or any free port beside it.
    pub async fn bind(preferred: SocketAddr) -> std::io::Result<Self> {
        let listener = match TcpListener::bind(preferred).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(SocketAddr::new(preferred.ip(), 0)).await?,
        };
        Ok(Self { listener })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for as long as the process lives.
    pub async fn serve(self) {
        loop {
            // An accept that fails (no descriptor left) must not spin.
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            Tasks::spawn_here(async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(describe));
                // A caller that goes away ends its own connection; nobody is to be told.
                let _ = connection.await;
            });
        }
    }
}

async fn describe(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut received = 0_u64;
    while let Some(Ok(frame)) = body.frame().await {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let headers: serde_json::Map<String, serde_json::Value> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
        .collect();
    let seen = serde_json::json!({
        "message": "this is the demo upstream; the request below passed the gate",
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "headers": headers,
        "body_bytes": received,
    });
    let mut text = serde_json::to_string_pretty(&seen).unwrap_or_default();
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}
