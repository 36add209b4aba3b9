//! The contract that every sink keeps: all that is committed arrives, in its order and by its id,
//! through lost answers, outages, stops and kills; what is refused for good is set aside; nothing of
//! it holds up the gateway or the store.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::books::Books;
use crate::callers::fetch;
use crate::harness::{Key, NO_BUDGET, Setup, eventually};
use crate::nats::{NatsServer, SUBJECT};
use crate::receiver::{Receiver, Rules, SIGNING_SECRET, TOKEN};
use crate::upstream::Upstream;

/// What stands behind a sink.
enum Behind {
    Http(Receiver),
    Files(PathBuf),
    Nats(NatsServer),
}

/// A gateway with one sink.
struct Rig {
    behind: Behind,
    setup: Setup,
    key: Key,
    client: String,
    _upstream: Upstream,
}

const KINDS: [&str; 6] = ["cloudevents", "webhook", "stripe", "lago", "nats", "ndjson"];
const TAKING_HTTP: [&str; 4] = ["cloudevents", "webhook", "stripe", "lago"];

impl Rig {
    fn new(kind: &str) -> Self {
        Self::with(kind, "", "")
    }

    /// `metering`: more of its settings; `more`: of the sink's.
    fn with(kind: &str, metering: &str, more: &str) -> Self {
        let upstream = Upstream::start_counting();
        let http = |rules| Behind::Http(Receiver::start(rules));
        let behind = match kind {
            "cloudevents" => http(Rules::OpenMeter),
            "webhook" => http(Rules::Webhook),
            "stripe" => http(Rules::Stripe),
            "lago" => http(Rules::Lago),
            "nats" => Behind::Nats(NatsServer::start(TOKEN)),
            _ => Behind::Files(PathBuf::new()),
        };
        let to = |address: std::net::SocketAddr, scheme: &str, path: &str| {
            format!("url = \"{scheme}://{address}{path}\"\nallow_http = true\nallow_private_addresses = true\n")
        };
        let own = match &behind {
            Behind::Http(receiver) => match kind {
                "cloudevents" => to(receiver.address, "http", "/api/v1/events"),
                "webhook" => to(receiver.address, "http", "/hook") + "events = [\"usage\", \"quota_marks\"]\n",
                _ => to(receiver.address, "http", "") + "event_name = \"api_requests\"\n",
            },
            Behind::Nats(server) => to(server.address, "nats", "") + &format!("subject = \"{SUBJECT}\"\n"),
            Behind::Files(_) => "path = \"usage\"\nrotate_bytes = \"4KiB\"\n".to_owned(),
        };
        let mut setup = Setup::sqlite_with(
            upstream.address,
            &format!(
                "{NO_BUDGET}[metering]\ndrain_interval = \"50ms\"\nkeep = \"0s\"\n{metering}\n[[metering.sinks]]\nname = \"s\"\n\
                 type = \"{kind}\"\ninterval = \"50ms\"\n{own}{more}\n"
            ),
        );
        let files = setup.path("usage");
        let behind = if let Behind::Files(_) = behind { Behind::Files(files) } else { behind };
        if matches!(kind, "cloudevents" | "stripe" | "lago" | "nats") {
            setup.set("OCTROI_SINK_S_TOKEN", TOKEN);
        }
        if matches!(kind, "cloudevents" | "webhook") {
            setup.set("OCTROI_SINK_S_SIGNING_SECRET", SIGNING_SECRET);
        }
        // With one worker the order of commits is that of requests.
        setup.set("OCTROI__SERVER__WORKERS", "1");
        let client = setup.client(&["acme", "--rate", "100000/s", "--burst", "100000"]);
        let key = setup.key(&client, &[]);
        if kind == "stripe" {
            setup.set("OCTROI__METERING__SINKS__0__CUSTOMERS", &format!("[\"{client}=cus_1\"]"));
        }
        Self { behind, setup, key, client, _upstream: upstream }
    }

    fn call(&self, count: usize) {
        for _ in 0..count {
            let answer = fetch(self.setup.data, "/", &[&format!("X-API-Key: {}", self.key.raw)]);
            assert_eq!(answer.status, 200);
        }
    }

