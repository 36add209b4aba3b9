//! Streams that outlive the credential they began with: cut within ten seconds, each event saying
//! so with its bytes, and nobody else's stream touched. On both stores.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::books::{Books, Event};
use crate::callers::{connect, read_head, send};
use crate::database::TestDatabase;
use crate::harness::Setup;
use crate::issuer::Issuer;
use crate::signer::Signer;
use crate::upstream::Upstream;

/// The promise.
const PROMISE: Duration = Duration::from_secs(10);

/// A stream must be this old before it is asked after.
const OLD_ENOUGH: Duration = Duration::from_millis(2_500);

/// Streams that go on are cut by the stop soon.
const FAST_STOP: &str = "[server.drain]\ntimeout = \"1s\"\n";

/// A caller in the middle of a transfer.
struct Transfer {
    request_id: String,
    ended: Arc<AtomicBool>,
    /// Bytes of the response's body that arrived.
    received: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Transfer {
    /// Reads an endless response.
    fn down(setup: &Setup, credential: &str) -> Self {
        let mut stream = connect(setup.data);
        write!(stream, "GET /stream HTTP/1.1\r\nHost: x\r\n{credential}\r\n\r\n").unwrap();
        let head = String::from_utf8(read_head(&mut stream)).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").to_owned();
        Self::run(id, move |received| {
            let mut bytes = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..read]);
                // Every chunk of this upstream is `tick` and a line's end.
                let ticks = bytes.windows(5).filter(|window| *window == b"tick\n").count();
                received.store(ticks as u64 * 5, Ordering::Relaxed);
            }
        })
    }

    /// Sends an endless request.
    fn up(setup: &Setup, credential: &str, id: &str) -> Self {
        let mut stream: TcpStream = connect(setup.data);
        write!(stream, "POST /up HTTP/1.1\r\nHost: x\r\n{credential}\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        Self::run(id.to_owned(), move |_| {
            while stream.write_all(b"5\r\ntock\n\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    }

    fn run(request_id: String, work: impl FnOnce(&AtomicU64) + Send + 'static) -> Self {
        let (ended, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&ended), Arc::clone(&received));
        let thread = std::thread::spawn(move || {
            work(&count);
            flag.store(true, Ordering::Release);
        });
        Self { request_id, ended, received, thread }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Makes a change and measures until every one of `these` has ended.
fn cut_within_the_promise(these: &[&Transfer], others: &[&Transfer], change: impl FnOnce()) {
    assert!(these.iter().chain(others).all(|transfer| !transfer.has_ended()), "ended before there was a reason");
    change();
    let changed = Instant::now();
    while !these.iter().all(|transfer| transfer.has_ended()) {
        assert!(changed.elapsed() < PROMISE, "still going after {:?}", changed.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("cut after {:?}", changed.elapsed());
    assert!(others.iter().all(|transfer| !transfer.has_ended()), "somebody else's was cut as well");
}

fn line(raw: &str) -> String {
    format!("X-API-Key: {raw}")
}

fn event<'a>(events: &'a [Event], transfer: &Transfer) -> &'a Event {
    let mut found = events.iter().filter(|event| event.request_id == transfer.request_id);
    let event = found.next().unwrap_or_else(|| panic!("no event of {}", transfer.request_id));
    assert!(found.next().is_none(), "two events of {}", transfer.request_id);
    event
}

fn streams_end_with_their_credentials(setup: &Setup, books: &Books, execute: impl Fn(&str)) {
    let acme = setup.client(&["acme"]);
    let other = setup.client(&["other"]);
    let [revoked, sql, kept, expiring, going_up] = [(); 5].map(|()| setup.key(&acme, &[]));
    let others_key = setup.key(&other, &[]);
    let gateway = setup.start();

    let by_command = Transfer::down(setup, &line(&revoked.raw));
    let by_sql = Transfer::down(setup, &line(&sql.raw));
    let expires = Transfer::down(setup, &line(&expiring.raw));
    let same_client = Transfer::down(setup, &line(&kept.raw));
    let other_client = Transfer::down(setup, &line(&others_key.raw));
    // Its id is found in the table: nothing comes back while a body goes up.
    let upload = Transfer::up(setup, &line(&going_up.raw), "");
    std::thread::sleep(OLD_ENOUGH);
    let going_on = [&same_client, &other_client];

    cut_within_the_promise(&[&by_command], &[&by_sql, &expires, &upload, going_on[0], going_on[1]], || {
        setup.json(&["key", "revoke", &revoked.public_id]);
    });
    cut_within_the_promise(&[&by_sql, &upload], &[&expires, going_on[0], going_on[1]], || {
        for key in [&sql, &going_up] {
            execute(&format!("UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP WHERE id = '{}'", key.id));
        }
    });
    cut_within_the_promise(&[&expires], &going_on, || {
        execute(&format!("UPDATE api_keys SET expires_at = CURRENT_TIMESTAMP WHERE id = '{}'", expiring.id));
    });
    cut_within_the_promise(&[&same_client], &[&other_client], || {
        setup.json(&["client", "suspend", "acme"]);
    });
    // A change that takes nothing away voids what is cached, and cuts nothing.
    setup.json(&["client", "update", "other", "--rate", "123/s"]);
    std::thread::sleep(Duration::from_secs(4));
    assert!(!other_client.has_ended(), "cut without a reason that lasted");
    assert_eq!(gateway.stop(), 0);

    let events = books.events();
    for transfer in [&by_command, &by_sql, &expires, &same_client] {
        let event = event(&events, transfer);
        let received = i64::try_from(transfer.received.load(Ordering::Relaxed)).unwrap();
        assert_eq!((event.outcome.as_str(), event.reason.as_deref()), ("cut", Some("revoked")), "{event:?}");
        assert_eq!((event.status, event.bytes_out), (Some(200), received), "{event:?}");
    }
    assert_eq!(event(&events, &other_client).reason.as_deref(), Some("shutdown"));
    let uploads: Vec<_> = events.iter().filter(|event| event.status.is_none()).collect();
    let [upload_event] = uploads[..] else { panic!("{uploads:?}") };
    assert_eq!(upload_event.reason.as_deref(), Some("revoked"), "{upload_event:?}");
    assert!(upload_event.bytes_in > 0, "{upload_event:?}");
    assert_eq!(events.len(), 6);
    for transfer in [by_command, by_sql, expires, same_client, other_client, upload] {
        transfer.thread.join().unwrap();
    }
}

#[test]
fn on_sqlite() {
    let upstream = Upstream::start();
    let setup = Setup::sqlite_with(upstream.address, FAST_STOP);
    let path = setup.path("octroi.db");
    let books = Books::sqlite(&path);
    streams_end_with_their_credentials(&setup, &books, |sql| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection.execute_batch(sql).unwrap();
    });
}

#[test]
fn on_postgres() {
    let upstream = Upstream::start();
    let database = TestDatabase::create();
    let setup = Setup::new(upstream.address, &database.url(), FAST_STOP);
    streams_end_with_their_credentials(&setup, &Books::postgres(&database), |sql| database.execute(sql));
}

#[test]
fn a_token_s_stream_ends_with_it() {
    let upstream = Upstream::start();
    let signer = Signer::new("ed", "EdDSA");
    let issuer = Issuer::publishing(&[&signer]);
    let setup = Setup::sqlite_with(upstream.address, &format!("{FAST_STOP}{}leeway = \"1s\"\n", issuer.config()));
    setup.client(&["acme"]);
    setup.client(&["other"]);
    let gateway = setup.start();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let short = Transfer::down(&setup, &issuer.bearer(&signer, "acme", &json!({ "exp": now + 4 })));
    let long = Transfer::down(&setup, &issuer.bearer(&signer, "acme", &json!({})));
    let other = Transfer::down(&setup, &issuer.bearer(&signer, "other", &json!({})));
    std::thread::sleep(OLD_ENOUGH);
    cut_within_the_promise(&[&short], &[&long, &other], || {});
    let lasted = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(lasted >= now + 4, "before its time");
    cut_within_the_promise(&[&long], &[&other], || {
        setup.json(&["client", "suspend", "acme"]);
    });
    assert_eq!(gateway.stop(), 0);
    let events = Books::sqlite(&setup.path("octroi.db")).events();
    for transfer in [&short, &long] {
        assert_eq!(event(&events, transfer).reason.as_deref(), Some("revoked"));
    }
    assert_eq!(event(&events, &other).reason.as_deref(), Some("shutdown"));
}

#[test]
fn a_stream_ends_with_the_token_of_ours_that_opened_it() {
    let upstream = Upstream::start();
    let mut setup = Setup::sqlite_with(upstream.address, FAST_STOP);
    setup.set("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    let client = setup.client(&["acme"]);
    let key = setup.key(&client, &[]);
    let _gateway = setup.start();
    let post = |path: &str, form: &str| {
        let headers = ["Content-Type: application/x-www-form-urlencoded"];
        send(setup.data, "POST", path, &headers, form.as_bytes())
    };
    let token = || {
        let answer = post("/.octroi/token", &format!("grant_type=client_credentials&client_secret={}", key.raw));
        answer.json()["access_token"].as_str().unwrap().to_owned()
    };
    let stream = |token: &str| Transfer::down(&setup, &format!("Authorization: Bearer {token}"));
    let (first, second) = (token(), token());
    let (of_first, of_second, of_key) = (stream(&first), stream(&second), Transfer::down(&setup, &line(&key.raw)));
    std::thread::sleep(OLD_ENOUGH);
    cut_within_the_promise(&[&of_first], &[&of_second, &of_key], || {
        assert_eq!(post("/.octroi/revoke", &format!("token={first}")).status, 200);
    });
    cut_within_the_promise(&[&of_second, &of_key], &[], || {
        setup.json(&["key", "revoke", &key.public_id]);
    });
}
