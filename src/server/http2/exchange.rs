//! One stream: a request, the handler's answer, its body.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::translation;
use crate::server::request_body::StreamBody;
use crate::server::watch::{Verdict, Watch};
use crate::server::{Handler, Peer, RequestBody};
use crate::wire::http2::Sending;

/// Handles one stream to its end.
pub(super) async fn run<H: Handler>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    handler: Arc<H>,
    watch: Arc<Watch>,
) {
    watch.request_began();
    let (mut head, incoming) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    let is_tunnel = translation::request(&mut head);
    let wanted = head.headers.contains_key(EXPECT).then(|| Arc::new(AtomicBool::new(false)));
    let body = StreamBody::new(incoming, &head.headers, wanted.clone());
    let body = RequestBody::of_stream(body, Arc::clone(&watch), is_tunnel);
    let request = Request::from_parts(head, body);
    let peer = Peer::new(Arc::clone(&watch));
    let Some(response) = answer(&*handler, request, &peer, &mut respond, &watch, wanted.as_deref()).await else {
        return;
    };
    let Some(mut sending) = begin(response, &mut respond, is_head, is_tunnel, &watch) else {
        watch.response_ended();
        return;
    };
    let ended = poll_fn(|context| {
        watch.runs_in(context.waker());
        if watch.verdict() != Verdict::None {
            sending.cut(watch.verdict().goodbye());
            return Poll::Ready(false);
        }
        let waits = |waits: bool| if waits { watch.write_blocked() } else { watch.written() };
        sending.poll(context, waits).map(|sent| sent.is_ok())
    });
    if ended.await {
        watch.response_ended();
    }
}

/// Has the handler answer, for as long as the caller wants it. `wanted`: set when somebody reads
/// the body of a caller that waits for leave to send it.
async fn answer<H: Handler>(
    handler: &H,
    request: Request<RequestBody>,
    peer: &Peer,
    respond: &mut SendResponse<Bytes>,
    watch: &Watch,
    mut wanted: Option<&AtomicBool>,
) -> Option<Response<H::Body>> {
    let mut handling = pin!(handler.handle(request, peer));
    poll_fn(|context| {
        watch.runs_in(context.waker());
        if watch.verdict() != Verdict::None {
            respond.send_reset(Reason::CANCEL);
            return Poll::Ready(None);
        }
        if let Poll::Ready(response) = handling.as_mut().poll(context) {
            return Poll::Ready(Some(response));
        }
        if wanted.take_if(|wanted| wanted.load(Relaxed)).is_some() {
            let mut go_on = Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            // An error: the stream is gone, as the next look finds.
            let _ = respond.send_informational(go_on);
        }
        if respond.poll_reset(context).is_ready() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// Sends the head; what is left to send, if something is.
fn begin<B: http_body::Body<Data = Bytes> + Unpin>(
    response: Response<B>,
    respond: &mut SendResponse<Bytes>,
    is_head: bool,
    is_tunnel: bool,
    watch: &Watch,
) -> Option<Sending<B>> {
    let (mut head, body) = response.into_parts();
    let is_opened = is_tunnel && head.status == StatusCode::SWITCHING_PROTOCOLS;
    translation::response(&mut head, is_tunnel, watch);
    let has_body = !is_head && !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let (true, Some(length)) = (has_body && !is_opened, body.size_hint().exact())
        && !head.headers.contains_key(CONTENT_LENGTH)
    {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let ends = !has_body || body.is_end_stream();
    // What is settled by its end is settled before the caller can know of it.
    let body = (!ends).then_some(body);
    let stream = respond.send_response(Response::from_parts(head, ()), ends).ok()?;
    body.map(|body| if is_opened { Sending::tunnel(body, stream) } else { Sending::new(body, stream) })
}