    /// The ids that the store has, in their order, which is that of one caller's requests.
    fn committed(&self) -> Vec<String> {
        Books::sqlite(&self.setup.path("octroi.db")).text("SELECT replace(id, '-', '') FROM usage_events ORDER BY id")
    }

    /// The ids that the sink has, in its order.
    fn taken(&self) -> Vec<String> {
        let ids = match &self.behind {
            Behind::Http(receiver) => receiver.taken(),
            Behind::Nats(server) => server.ids(TOKEN),
            Behind::Files(folder) => {
                let mut files: Vec<_> = std::fs::read_dir(folder)
                    .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
                    .unwrap_or_default();
                files.sort_by_key(|path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok());
                let texts = files.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default());
                let lines: Vec<String> =
                    texts.flat_map(|text| text.lines().map(ToOwned::to_owned).collect::<Vec<_>>()).collect();
                let id =
                    |line: &String| serde_json::from_str::<Value>(line).ok()?["id"].as_str().map(ToOwned::to_owned);
                let mut seen = HashSet::new();
                lines.iter().filter_map(id).filter(|id| seen.insert(id.clone())).collect()
            }
        };
        ids.iter().map(|id| id.replace('-', "")).collect()
    }

    fn set_away(&mut self, away: bool) {
        match &mut self.behind {
            Behind::Http(receiver) => receiver.set_away(away),
            Behind::Nats(server) if away => server.stop(),
            Behind::Nats(server) => server.restart(),
            Behind::Files(folder) if away => {
                let _ = std::fs::rename(&folder, folder.with_extension("away"));
                std::fs::write(folder, "in the way").unwrap();
            }
            Behind::Files(folder) => {
                std::fs::remove_file(&folder).unwrap();
                let _ = std::fs::rename(folder.with_extension("away"), folder);
            }
        }
    }

    fn await_all(&self, count: usize) {
        eventually("the store has all", || self.committed().len() == count);
        eventually("the sink has all", || self.taken().len() >= count);
    }

    /// All that is committed, and nothing else; no rule was broken.
    fn check(&self, kind: &str) {
        let (committed, taken) = (self.committed(), self.taken());
        let set = |ids: &[String]| ids.iter().cloned().collect::<HashSet<_>>();
        assert_eq!(set(&committed), set(&taken), "{kind}");
        if let Behind::Http(receiver) = &self.behind {
            assert_eq!(receiver.violations(), Vec::<String>::new(), "{kind}");
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(fetch(self.setup.admin, "/metrics", &[]).body).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{sink=\"s\"}}")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }
}

#[test]
fn what_is_committed_arrives_once_and_in_its_order() {
    for kind in KINDS {
        let rig = Rig::new(kind);
        let gateway = rig.setup.start();
        rig.call(40);
        rig.await_all(40);
        rig.check(kind);
        // Stripe's counts bear no order: it is sent to on several connections.
        if kind != "stripe" && kind != "ndjson" {
            assert_eq!(rig.taken(), rig.committed(), "{kind}");
        }
        eventually("the metrics say so", || rig.metric("octroi_sink_sent_total") >= 40.0);
        assert!(rig.metric("octroi_sink_failures_total") < 1.0, "{kind}");
        assert_eq!(gateway.stop(), 0);
        rig.check(kind);
        let folders = std::fs::read_dir(rig.setup.path("journal")).unwrap();
        assert!(folders.count() <= 1, "{kind}");
    }
}

