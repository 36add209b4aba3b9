//! `[telemetry.traces]`, and the variables by which OpenTelemetry is set up everywhere.
//!
//! The variables beat the file and mean what the OpenTelemetry specification says; what they say
//! and this program cannot do is told as a warning and ignored, as that specification asks. Headers
//! are only taken from the environment: they are how collectors know who sends, so they are secrets.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::Url;

use super::check::{Check, Zero};
use super::env::Environment;
use super::overrides::Origins;

/// Where spans go, and which are made.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// Where they are posted.
    pub url: Url,
    /// What every post says besides; marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The certificate authorities the collector may have; none: the web's.
    pub ca_file: Option<PathBuf>,
    /// For one post.
    pub timeout: Duration,
    /// Which requests are recorded.
    pub sampler: Sampler,
    /// What is said of this process, by name.
    pub resource: Vec<(String, String)>,
}

/// Which requests are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a caller's own decision, in its `traceparent`, is followed.
    pub follows_parent: bool,
    /// The share of all others, 0 to 1.
    pub share: f64,
}

/// `[telemetry.traces]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTraces {
    endpoint: String,
    sample: f64,
    follow_parent: bool,
    ca_file: String,
    timeout: String,
    /// The whole address, where the environment gives one. Only shown.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    traces_endpoint: Option<String>,
    /// Only shown, as a mask.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(super) headers: Option<String>,
}

impl Default for RawTraces {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            // Enough to see what is slow; little enough that nobody notices on the collector's bill.
            sample: 0.01,
            // A trace is whole or it is not there: whoever began it has decided.
            follow_parent: true,
            ca_file: String::new(),
            // The specification's default.
            timeout: "10s".to_owned(),
            traces_endpoint: None,
            headers: None,
        }
    }
}

