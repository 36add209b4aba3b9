//! `octroi top` and `octroi tail`: what goes on in the running gateway, as it goes on.

use std::io::{IsTerminal as _, Write, stdout};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{Server, path, unreadable};
use crate::cli::output::Format;
use crate::cli::{Context, Failure};

/// `octroi top`
#[derive(Debug, Args)]
pub(in crate::cli) struct TopArguments {
    /// How long between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// End after so many looks; without it, when it is told to
    #[arg(long, value_name = "N")]
    looks: Option<u32>,
}

/// `octroi tail`
#[derive(Debug, Args)]
pub(in crate::cli) struct TailArguments {
    /// Only this client's: its id or name
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: Option<u32>,
}

/// What clears a terminal and goes to its first line (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows what goes on, again and again.
///
/// # Errors
/// No gateway answers.
pub(in crate::cli) async fn top(
    context: &Context,
    arguments: &TopArguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut before: Option<Value> = None;
    let mut looks = 0;
    loop {
        // Anew each time: what this machine shows of itself is good for a minute.
        let now = Server::named_or_local(context)?.get("/v1/live").await?;
        if !now["counts"].is_object() {
            return Err(unreadable());
        }
        match context.format {
            Format::Json => writeln!(out, "{now}")?,
            Format::Table | Format::Csv => {
                if stdout().is_terminal() {
                    write!(out, "{CLEAR}")?;
                }
                write_screen(&now, before.as_ref(), out)?;
            }
        }
        out.flush()?;
        looks += 1;
        if arguments.looks.is_some_and(|most| looks >= most) {
            return Ok(());
        }
        before = Some(now);
        tokio::time::sleep(Duration::from_secs(arguments.every)).await;
    }
}

