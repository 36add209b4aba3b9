//! One line for each request, written when it is over.
//!
//! A line is put together by the worker and handed to one writer thread by a bounded channel;
//! when standard error is slow, lines are dropped and counted, and no request waits. No header's
//! value is ever in a line, and so no credential; the query is left out, because that is where
//! callers put what they should not; a key in a path is masked.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;

use super::masked::masked;
use crate::config::telemetry::{LogFormat, TelemetryConfig};
use crate::model::id::{ApiKeyId, ClientId};

/// How many lines may wait for the writer.
const WAITING_LINES: usize = 8192;

/// How many bytes are written at once.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What is told about a request.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// When it came.
    pub at: Timestamp,
    /// Joins the line with the answer and the usage event.
    pub request_id: &'a str,
    /// The trace (W3C) it belongs to; empty when none.
    pub trace: &'a str,
    /// The caller's address.
    pub address: IpAddr,
    /// Whose it was; nil when not known.
    pub client: ClientId,
    /// The key's row; nil when none.
    pub key: ApiKeyId,
    /// The route; empty when none was found.
    pub route: &'a str,
    /// As sent.
    pub method: &'a str,
    /// As sent, without the query.
    pub path: &'a str,
    /// What the caller was sent; none when nothing was.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: &'static str,
    /// The private reason of a refusal or a failure; empty when there is none.
    pub reason: &'a str,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
    /// From its head to its end.
    pub duration: Duration,
    /// Until the upstream's response head.
    pub upstream: Option<Duration>,
}

/// Where records go. Cheap to clone; dropping the last one waits for the last lines, a moment.
#[derive(Clone, Debug)]
pub struct AccessLog(Option<Arc<Writer>>);

#[derive(Debug)]
struct Writer {
    /// Taken when the last handle is dropped; that ends the thread.
    lines: Option<SyncSender<String>>,
    /// In a mutex to be shared; read once, by `drop`.
    ended: Mutex<Receiver<()>>,
    json: bool,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Writes nothing and costs nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Writes to standard error, if `config` says so.
    #[must_use]
    pub fn start(config: TelemetryConfig) -> Self {
        if !config.access_log {
            return Self::off();
        }
        let json = match config.log_format {
            LogFormat::Json => true,
            LogFormat::Text => false,
            LogFormat::Auto => !io::stderr().is_terminal(),
        };
        Self::to(io::stderr(), json)
    }

    fn to(out: impl Write + Send + 'static, json: bool) -> Self {
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let (end, ended) = sync_channel(1);
        let dropped = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&dropped);
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_out(out, &waiting, &counted);
            // Nobody waits any more where the process did not ask.
            let _ = end.try_send(());
        });
        match thread {
            Ok(_) => Self(Some(Arc::new(Writer { lines: Some(lines), ended: Mutex::new(ended), json, dropped }))),
            Err(error) => {
                tracing::error!(%error, "no thread for the access log; it is off");
                Self::off()
            }
        }
    }

    /// Whether records are wanted at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes a record. Never waits.
    pub fn write(&self, record: &AccessRecord<'_>) {
        let Some(writer) = &self.0 else { return };
        let mut line = String::with_capacity(384);
        let formatted = if writer.json { json(&mut line, record) } else { text(&mut line, record) };
        let sent = formatted.is_ok() && writer.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        if !sent {
            writer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LAST_LINES);
    }
}

/// The writer's thread: takes what is there, writes it at once, waits for more.
fn write_out(mut out: impl Write, lines: &Receiver<String>, dropped: &AtomicU64) {
    while let Ok(first) = lines.recv() {
        let mut batch = first;
        while batch.len() < BATCH_BYTES
            && let Ok(line) = lines.try_recv()
        {
            batch.push_str(&line);
        }
        // Standard error that cannot be written to leaves nobody to tell.
        let _ = out.write_all(batch.as_bytes());
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lines = lost, "the access log was too slow; lines were dropped");
        }
    }
    let _ = out.flush();
}

