//! Endpoints that go, fail, refuse their checks and come back, under load: what callers see, and
//! what the metrics say.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::callers::{Crowd, fetch, raw, send};
use crate::harness::{Setup, eventually, text};

/// What a service does with a request.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Mood {
    Fine,
    /// 503 to everything.
    Unavailable,
    /// 503 to its health check only.
    Sick,
    /// It closes the connection before an answer.
    Resets,
    /// It answers after 300 ms.
    Slow,
}

/// A service whose mood can be set.
struct Service {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service = Self { address, mood: Arc::default(), asked: Arc::default() };
        let (mood, asked) = (Arc::clone(&service.mood), Arc::clone(&service.asked));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (mood, asked) = (Arc::clone(&mood), Arc::clone(&asked));
                thread::spawn(move || serve(stream, &mood, &asked));
            }
        });
        service
    }

    fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// What was asked while `work` ran.
    fn asked_during(&self, work: impl FnOnce()) -> usize {
        let before = self.asked();
        work();
        self.asked() - before
    }
}

fn serve(mut stream: TcpStream, mood: &AtomicU8, asked: &AtomicUsize) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            }
        }
        let is_check = bytes.starts_with(b"GET /healthz ");
        bytes.clear();
        asked.fetch_add(usize::from(!is_check), Ordering::Relaxed);
        let mood = mood.load(Ordering::Relaxed);
        let is = |other: Mood| mood == other as u8;
        if is(Mood::Resets) {
            return;
        }
        if is(Mood::Slow) && !is_check {
            thread::sleep(Duration::from_millis(300));
        }
        let fails = is(Mood::Unavailable) || (is(Mood::Sick) && is_check);
        let status = if fails { "503 Service Unavailable" } else { "200 OK" };
        if stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").as_bytes()).is_err() {
            return;
        }
    }
}

fn gateway(services: &[&Service], more: &str) -> (Setup, String) {
    let setup = Setup::sqlite("127.0.0.1:1".parse().unwrap());
    let endpoints: Vec<String> = services.iter().map(|service| format!("\"http://{}\"", service.address)).collect();
    let config = setup.config().replace(
        "endpoints = [\"http://127.0.0.1:1\"]\n",
        &format!("endpoints = [{}]\n{more}\n", endpoints.join(", ")),
    );
    setup.write_config(&config);
    let client = setup.client(&["acme", "--rate", "100000/s", "--burst", "100000"]);
    let key = setup.key(&client, &[]).raw;
    (setup, key)
}

fn metric(setup: &Setup, name: &str, endpoint: &Service) -> String {
    let metrics = text(&raw(setup.admin, b"GET /metrics HTTP/1.0\r\n\r\n"));
    let port = format!(":{}\"", endpoint.address.port());
    let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(&port));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).rsplit(' ').next().unwrap().to_owned()
}

/// Lets the crowd ask for some hundred times more.
fn some_hundred_more(crowd: &Crowd) {
    let before = crowd.tally().count();
    eventually("some hundred more requests", || crowd.tally().count() > before + 300);
}

fn nobody_saw_an_error(crowd: Crowd) {
    let tally = crowd.stop();
    assert_eq!((tally.other_than(200), tally.broken.load(Ordering::Relaxed)), (0, 0), "of {}", tally.count());
}

#[test]
fn an_endpoint_that_goes_away_and_comes_back_costs_callers_nothing() {
    let (stays, fails) = (Service::start(), Service::start());
    let ejection = "retry_on = [\"reset\", \"503\"]\n[upstreams.ejection]\nconsecutive_failures = 3\nbase_time = \"1s\"\nreturn_time = \"200ms\"\n";
    let (setup, key) = gateway(&[&stays, &fails], ejection);
    let _gateway = setup.start();
    let crowd = Crowd::start(setup.data, 4, "/x", &key, Duration::ZERO);
    some_hundred_more(&crowd);
    assert!(stays.asked() > 100 && fails.asked() > 100);
    for mood in [Mood::Resets, Mood::Unavailable] {
        fails.set(mood);
        eventually("it is ejected", || metric(&setup, "octroi_upstream_health", &fails) == "0");
        // Out: it is asked again only when its time is over.
        let asked = fails.asked_during(|| some_hundred_more(&crowd));
        assert!(asked < 20, "{asked}");
        fails.set(Mood::Fine);
        eventually("it is back", || metric(&setup, "octroi_upstream_health", &fails) == "1");
        eventually("its share is whole", || fails.asked_during(|| some_hundred_more(&crowd)) > 100);
    }
    assert_ne!(metric(&setup, "octroi_upstream_ejections_total", &fails), "0");
    nobody_saw_an_error(crowd);
}

