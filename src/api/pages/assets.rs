//! Style and script, in the binary. Their addresses name their contents, so that browsers keep them.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::api::fault::Fault;
use crate::crypto::pepper::sha256;

/// A file that pages name.
pub(super) struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
    address: LazyLock<String>,
}

impl Asset {
    /// Where it is served.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// The style.
pub(super) static STYLE: Asset = Asset {
    name: "style.css",
    kind: "text/css; charset=utf-8",
    text: include_str!("assets/style.css"),
    address: LazyLock::new(|| address("style.css", include_str!("assets/style.css"))),
};

/// The script.
pub(super) static SCRIPT: Asset = Asset {
    name: "app.js",
    kind: "text/javascript; charset=utf-8",
    text: include_str!("assets/app.js"),
    address: LazyLock::new(|| address("app.js", include_str!("assets/app.js"))),
};

fn address(name: &str, text: &str) -> String {
    format!("/assets/{name}?{}", &sha256(text.as_bytes()).to_hex()[..12])
}

/// Serves one of them.
pub(super) async fn serve(Path(name): Path<String>) -> Result<Response, Fault> {
    let asset = [&STYLE, &SCRIPT].into_iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| Fault::not_found("there is no such file"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    Ok((headers, asset.text).into_response())
}