/// What bills requests or units is told of a request once, at its end; what may bill bytes is told
/// of its interim records too.
#[test]
fn interim_records_go_where_bytes_are_counted() {
    for (kind, takes_parts) in [("cloudevents", true), ("lago", true), ("stripe", false)] {
        let rig = Rig::with(kind, "stream_interval = \"1s\"", "");
        let gateway = rig.setup.start();
        let answer = fetch(rig.setup.data, "/ticks/30/0", &[&format!("X-API-Key: {}", rig.key.raw)]);
        assert_eq!(answer.body.len(), 150, "{kind}");
        eventually("the store has a part and the request", || rig.committed().len() == 2);
        let requests = "SELECT replace(id, '-', '') FROM usage_events WHERE kind = 'request'";
        let requests = Books::sqlite(&rig.setup.path("octroi.db")).text(requests);
        eventually("the sink has the request", || rig.taken().contains(&requests[0]));
        assert_eq!(gateway.stop(), 0);
        let mut taken = rig.taken();
        taken.sort();
        assert_eq!(taken, if takes_parts { rig.committed() } else { requests }, "{kind}");
    }
}

#[test]
fn an_answer_that_is_lost_bills_nothing_twice() {
    for kind in TAKING_HTTP {
        let rig = Rig::new(kind);
        let gateway = rig.setup.start();
        let Behind::Http(receiver) = &rig.behind else { unreachable!() };
        receiver.forget_once();
        rig.call(20);
        rig.await_all(20);
        eventually("the sink is done", || rig.metric("octroi_sink_sent_total") >= 20.0);
        rig.check(kind);
        assert!(receiver.repeats() > 0, "{kind}: the batch came again");
        assert!(rig.metric("octroi_sink_refused_total") < 1.0, "{kind}");
        assert_eq!(gateway.stop(), 0);
    }
}

#[test]
fn a_sink_that_is_away_delays_only_itself_and_says_so() {
    for kind in KINDS {
        let mut rig = Rig::new(kind);
        rig.set_away(true);
        let gateway = rig.setup.start();
        let begun = Instant::now();
        rig.call(30);
        assert!(begun.elapsed() < Duration::from_secs(10), "{kind}: callers waited");
        eventually("the store has all", || rig.committed().len() == 30);
        gateway.wait_for_log("a sink takes no events");
        eventually("the lag shows", || rig.metric("octroi_sink_lag_seconds") > 0.5);
        assert!(rig.metric("octroi_sink_failures_total") >= 1.0);
        let ready = fetch(rig.setup.admin, "/readyz", &[]);
        assert_eq!(ready.status, 200, "{kind}");
        rig.set_away(false);
        rig.await_all(30);
        rig.check(kind);
        gateway.wait_for_log("a sink takes events again");
        eventually("the lag is over", || rig.metric("octroi_sink_lag_seconds") < 0.01);
        assert_eq!(gateway.stop(), 0);
    }
}

#[test]
fn a_killed_gateway_goes_on_where_it_was() {
    for kind in KINDS {
        let mut rig = Rig::new(kind);
        let gateway = rig.setup.start();
        rig.call(20);
        rig.await_all(20);
        eventually("the sink is done", || rig.metric("octroi_sink_sent_total") >= 20.0);
        if !matches!(rig.behind, Behind::Files(_)) {
            rig.set_away(true);
        }
        rig.call(20);
        eventually("the store has all", || rig.committed().len() == 40);
        gateway.kill();
        if !matches!(rig.behind, Behind::Files(_)) {
            rig.set_away(false);
        }
        let gateway = rig.setup.start();
        rig.call(5);
        rig.await_all(45);
        rig.check(kind);
        if let Behind::Http(receiver) = &rig.behind {
            assert_eq!(receiver.repeats(), 0, "{kind}: what was sent before the kill was sent again");
        }
        assert_eq!(gateway.stop(), 0);
    }
}

#[test]
fn a_stop_does_not_wait_for_a_sink_and_the_next_start_goes_on() {
    for kind in ["cloudevents", "nats"] {
        let mut rig = Rig::new(kind);
        rig.set_away(true);
        let gateway = rig.setup.start();
        rig.call(15);
        let begun = Instant::now();
        assert_eq!(gateway.stop(), 0);
        assert!(begun.elapsed() < Duration::from_secs(8), "{kind}: it took {:?}", begun.elapsed());
        assert_eq!(rig.committed().len(), 15, "{kind}");
        rig.set_away(false);
        let gateway = rig.setup.start();
        rig.await_all(15);
        rig.check(kind);
        assert_eq!(gateway.stop(), 0);
        let folders = std::fs::read_dir(rig.setup.path("journal")).unwrap();
        assert_eq!(folders.count(), 0, "{kind}: everything is done, nothing stays");
    }
}