fn write_screen(now: &Value, before: Option<&Value>, out: &mut dyn Write) -> std::io::Result<()> {
    let counts = &now["counts"];
    let earlier = before.map(|before| &before["counts"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let seconds = earlier.map_or(0.0, |earlier| since(&earlier["at"], &counts["at"]));
    let rate = |name: &str| per_second(number(&counts[name]), earlier.map(|earlier| number(&earlier[name])), seconds);
    writeln!(out, "octroi  {}  since {}", text(&counts["at"]), text(&counts["since"]))?;
    writeln!(
        out,
        "requests {} ({}/s)  5xx {} ({}/s)  refused {} ({}/s)  open {}  connections {}",
        counts["requests"],
        rate("requests"),
        counts["errors"],
        rate("errors"),
        counts["refused"],
        rate("refused"),
        counts["in_flight"],
        counts["connections"],
    )?;
    let (size, most) = (number(&counts["journal_bytes"]) >> 20, number(&counts["journal_bytes_max"]) >> 20);
    let lag = counts["metering_lag_seconds"].as_f64().unwrap_or(0.0);
    writeln!(out, "metering lag {lag:.1} s  journal {size} of {most} MiB  lost {}", counts["metering_lost"])?;
    for part in ["refusing", "degraded"] {
        let names: Vec<String> = now[part].as_array().into_iter().flatten().map(text).collect();
        if !names.is_empty() {
            writeln!(out, "{part}: {}", names.join(", "))?;
        }
    }
    writeln!(
        out,
        "\n{:24} {:>12} {:>9} {:>8} {:>9} {:>10} {:>10}",
        "ROUTE", "REQUESTS", "/S", "5XX", "REFUSED", "MEDIAN", "P99"
    )?;
    for (place, route) in counts["routes"].as_array().into_iter().flatten().enumerate() {
        let name = text(&route["route"]);
        let earlier = earlier.map(|earlier| number(&earlier["routes"][place]["requests"]));
        writeln!(
            out,
            "{:24} {:>12} {:>9} {:>8} {:>9} {:>10} {:>10}",
            if name.is_empty() { "(none)" } else { name.as_str() },
            number(&route["requests"]),
            per_second(number(&route["requests"]), earlier, seconds),
            number(&route["errors"]),
            number(&route["refused"]),
            bound(&route["median_seconds"]),
            bound(&route["p99_seconds"]),
        )?;
    }
    writeln!(out, "\n{:24} {:32} {:>8} {:>6}", "UPSTREAM", "ENDPOINT", "STATE", "OPEN")?;
    for endpoint in now["endpoints"].as_array().into_iter().flatten() {
        let state = if endpoint["available"] == true { "in" } else { "OUT" };
        let (upstream, place) = (text(&endpoint["upstream"]), text(&endpoint["endpoint"]));
        writeln!(out, "{upstream:24} {place:32} {state:>8} {:>6}", endpoint["open"])?;
    }
    for code in counts["refusals"].as_array().into_iter().flatten().filter(|code| number(&code["count"]) > 0) {
        writeln!(out, "refused {:28} {:>8}", text(&code["code"]), code["count"])?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    let shown = value.as_str().unwrap_or_default().chars();
    shown.map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

/// Seconds between two times.
fn since(earlier: &Value, now: &Value) -> f64 {
    let at = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match (at(earlier), at(now)) {
        (Some(earlier), Some(now)) => now.duration_since(earlier).as_secs_f64(),
        _ => 0.0,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate is shown with one digit")]
fn per_second(now: u64, before: Option<u64>, seconds: f64) -> String {
    match before {
        Some(before) if seconds > 0.0 => format!("{:.1}", now.saturating_sub(before) as f64 / seconds),
        _ => "-".to_owned(),
    }
}

fn bound(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("<={} ms", seconds * 1000.0))
}

/// Shows requests as they end.
///
/// # Errors
/// No gateway answers; the client is not there.
pub(in crate::cli) async fn tail(
    context: &Context,
    arguments: &TailArguments,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let server = Server::named_or_local(context)?;
    let client = match &arguments.client {
        Some(named) => Some(server.client(named).await?.to_string()),
        None => None,
    };
    let limit = arguments.limit.map(|limit| limit.to_string());
    let mut query = Vec::new();
    query.extend(client.as_deref().map(|client| ("client", client)));
    query.extend(limit.as_deref().map(|limit| ("limit", limit)));
    let is_json = context.format == Format::Json;
    let mut rest = Vec::new();
    let mut each = |piece: &[u8]| -> Result<(), Failure> {
        rest.extend_from_slice(piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if is_json {
                out.write_all(&line)?;
            } else {
                write_line(&serde_json::from_slice(&line).unwrap_or(Value::Null), out)?;
            }
            out.flush()?;
        }
        Ok(())
    };
    loop {
        // The server ends it after ten minutes; whoever watches goes on.
        Server::named_or_local(context)?.stream(&path("/v1/tail", &query), &mut each).await?;
        if arguments.limit.is_some() {
            return Ok(());
        }
    }
}

fn write_line(request: &Value, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    if let Some(missed) = request["missed"].as_u64() {
        return writeln!(out, "({missed} were too many to show)");
    }
    let status = request["status"].as_u64().map_or_else(|| "-".to_owned(), |status| status.to_string());
    let reason = text(&request["reason"]);
    writeln!(
        out,
        "{} {status:>3} {:10} {:>9} us  {} {}  {} {}{}",
        text(&request["at"]),
        text(&request["outcome"]),
        request["duration_us"].as_u64().unwrap_or(0),
        text(&request["method"]),
        text(&request["path"]),
        text(&request["client_id"]),
        text(&request["request_id"]),
        if reason.is_empty() { String::new() } else { format!("  {reason}") },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_screen_has_rates_of_what_moved_between_two_looks() {
        let look = |at: &str, requests: u64| {
            json!({
                "counts": {"at": at, "since": "2026-11-23T00:00:00Z", "requests": requests, "errors": 0, "refused": 2,
                    "in_flight": 1, "connections": 3, "metering_lag_seconds": 0.25, "journal_bytes": 1_048_576,
                    "journal_bytes_max": 4_194_304, "metering_lost": 0,
                    "routes": [{"route": "all", "requests": requests, "errors": 0, "refused": 2,
                        "median_seconds": 0.001, "p99_seconds": null}],
                    "refusals": [{"code": "rate_limited", "count": 2}]},
                "endpoints": [{"upstream": "up", "endpoint": "http://a", "available": false, "open": 0}],
                "degraded": ["store"], "refusing": [],
            })
        };
        let (before, now) = (look("2026-11-23T10:00:00Z", 100), look("2026-11-23T10:00:02Z", 150));
        let mut out = Vec::new();
        write_screen(&now, Some(&before), &mut out).unwrap();
        let screen = String::from_utf8(out).unwrap();
        for part in ["requests 150 (25.0/s)", "degraded: store", "OUT", "<=1 ms", "rate_limited", "journal 1 of 4 MiB"]
        {
            assert!(screen.contains(part), "{part}: {screen}");
        }
    }
}
