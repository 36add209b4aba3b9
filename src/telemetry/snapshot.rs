//! Metrics as they stand, read from the text that is scraped: what the overview and `octroi top` show
//! is what Prometheus sees, and counting for them costs requests nothing.

use std::collections::BTreeMap;

/// One moment's metrics.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By their metric's name, so that a question reads what it is about.
    samples: BTreeMap<String, Vec<Sample>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

/// The samples of a metric that have one value of a label.
#[derive(Clone, Debug, Default)]
pub struct Part<'s> {
    samples: Vec<&'s Sample>,
}

impl Snapshot {
    /// Reads the text of `/metrics`.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for (name, sample) in text.lines().filter(|line| !line.starts_with('#')).filter_map(sample) {
            samples.entry(name).or_default().push(sample);
        }
        Self { samples }
    }

    /// The sum of a metric over all that have these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name).iter().filter(|sample| sample.has(labels)).map(|sample| sample.value).sum()
    }

    /// The sums of a metric by one label.
    #[must_use]
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(name) {
            let Some(value) = sample.labels.get(label) else { continue };
            *sums.entry(value.clone()).or_insert(0.0) += sample.value;
        }
        sums
    }

    /// A metric's samples by the values of one label, found in one walk however many values there are.
    #[must_use]
    pub fn parts(&self, name: &str, label: &str) -> BTreeMap<&str, Part<'_>> {
        let mut parts: BTreeMap<&str, Part<'_>> = BTreeMap::new();
        for sample in self.of(name) {
            let Some(value) = sample.labels.get(label) else { continue };
            parts.entry(value).or_default().samples.push(sample);
        }
        parts
    }

    fn of(&self, name: &str) -> &[Sample] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }
}

impl Part<'_> {
    /// The sum over those that have these labels, too.
    #[must_use]
    pub fn sum(&self, labels: &[(&str, &str)]) -> f64 {
        self.samples.iter().filter(|sample| sample.has(labels)).map(|sample| sample.value).sum()
    }

    /// Of the buckets of a histogram: an upper bound of what the given share of its values is below, the
    /// bucket in which that share is reached. None: there are no values, or they are above every bound.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
        for sample in &self.samples {
            let Some(bound) = sample.labels.get("le") else { continue };
            *counts.entry(bound).or_insert(0.0) += sample.value;
        }
        let read = |(bound, count): (&str, f64)| (bound.parse().unwrap_or(f64::INFINITY), count);
        let mut buckets: Vec<(f64, f64)> = counts.into_iter().map(read).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let total = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let reached = buckets.iter().find(|(_, count)| *count >= total * share)?;
        reached.0.is_finite().then_some(reached.0)
    }
}

impl Sample {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|own| own == value))
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Option<(String, Sample)> {
    let (series, rest) = if let Some(open) = line.find('{') {
        let close = line.rfind('}')?;
        (line[..open].to_owned(), (line.get(open + 1..close)?, line.get(close + 1..)?))
    } else {
        let (name, value) = line.split_once(' ')?;
        (name.to_owned(), ("", value))
    };
    let value = rest.1.split_whitespace().next()?.parse().ok()?;
    Some((series, Sample { labels: labels(rest.0), value }))
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
        assert_eq!(snapshot.by("octroi_refusals_total", "code").get("invalid_credentials"), Some(&1.0));
        let requests = snapshot.parts("octroi_requests_total", "route");
        assert!((requests[route.1].sum(&[]) - 4.0).abs() < 0.1);
        assert!((requests["other"].sum(&[("outcome", "rejected")]) - 1.0).abs() < 0.1);
        assert!((requests["other"].sum(&[("status_class", "5xx")])).abs() < 0.1);
        let durations = snapshot.parts("octroi_request_duration_seconds_bucket", "route");
        assert_eq!(durations[route.1].quantile(0.5), Some(0.0025));
        assert_eq!(durations[route.1].quantile(0.99), Some(0.5));
        assert_eq!(durations.get("other").and_then(|part| part.quantile(0.5)), None);
        assert!(snapshot.parts("octroi_nothing", "route").is_empty());
    }
}