#[test]
fn a_record_that_is_refused_for_good_holds_up_no_other() {
    for kind in TAKING_HTTP {
        let rig = Rig::new(kind);
        let Behind::Http(receiver) = &rig.behind else { unreachable!() };
        receiver.refuse_nth(7);
        let gateway = rig.setup.start();
        rig.call(25);
        eventually("all others arrive", || receiver.taken().len() == 24);
        eventually("one is set aside", || (rig.metric("octroi_sink_refused_total") - 1.0).abs() < 0.1);
        gateway.wait_for_log("a sink refused events");
        let poison = receiver.poison().expect("one was refused");
        assert!(!receiver.taken().contains(&poison), "{kind}");
        let journal = std::fs::read_dir(rig.setup.path("journal")).unwrap().next().unwrap().unwrap().path();
        let mut aside = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
        let aside = aside.find(|path| path.to_str().unwrap().contains("/refused-s-")).expect("a file");
        let line: Value = serde_json::from_str(std::fs::read_to_string(aside).unwrap().trim()).unwrap();
        assert_eq!(line["event"]["id"], poison, "{kind}");
        assert_eq!(gateway.stop(), 0);
    }
}

#[test]
fn what_is_beyond_the_bound_is_missed_counted_and_said() {
    let mut rig = Rig::with("cloudevents", "outbox_max_bytes = \"64KiB\"", "");
    rig.set_away(true);
    let gateway = rig.setup.start();
    // In rounds: one batch of all of them would be larger than the bound, and nothing of it would stay.
    for round in 1..=8 {
        rig.call(50);
        eventually("the store has all", || rig.committed().len() == 50 * round);
    }
    gateway.wait_for_log("it misses events");
    let missed = rig.metric("octroi_sink_missed_total");
    rig.set_away(false);
    let taken = || f64::from(u32::try_from(rig.taken().len()).unwrap());
    eventually("the rest arrives", || taken() + rig.metric("octroi_sink_missed_total") > 399.5);
    assert!(missed >= 1.0 && rig.taken().len() > 50, "{missed} missed, {} taken", rig.taken().len());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn stripe_gets_what_cost_something_and_who_is_no_customer_is_set_aside() {
    let rig = Rig::new("stripe");
    let Behind::Http(receiver) = &rig.behind else { unreachable!() };
    let other = rig.setup.client(&["other"]);
    let key = rig.setup.key(&other, &[]);
    let gateway = rig.setup.start();
    rig.call(3);
    assert_eq!(fetch(rig.setup.data, "/", &[&format!("X-API-Key: {}", key.raw)]).status, 200);
    eventually("three arrive", || receiver.taken().len() == 3);
    eventually("one is set aside", || (rig.metric("octroi_sink_refused_total") - 1.0).abs() < 0.1);
    let record = receiver.records().into_values().next().unwrap();
    assert_eq!((&record["payload[stripe_customer_id]"], &record["payload[value]"]), (&"cus_1".into(), &"1".into()));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn marks_of_quotas_go_to_webhooks() {
    let rig = Rig::new("webhook");
    let Behind::Http(receiver) = &rig.behind else { unreachable!() };
    let output = rig.setup.octroi(&["client", "update", &rig.client, "--quota", "10/day"]);
    assert!(output.status.success(), "{}", crate::harness::text(&output.stderr));
    let gateway = rig.setup.start();
    rig.call(10);
    let marks = || {
        let records = receiver.records().into_values();
        let mut marks: Vec<i64> = records
            .filter(|record| record["type"] == "quota.mark")
            .filter_map(|mark| mark["data"]["percent"].as_i64())
            .collect();
        marks.sort_unstable();
        marks
    };
    eventually("both marks arrive", || marks() == [80, 100]);
    assert_eq!(receiver.violations(), Vec::<String>::new());
    assert_eq!(gateway.stop(), 0);
}
