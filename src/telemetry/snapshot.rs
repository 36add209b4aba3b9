//! Metrics as they stand, read from the text that is scraped: what the overview and `octroi top` show
//! is what Prometheus sees, and counting for them costs requests nothing.

use std::collections::BTreeMap;

/// One moment's metrics.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Snapshot {
    /// Reads the text of `/metrics`.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// The sum of a metric over all that have these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).map(|sample| sample.value).sum()
    }

    /// The sums of a metric by one label, of those that have these.
    #[must_use]
    pub fn by(&self, name: &str, label: &str, labels: &[(&str, &str)]) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.with(name, labels) {
            let Some(value) = sample.labels.get(label) else { continue };
            *sums.entry(value.clone()).or_insert(0.0) += sample.value;
        }
        sums
    }

    /// An upper bound of what the given share of a histogram's values is below: the bucket in which
    /// that share is reached. None: there are no values, or they are above every bound.
    #[must_use]
    pub fn quantile(&self, name: &str, share: f64, labels: &[(&str, &str)]) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (bound, count) in self.by(&bucket, "le", labels) {
            buckets.push((bound.parse().unwrap_or(f64::INFINITY), count));
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let total = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let reached = buckets.iter().find(|(_, count)| *count >= total * share)?;
        reached.0.is_finite().then_some(reached.0)
    }

    fn with<'s>(&'s self, name: &'s str, labels: &'s [(&'s str, &'s str)]) -> impl Iterator<Item = &'s Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|own| own == value))
        })
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Option<Sample> {
    let (series, rest) = if let Some(open) = line.find('{') {
        let close = line.rfind('}')?;
        (line[..open].to_owned(), (line.get(open + 1..close)?, line.get(close + 1..)?))
    } else {
        let (name, value) = line.split_once(' ')?;
        (name.to_owned(), ("", value))
    };
    let value = rest.1.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: series, labels: labels(rest.0), value })
}

fn labels(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut letters = after.char_indices();
        let mut end = after.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => value.extend(letters.next().map(|(_, letter)| if letter == 'n' { '\n' } else { letter })),
                '"' => {
                    end = at + 1;
                    break;
                }
                letter => value.push(letter),
            }
        }
        found.insert(name.trim_start_matches(',').to_owned(), value);
        rest = after.get(end..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::usage::Outcome;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn what_was_counted_is_read_back() {
        let metrics = Metrics::new(&["a \"b\",c".into(), "other".into()], &[]);
        for took in [1, 2, 3, 400] {
            metrics.request_ended(Some(0), Outcome::Complete, Some(200), Duration::from_millis(took));
        }
        metrics.request_rejected(Some(1), 401, "invalid_credentials");
        let snapshot = Snapshot::read(&metrics.encode().unwrap());
        let route = ("route", "a \"b\",c");
        assert!((snapshot.sum("octroi_requests_total", &[route]) - 4.0).abs() < 0.1);
        assert!((snapshot.sum("octroi_requests_total", &[("outcome", "rejected")]) - 1.0).abs() < 0.1);
        assert_eq!(snapshot.by("octroi_refusals_total", "code", &[]).get("invalid_credentials"), Some(&1.0));
        assert_eq!(snapshot.quantile("octroi_request_duration_seconds", 0.5, &[route]), Some(0.0025));
        assert_eq!(snapshot.quantile("octroi_request_duration_seconds", 0.99, &[route]), Some(0.5));
        assert_eq!(snapshot.quantile("octroi_request_duration_seconds", 0.5, &[("route", "other")]), None);
    }
}