impl RawTraces {
    /// Lays the variables over what the file says.
    pub(super) fn take_environment(
        &mut self,
        environment: &Environment,
        origins: &mut Origins,
        warnings: &mut Vec<String>,
    ) {
        let mut warn = |variable: &str, what: &str| warnings.push(format!("{variable} {what}"));
        if environment.find("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || environment.find("OTEL_TRACES_EXPORTER") == Some("none")
        {
            self.endpoint.clear();
            return;
        }
        if let Some(other) = environment.find("OTEL_TRACES_EXPORTER").filter(|exporter| *exporter != "otlp") {
            warn("OTEL_TRACES_EXPORTER", &format!("names `{other}`, which is ignored: traces leave as OTLP"));
        }
        if let Some(endpoint) = environment.find("OTEL_EXPORTER_OTLP_ENDPOINT") {
            endpoint.clone_into(&mut self.endpoint);
            origins.note("telemetry.traces.endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT");
        }
        if let Some(endpoint) = environment.find("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            self.traces_endpoint = Some(endpoint.to_owned());
            origins.note("telemetry.traces.endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        }
        if let Some((variable, protocol)) = of_traces(environment, "PROTOCOL")
            && protocol != "http/protobuf"
        {
            warn(&variable, &format!("asks for `{protocol}`, which is ignored: traces leave as http/protobuf"));
        }
        if let Some((_, file)) = of_traces(environment, "CERTIFICATE") {
            file.clone_into(&mut self.ca_file);
        }
        if let Some((variable, milliseconds)) = of_traces(environment, "TIMEOUT") {
            match milliseconds.parse::<u64>() {
                Ok(milliseconds @ 1..) => self.timeout = format!("{milliseconds}ms"),
                _ => warn(&variable, "is no number of milliseconds and is ignored"),
            }
        }
        self.take_sampler(environment, warn);
    }

    fn take_sampler(&mut self, environment: &Environment, mut warn: impl FnMut(&str, &str)) {
        let Some(named) = environment.find("OTEL_TRACES_SAMPLER") else { return };
        let (follows, root) = named.strip_prefix("parentbased_").map_or((false, named), |root| (true, root));
        let share = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            // Without an argument everything is recorded, as the specification says.
            "traceidratio" => match environment.find("OTEL_TRACES_SAMPLER_ARG").map(str::parse) {
                None => 1.0,
                Some(Ok(share)) if (0.0..=1.0).contains(&share) => share,
                Some(_) => {
                    warn("OTEL_TRACES_SAMPLER_ARG", "is no number from 0 to 1 and is ignored: all traces are sampled");
                    1.0
                }
            },
            _ => {
                let known = "always_on, always_off, traceidratio, or one of them after parentbased_";
                warn("OTEL_TRACES_SAMPLER", &format!("names `{named}`, which is ignored: write {known}"));
                return;
            }
        };
        (self.follow_parent, self.sample) = (follows, share);
    }

    /// None: traces are off.
    pub(super) fn resolve(
        &self,
        check: &Check<'_>,
        environment: &Environment,
        warnings: &mut Vec<String>,
    ) -> Option<TracesConfig> {
        let timeout = check.duration("timeout", &self.timeout, Zero::Refused);
        if !(0.0..=1.0).contains(&self.sample) {
            check.refuse("sample", format!("{} is no share", self.sample), "write a number from 0.0 to 1.0");
        }
        let url = self.url(check)?;
        let mut warn = |text: String| warnings.push(text);
        let headers = of_traces(environment, "HEADERS").map(|(variable, text)| headers(&variable, text, &mut warn));
        Some(TracesConfig {
            url,
            headers: headers.unwrap_or_default(),
            ca_file: (!self.ca_file.is_empty()).then(|| check.place(&self.ca_file)),
            timeout,
            sampler: Sampler { follows_parent: self.follow_parent, share: self.sample },
            resource: resource(environment, &mut warn),
        })
    }

    fn url(&self, check: &Check<'_>) -> Option<Url> {
        let whole = self.traces_endpoint.as_deref();
        let text = whole.unwrap_or(&self.endpoint);
        if text.is_empty() {
            return None;
        }
        let is_good = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
        };
        let Some(mut url) = Url::parse(text).ok().filter(is_good) else {
            // Not repeated: what is no address may be a secret in the wrong place.
            let remedy = "write http:// or https://, a host and a port, without user or password, like \
                          \"http://127.0.0.1:4318\"";
            check.refuse("endpoint", "this is not the address of a collector", remedy);
            return None;
        };
        if whole.is_none() {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/v1/traces"));
        }
        Some(url)
    }
}

/// The variable of traces alone, else that of all signals.
fn of_traces<'e>(environment: &'e Environment, what: &str) -> Option<(String, &'e str)> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
    names.into_iter().find_map(|name| environment.find(&name).map(|value| (name.clone(), value)))
}

/// `name=value,name=value`, percent-encoded.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> {
    let decoded = |part: &str| percent_decode_str(part.trim()).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    text.split(',').filter(|pair| !pair.trim().is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=')?;
        Some((decoded(name).filter(|name| !name.is_empty())?, decoded(value)?))
    })
}

fn headers(variable: &str, text: &str, warn: &mut impl FnMut(String)) -> Vec<(HeaderName, HeaderValue)> {
    let header = |(name, value): (String, String)| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name).ok()?, value))
    };
    let mut headers = Vec::new();
    for pair in pairs(text) {
        match pair.and_then(header) {
            Some(header) => headers.push(header),
            None => warn(format!("{variable} holds something that is no header and is ignored")),
        }
    }
    headers
}