fn json(line: &mut String, record: &AccessRecord<'_>) -> fmt::Result {
    write!(
        line,
        "{{\"time\":\"{:.6}\",\"request_id\":\"{}\",\"address\":\"{}\"",
        record.at,
        Escaped(record.request_id),
        record.address
    )?;
    if !record.trace.is_empty() {
        write!(line, ",\"trace_id\":\"{}\"", Escaped(record.trace))?;
    }
    if !record.client.is_nil() {
        write!(line, ",\"client\":\"{}\"", record.client)?;
    }
    if !record.key.is_nil() {
        write!(line, ",\"key\":\"{}\"", record.key)?;
    }
    write!(
        line,
        ",\"route\":\"{}\",\"method\":\"{}\",\"path\":\"{}\"",
        Escaped(record.route),
        Escaped(record.method),
        Escaped(&masked(record.path))
    )?;
    if let Some(status) = record.status {
        write!(line, ",\"status\":{status}")?;
    }
    write!(line, ",\"outcome\":\"{}\"", record.outcome)?;
    if !record.reason.is_empty() {
        write!(line, ",\"reason\":\"{}\"", Escaped(record.reason))?;
    }
    write!(
        line,
        ",\"bytes_in\":{},\"bytes_out\":{},\"duration_us\":{}",
        record.bytes_in,
        record.bytes_out,
        record.duration.as_micros()
    )?;
    if let Some(upstream) = record.upstream {
        write!(line, ",\"upstream_us\":{}", upstream.as_micros())?;
    }
    line.push_str("}\n");
    Ok(())
}

fn text(line: &mut String, record: &AccessRecord<'_>) -> fmt::Result {
    write!(line, "{:.6} {} {} ", record.at, Escaped(record.method), Escaped(&masked(record.path)))?;
    match record.status {
        Some(status) => write!(line, "{status}")?,
        None => line.push('-'),
    }
    write!(line, " {} request_id={} address={}", record.outcome, Escaped(record.request_id), record.address)?;
    if !record.trace.is_empty() {
        write!(line, " trace_id={}", Escaped(record.trace))?;
    }
    if !record.route.is_empty() {
        write!(line, " route={}", Escaped(record.route))?;
    }
    if !record.client.is_nil() {
        write!(line, " client={}", record.client)?;
    }
    if !record.key.is_nil() {
        write!(line, " key={}", record.key)?;
    }
    if !record.reason.is_empty() {
        write!(line, " reason=\"{}\"", Escaped(record.reason))?;
    }
    write!(
        line,
        " bytes_in={} bytes_out={} duration_us={}",
        record.bytes_in,
        record.bytes_out,
        record.duration.as_micros()
    )?;
    if let Some(upstream) = record.upstream {
        write!(line, " upstream_us={}", upstream.as_micros())?;
    }
    line.push('\n');
    Ok(())
}

/// Text inside quotes; control characters and what terminals act on become `\u00XX`, which both
/// JSON readers and people understand.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '"' => out.write_str("\\\"")?,
                '\\' => out.write_str("\\\\")?,
                '\0'..='\x1f' | '\x7f'..='\u{9f}' => write!(out, "\\u{:04x}", u32::from(letter))?,
                _ => out.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record() -> AccessRecord<'static> {
        AccessRecord {
            at: Timestamp::UNIX_EPOCH,
            request_id: "r-1",
            trace: "",
            address: IpAddr::from([192, 0, 2, 1]),
            client: ClientId::NIL,
            key: ApiKeyId::NIL,
            route: "orders",
            method: "GET",
            path: "/a\"b\u{1b}[31m\n",
            status: Some(200),
            outcome: "complete",
            reason: "",
            bytes_in: 1,
            bytes_out: 2,
            duration: Duration::from_millis(3),
            upstream: None,
        }
    }

    fn written(json: bool, record: &AccessRecord<'_>) -> String {
        let memory = Memory::default();
        let log = AccessLog::to(memory.clone(), json);
        log.write(record);
        drop(log);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_json_and_what_callers_send_stays_text() {
        let line = written(true, &record());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], record().path);
        assert_eq!((&value["status"], &value["duration_us"]), (&200.into(), &3000.into()));
        assert!(value.get("client").is_none() && value.get("upstream_us").is_none());
        let plain = written(false, &AccessRecord { status: None, reason: "revoked", ..record() });
        assert!(plain.starts_with("1970-01-01T00:00:00.000000Z GET /a\\\"b\\u001b[31m\\u000a - complete "), "{plain}");
        assert!(plain.contains(" reason=\"revoked\" ") && plain.ends_with("duration_us=3000\n"), "{plain}");
    }

    #[test]
    fn a_slow_reader_costs_lines_and_no_time() {
        /// Accepts nothing until it is let go.
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = sync_channel(0);
        let log = AccessLog::to(Stuck(stuck), true);
        // More than the channel and one batch together can hold.
        for _ in 0..2 * WAITING_LINES {
            log.write(&record());
        }
        let writer = log.0.as_ref().unwrap();
        assert!(writer.dropped.load(Ordering::Relaxed) > 0);
        drop(release);
    }

    #[test]
    fn off_is_off() {
        let log = AccessLog::start(TelemetryConfig { access_log: false, log_format: LogFormat::Json });
        assert!(!log.is_on());
        log.write(&record());
    }
}