#[test]
fn an_endpoint_that_is_removed_under_load_costs_callers_nothing() {
    let (stays, goes) = (Service::start(), Service::start());
    let (setup, key) = gateway(&[&stays, &goes], "");
    // Nobody listens there from the beginning: each turn of it goes to the other one.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = dead.local_addr().unwrap().port();
    drop(dead);
    setup.write_config(&setup.config().replace(&goes.address.port().to_string(), &port.to_string()));
    let _gateway = setup.start();
    let crowd = Crowd::start(setup.data, 4, "/x", &key, Duration::ZERO);
    some_hundred_more(&crowd);
    nobody_saw_an_error(crowd);
    // Not only what is safe: nothing had left.
    for _ in 0..10 {
        assert_eq!(send(setup.data, "POST", "/x", &[&format!("X-API-Key: {key}")], b"").status, 200);
    }
}

#[test]
fn checks_take_an_endpoint_out_and_bring_it_back() {
    let (first, second) = (Service::start(), Service::start());
    let health = "[upstreams.health]\npath = \"/healthz\"\ninterval = \"50ms\"\ntimeout = \"500ms\"\nunhealthy = 2\n";
    let (setup, key) = gateway(&[&first, &second], health);
    let gateway = setup.start();
    let crowd = Crowd::start(setup.data, 4, "/x", &key, Duration::from_millis(1));
    first.set(Mood::Sick);
    gateway.wait_for_log("unhealthy by its checks");
    some_hundred_more(&crowd);
    assert_eq!(first.asked_during(|| some_hundred_more(&crowd)), 0);
    assert_eq!(metric(&setup, "octroi_upstream_health", &first), "0");
    first.set(Mood::Fine);
    gateway.wait_for_log("healthy again");
    eventually("it is asked again", || first.asked_during(|| some_hundred_more(&crowd)) > 100);
    nobody_saw_an_error(crowd);
    // None left: said at once, and transient.
    first.set(Mood::Sick);
    second.set(Mood::Sick);
    let ask = || fetch(setup.data, "/x", &[&format!("X-API-Key: {key}")]);
    eventually("nobody is left", || ask().status == 503);
    let refused = ask();
    assert!(text(&refused.body).contains("no_healthy_upstream"), "{}", text(&refused.body));
    assert!(refused.header("retry-after").is_some());
}

#[test]
fn what_is_more_than_an_endpoint_takes_waits_and_then_is_refused() {
    let service = Service::start();
    service.set(Mood::Slow);
    let (setup, key) = gateway(&[&service], "max_requests = 2\nmax_pending = 2\n");
    let _gateway = setup.start();
    let header = format!("X-API-Key: {key}");
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let (data, header) = (setup.data, header.clone());
            thread::spawn(move || fetch(data, "/x", &[&header]))
        })
        .collect();
    let answers: Vec<_> = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(503)), (4, 4));
    let refused = answers.iter().find(|answer| answer.status == 503).unwrap();
    assert!(text(&refused.body).contains("overloaded") && refused.header("retry-after").is_some());
    // What was refused cost nothing and reached nobody.
    assert_eq!(service.asked(), 4);
}

#[test]
fn a_route_s_deadlines_go_before_its_upstream_s() {
    let service = Service::start();
    service.set(Mood::Slow);
    let (setup, key) = gateway(&[&service], "response_timeout = \"10s\"\n");
    let hasty = "[[routes]]\nname = \"hasty\"\npath = \"/hasty\"\nupstream = \"up\"\nresponse_timeout = \"100ms\"\n";
    setup.write_config(&(setup.config() + hasty));
    let _gateway = setup.start();
    let header = format!("X-API-Key: {key}");
    assert_eq!(fetch(setup.data, "/hasty", &[&header]).status, 504);
    assert_eq!(fetch(setup.data, "/patient", &[&header]).status, 200);
}
