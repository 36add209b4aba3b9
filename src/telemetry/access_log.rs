//! One record a request, as a line on stderr.
//!
//! Lines are put together where the request ends and written by a thread of their own: a slow
//! terminal or pipe holds up no request. When the thread falls behind, lines are dropped and
//! counted, and the count is written as soon as there is room. The access log is for people; the
//! journal is for bills.
//!
//! Never a header, a query or a credential: paths without their query, ids, numbers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use jiff::Timestamp;

use crate::config::telemetry::TelemetryConfig;

/// Lines that may wait to be written.
const WAITING: usize = 8192;

/// A handle on the log; off, it costs a branch.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: Option<SyncSender<String>>,
    dropped: Arc<AtomicU64>,
}

/// What is said of a request.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each field is the word it is written under")]
pub struct AccessRecord<'a> {
    pub at: Timestamp,
    pub request_id: &'a str,
    pub address: std::net::IpAddr,
    pub method: &'a str,
    /// Without its query.
    pub path: &'a str,
    /// Empty when none was found.
    pub route: &'a str,
    pub client: uuid::Uuid,
    pub key: uuid::Uuid,
    pub status: Option<u16>,
    pub outcome: &'a str,
    /// The private reason; empty when there is none.
    pub reason: &'a str,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_us: u64,
}

impl AccessLog {
    /// Starts the writer, unless the log is off.
    ///
    /// # Panics
    /// When a thread cannot be made.
    #[must_use]
    pub fn start(config: TelemetryConfig) -> Self {
        let dropped = Arc::new(AtomicU64::new(0));
        if !config.access_log {
            return Self { lines: None, dropped };
        }
        let (lines, waiting) = sync_channel(WAITING);
        let count = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("octroi-access-log".to_owned())
            .spawn(move || write_lines(&waiting, &count))
            .expect("a process that starts can make a thread");
        Self { lines: Some(lines), dropped }
    }

    /// Writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { lines: None, dropped: Arc::default() }
    }

    /// Whether anything is written.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Records a request; never waits.
    pub fn record(&self, record: &AccessRecord<'_>) {
        let Some(lines) = &self.lines else { return };
        if lines.try_send(line(record)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_lines(waiting: &Receiver<String>, dropped: &AtomicU64) {
    let mut batch = String::new();
    while let Ok(first) = waiting.recv() {
        batch.clear();
        batch.push_str(&first);
        for next in waiting.try_iter().take(256) {
            batch.push_str(&next);
        }
        let missing = dropped.swap(0, Ordering::Relaxed);
        if missing > 0 {
            let _ = writeln!(batch, "{{\"access_log\":\"fell behind\",\"dropped\":{missing}}}");
        }
        // Nowhere to say that stderr is gone.
        let _ = std::io::stderr().lock().write_all(batch.as_bytes());
    }
}

fn line(record: &AccessRecord<'_>) -> String {
    let mut text = String::with_capacity(384);
    let status = record.status.unwrap_or(0);
    let _ = write!(
        text,
        "{{\"time\":\"{:.6}\",\"request_id\":\"{}\",\"address\":\"{}\",\"method\":\"{}\",\"path\":\"",
        record.at, record.request_id, record.address, record.method
    );
    push_escaped(&mut text, record.path);
    text.push_str("\",\"route\":\"");
    push_escaped(&mut text, record.route);
    let _ = writeln!(
        text,
        "\",\"client\":\"{}\",\"key\":\"{}\",\"status\":{status},\"outcome\":\"{}\",\"reason\":\"{}\",\"bytes_in\":{},\"bytes_out\":{},\"duration_us\":{}}}",
        record.client, record.key, record.outcome, record.reason, record.bytes_in, record.bytes_out, record.duration_us
    );
    text
}

/// JSON escapes: a caller writes into this line, and must not end it.
fn push_escaped(text: &mut String, part: &str) {
    for letter in part.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            letter if letter.is_control() => drop(write!(text, "\\u{:04x}", u32::from(letter))),
            letter => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_whatever_the_caller_sent() {
        let record = AccessRecord {
            at: Timestamp::from_second(1_790_000_000).unwrap(),
            request_id: "id",
            address: "192.0.2.1".parse().unwrap(),
            method: "GET",
            path: "/a\"b\\c\nd\u{1b}[31m",
            route: "all",
            client: uuid::Uuid::nil(),
            key: uuid::Uuid::nil(),
            status: Some(200),
            outcome: "complete",
            reason: "",
            bytes_in: 1,
            bytes_out: 2,
            duration_us: 3,
        };
        let line = line(&record);
        assert_eq!(line.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["path"], record.path);
        assert_eq!(object["status"], 200);
    }
}