/// Later pairs win; the service's own variable over all.
fn resource(environment: &Environment, warn: &mut impl FnMut(String)) -> Vec<(String, String)> {
    let mut resource: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| {
        resource.retain(|(known, _)| *known != name);
        resource.push((name, value));
    };
    set("service.name".to_owned(), "octroi".to_owned());
    set("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    if let Some(text) = environment.find("OTEL_RESOURCE_ATTRIBUTES") {
        // One pair that cannot be read discards all, as the specification says.
        match pairs(text).collect::<Option<Vec<_>>>() {
            Some(pairs) => pairs.into_iter().for_each(|(name, value)| set(name, value)),
            None => warn("OTEL_RESOURCE_ATTRIBUTES cannot be read and is ignored".to_owned()),
        }
    }
    if let Some(name) = environment.find("OTEL_SERVICE_NAME") {
        set("service.name".to_owned(), name.to_owned());
    }
    resource
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, parse};
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> (Config, Vec<String>) {
        let loaded = parse(text, None, &Environment::of(&[variables, &[("HOME", "/h")]].concat(), Path::new("/")));
        let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
        (loaded.config, loaded.warnings)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");

    #[test]
    fn traces_are_off_until_somebody_names_a_collector() {
        let file = "[telemetry.traces]\nendpoint = \"http://file:4318/base/\"\n";
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/here");
        for (file, variables, url) in [
            ("", &[][..], None),
            (file, &[], Some("http://file:4318/base/v1/traces")),
            (file, &[ENDPOINT], Some("http://c:4318/v1/traces")),
            (file, &[ENDPOINT, whole], Some("https://t/here")),
            ("", &[whole], Some("https://t/here")),
            (file, &[("OTEL_SDK_DISABLED", "true"), ENDPOINT, whole], None),
            (file, &[("OTEL_SDK_DISABLED", "no")], Some("http://file:4318/base/v1/traces")),
            (file, &[("OTEL_TRACES_EXPORTER", "none"), whole], None),
        ] {
            let (config, warnings) = read(file, variables);
            assert_eq!(config.traces.as_ref().map(|traces| traces.url.as_str()), url, "{variables:?}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn samplers_have_the_names_of_the_specification() {
        for (sampler, argument, follows_parent, share, warns) in [
            ("", "", true, 0.01, false),
            ("always_on", "", false, 1.0, false),
            ("always_off", "", false, 0.0, false),
            ("traceidratio", "0.25", false, 0.25, false),
            ("traceidratio", "", false, 1.0, false),
            ("traceidratio", "2", false, 1.0, true),
            ("parentbased_always_on", "", true, 1.0, false),
            ("parentbased_always_off", "", true, 0.0, false),
            ("parentbased_traceidratio", "0.5", true, 0.5, false),
            ("jaeger_remote", "x", true, 0.01, true),
        ] {
            let set = [ENDPOINT, ("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            let (config, warnings) = read("", &set);
            assert_eq!(config.traces.unwrap().sampler, Sampler { follows_parent, share }, "{sampler}");
            assert_eq!(!warnings.is_empty(), warns, "{sampler}: {warnings:?}");
        }
        let (config, _) = read("[telemetry.traces]\nsample = 1\nfollow_parent = false\n", &[ENDPOINT]);
        assert_eq!(config.traces.unwrap().sampler, Sampler { follows_parent: false, share: 1.0 });
    }

    #[test]
    fn headers_are_secret_and_the_resource_is_told() {
        let (config, warnings) = read(
            "",
            &[
                ENDPOINT,
                ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=se%20cret, bad name=x"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=a%2Cb"),
                ("OTEL_SERVICE_NAME", "edge"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ],
        );
        let traces = config.traces.clone().unwrap();
        assert_eq!(traces.headers, [(HeaderName::from_static("api-key"), HeaderValue::from_static("se cret"))]);
        assert!(!format!("{config:?}").contains("se cret"));
        let of = |name: &str| traces.resource.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!((of("service.name"), of("deployment.environment.name")), (Some("edge"), Some("a,b")));
        assert_eq!(traces.timeout, Duration::from_millis(1500));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(!warnings.concat().contains("secret"));
    }

    #[test]
    fn an_address_that_is_none_is_refused_and_not_repeated() {
        for text in ["collector:4318", "http://user:hunter2@c", "ftp://c", "http://"] {
            let file = format!("[telemetry.traces]\nendpoint = \"{text}\"\n");
            let problems = parse(&file, None, &Environment::of(&[("HOME", "/h")], Path::new("/"))).unwrap_err();
            let told = problems.to_string();
            assert!(told.contains("telemetry.traces.endpoint") && !told.contains("hunter2"), "{told}");
        }
    }
}
