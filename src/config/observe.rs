//! `routes.mode` and `routes.observe_until`: for how long a route refuses nothing.
//!
//! A route that observes is an open door, so it says when it closes: without a date there is no
//! observing, and none lies further away than a service needs to get to know its callers. Once
//! the date has passed the same lines mean that the route enforces, so that nobody has to be there
//! at midnight.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::check::Check;

/// The furthest date, in days.
const DAYS_MOST: i64 = 90;

/// Before when a route refuses nothing; none: it enforces from the start. A date that has passed
/// is kept, for the start to tell.
pub(super) fn until(check: &Check<'_>, mode: &str, text: &str, now: Timestamp) -> Option<Timestamp> {
    const KEY: &str = "observe_until";
    if !check.choice("mode", mode, &[("enforce", false), ("observe", true)]) {
        if !text.is_empty() {
            check.refuse(KEY, "a route with mode = \"enforce\" observes nothing", "remove it, or write \"observe\"");
        }
        return None;
    }
    let form = "write the day on which it begins to refuse, like \"2026-12-01\" (UTC), or a time in RFC 3339";
    if text.is_empty() {
        check.refuse(KEY, "a route that observes refuses nothing, and has to say until when", form);
        return None;
    }
    let Some(until) = moment(text) else {
        check.refuse(KEY, format!("`{text}` is neither a day nor a time"), form);
        return None;
    };
    if until.duration_since(now) > SignedDuration::from_hours(24 * DAYS_MOST) {
        let message = format!("`{text}` is more than {DAYS_MOST} days ahead");
        check.refuse(KEY, message, "write a nearer day: it can be moved when it comes");
    }
    Some(until)
}

/// A day begins at midnight, UTC.
fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    // A local time without its offset would be read as its day alone.
    let day: Date = (text.len() == "2026-12-01".len()).then(|| text.parse().ok())??;
    Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::check::Findings;
    use super::*;

    #[test]
    fn a_route_observes_until_a_day_that_is_near() {
        let passed = Some("2026-12-01T00:00:00Z");
        for (mode, text, expected, wrong) in [
            ("enforce", "", None, None),
            ("observe", "2026-12-01", passed, None),
            ("observe", "2026-12-01T00:00:00Z", passed, None),
            ("observe", "2026-12-01T01:30:00+01:30", passed, None),
            ("observe", "2020-01-01", Some("2020-01-01T00:00:00Z"), None),
            ("observe", "2027-02-21", Some("2027-02-21T00:00:00Z"), None),
            ("observe", "2027-02-22", Some("2027-02-22T00:00:00Z"), Some("observe_until")),
            ("observe", "", None, Some("observe_until")),
            ("observe", "soon", None, Some("observe_until")),
            ("observe", "2026-12-01T00:00:00", None, Some("observe_until")),
            ("observe", "2026-13-01", None, Some("observe_until")),
            ("enforce", "2026-12-01", None, Some("observe_until")),
            ("watch", "", None, Some("mode")),
        ] {
            let findings = Findings::default();
            let found =
                until(&Check::root(&findings, Path::new("/")), mode, text, "2026-11-23T12:00:00Z".parse().unwrap());
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{mode} {text}");
            let problems = findings.into_problems();
            assert_eq!(problems.first().map(|problem| problem.path.as_str()), wrong, "{mode} {text}: {problems:?}");
        }
    }
}
