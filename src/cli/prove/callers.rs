//! Callers of the gateway under proof: most ask well, some send much, some leave in the middle.
//! They write down every answer that arrived whole.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::upstream::MARK;
use crate::model::chance::Chance;
use crate::model::secret::SecretText;
use crate::tasks::Tasks;

/// Longer than anything a gateway that lives makes its caller wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer that arrived whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// The request's id.
    pub(super) id: Uuid,
    /// Its status.
    pub(super) status: u16,
    /// Whether the upstream gave it; else the gateway did.
    pub(super) forwarded: bool,
}

/// What callers saw.
#[derive(Default)]
pub(super) struct Tally {
    answers: Mutex<Vec<Answer>>,
    /// Answers that arrived whole.
    pub(super) answered: AtomicU64,
    /// Requests that a caller broke off on purpose.
    pub(super) aborted: AtomicU64,
    /// Requests that got no whole answer.
    pub(super) broken: AtomicU64,
    /// Requests that the gateway would not forward because it could not have counted them.
    pub(super) uncountable: AtomicU64,
}

impl Tally {
    /// All answers so far.
    pub(super) fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        self.answered.fetch_add(1, Ordering::Relaxed);
        if answer.status == 503 && !answer.forwarded {
            self.uncountable.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Callers, until they are told to stop.
pub(super) struct Crowd {
    /// What they saw.
    pub(super) tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// `size` callers with a connection each.
    pub(super) fn start(address: SocketAddr, size: usize, key: &SecretText, chance: &mut Chance) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let one = |_| {
            let caller = Caller {
                address,
                key: key.clone(),
                chance: Chance(chance.any()),
                tally: Arc::clone(&tally),
                stop: Arc::clone(&stop),
            };
            Tasks::spawn_here(caller.run())
        };
        let callers = (0..size).map(one).collect();
        Self { tally, stop, callers }
    }

    /// Lets each finish what it is doing.
    pub(super) async fn stop(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            // One that panicked saw less than it could have; the books are checked all the same.
            let _ = caller.await;
        }
        self.tally
    }
}

struct Caller {
    address: SocketAddr,
    key: SecretText,
    chance: Chance,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

impl Caller {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(sender) = self.connect().await {
                self.ask_until_cut(sender).await;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        Tasks::spawn_here(async move {
            // How it ended shows in what was sent over it.
            let _ = connection.await;
        });
        Some(sender)
    }

    async fn ask_until_cut(&mut self, mut sender: SendRequest<Full<Bytes>>) {
        while !self.stop.load(Ordering::Relaxed) && sender.ready().await.is_ok() {
            let went_on = match self.chance.below(100) {
                0..70 => self.ask(&mut sender, Method::GET, "/", 0).await,
                70..78 => {
                    let bytes = self.chance.between(1, 64 * 1024);
                    self.ask(&mut sender, Method::POST, "/", bytes).await
                }
                78..83 => self.ask(&mut sender, Method::GET, "/large", 0).await,
                83..87 => self.ask(&mut sender, Method::GET, "/failing", 0).await,
                87..90 => self.ask(&mut sender, Method::GET, "/slow", 0).await,
                90..92 => self.ask(&mut sender, Method::GET, "/silent", 0).await,
                92..94 => self.ask(&mut sender, Method::GET, "/half", 0).await,
                94..97 => self.leave_while_reading(&mut sender).await,
                _ => {
                    self.leave_while_sending().await;
                    true
                }
            };
            if !went_on {
                return;
            }
            sleep(Duration::from_millis(self.chance.between(2, 12))).await;
        }
    }

    /// Asks and reads to the end; whether the connection can be used again.
    async fn ask(
        &mut self,
        sender: &mut SendRequest<Full<Bytes>>,
        method: Method,
        path: &'static str,
        bytes: u64,
    ) -> bool {
        let body = Full::new(Bytes::from(vec![b'x'; usize::try_from(bytes).unwrap_or_default()]));
        let request = self.request(method, path, body);
        let whole = timeout(PATIENCE, async { whole(sender.send_request(request).await?).await }).await;
        if let Ok(Ok(Some(answer))) = whole {
            self.tally.note(answer);
            return true;
        }
        self.tally.broken.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Reads the beginning of a large answer and closes.
    async fn leave_while_reading(&mut self, sender: &mut SendRequest<Full<Bytes>>) -> bool {
        let request = self.request(Method::GET, "/large", Full::default());
        if let Ok(Ok(mut response)) = timeout(PATIENCE, sender.send_request(request)).await {
            let _ = timeout(PATIENCE, response.body_mut().frame()).await;
        }
        self.tally.aborted.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Announces more than it sends.
    async fn leave_while_sending(&mut self) {
        let Ok(mut stream) = TcpStream::connect(self.address).await else { return };
        let head = format!(
            "POST / HTTP/1.1\r\nHost: proof\r\nX-API-Key: {}\r\nContent-Length: 100000\r\n\r\nand no more",
            self.key.expose()
        );
        let _ = stream.write_all(head.as_bytes()).await;
        sleep(Duration::from_millis(self.chance.below(30))).await;
        self.tally.aborted.fetch_add(1, Ordering::Relaxed);
    }

    fn request(&self, method: Method, path: &'static str, body: Full<Bytes>) -> Request<Full<Bytes>> {
        let request = Request::builder().method(method).uri(path).header("host", "proof");
        request.header("x-api-key", self.key.expose()).body(body).expect("a key is visible ASCII")
    }
}

/// Reads the rest; none: an answer that names no request.
async fn whole(response: Response<Incoming>) -> hyper::Result<Option<Answer>> {
    let (head, body) = response.into_parts();
    body.collect().await?;
    let id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).and_then(|id| Uuid::parse_str(id).ok());
    let (status, forwarded) = (head.status.as_u16(), head.headers.contains_key(MARK));
    Ok(id.map(|id| Answer { id, status, forwarded }))
}
