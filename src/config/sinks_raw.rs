//! `[[metering.sinks]]` as written: what TOML may say of a sink, and whether it makes sense.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::check::{Check, Zero};
use super::problem::Problem;
use super::secrets::{SecretSource, Secrets};
use super::sinks::{Endpoint, MeteredValue, SinkConfig, SinkKind};
use crate::model::secret::{SecretBytes, SecretText};

/// Each has a task, a position in every file of the outbox, and five metrics.
const SINKS_MAX: usize = 16;

/// `[[metering.sinks]]` as written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSink {
    pub(super) name: String,
    pub(super) r#type: String,
    pub(super) url: String,
    pub(super) token_file: String,
    pub(super) signing_secret_file: String,
    pub(super) events: Vec<String>,
    pub(super) batch: i64,
    pub(super) interval: String,
    pub(super) timeout: String,
    pub(super) ca_file: String,
    pub(super) allow_http: bool,
    pub(super) allow_private_addresses: bool,
    pub(super) source: String,
    pub(super) event_type: String,
    pub(super) event_name: String,
    pub(super) value: String,
    pub(super) customers: Vec<String>,
    pub(super) path: String,
    pub(super) rotate_bytes: String,
    pub(super) rotate_interval: String,
    pub(super) subject: String,
    pub(super) user: String,
}

impl Default for RawSink {
    fn default() -> Self {
        Self {
            name: String::new(),
            r#type: String::new(),
            url: String::new(),
            token_file: String::new(),
            signing_secret_file: String::new(),
            events: vec!["usage".to_owned()],
            // What Stripe, Lago and OpenMeter take in one go.
            batch: 100,
            interval: "1s".to_owned(),
            timeout: "10s".to_owned(),
            ca_file: String::new(),
            allow_http: false,
            allow_private_addresses: false,
            source: "octroi".to_owned(),
            event_type: "request".to_owned(),
            event_name: String::new(),
            value: "units".to_owned(),
            customers: Vec::new(),
            path: String::new(),
            rotate_bytes: "64MiB".to_owned(),
            rotate_interval: "1h".to_owned(),
            subject: String::new(),
            user: String::new(),
        }
    }
}

/// Which settings a type has besides those of all.
const OWN: &[(&str, &[&str])] = &[
    ("cloudevents", &["url", "token_file", "signing_secret_file", "source", "event_type"]),
    ("webhook", &["url", "signing_secret_file"]),
    ("stripe", &["url", "token_file", "event_name", "value", "customers"]),
    ("lago", &["url", "token_file", "event_name", "customers"]),
    ("ndjson", &["path", "rotate_bytes", "rotate_interval"]),
    ("nats", &["url", "token_file", "subject", "user"]),
];

impl RawSink {
    fn resolve(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> SinkConfig {
        self.check_name(check);
        let types: Vec<(&str, &[&str])> = OWN.to_vec();
        let own = check.choice("type", &self.r#type, &types);
        if !check.has_problem("type") {
            self.check_foreign(check, own);
        }
        let (mut usage, mut marks) = (false, false);
        for (index, event) in self.events.iter().enumerate() {
            match event.as_str() {
                "usage" => usage = true,
                "quota_marks" => marks = true,
                other => check.refuse(
                    &format!("events[{index}]"),
                    format!("`{other}` is not known here"),
                    "write \"usage\", \"quota_marks\" or both",
                ),
            }
        }
        if self.events.is_empty() {
            check.refuse("events", "nothing would be sent", "write \"usage\", \"quota_marks\" or both");
        }
        if marks && matches!(self.r#type.as_str(), "stripe" | "lago") {
            check.refuse("events", "a mark of a quota cannot be billed", "send marks to a webhook");
        }
        let most = if self.r#type == "lago" { 100 } else { 5_000 };
        let kind = self.resolve_kind(check, secrets);
        SinkConfig {
            name: self.name.clone(),
            batch: check.count("batch", self.batch, 1..=most) as usize,
            interval: check.duration("interval", &self.interval, Zero::Refused),
            usage,
            marks,
            missing: self.missing(check, &kind),
            kind,
        }
    }

    fn check_name(&self, check: &Check<'_>) {
        let legal = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(legal) {
            let remedy = "write 1 to 32 of a-z, 0-9 and -: it stands in names of files and variables";
            check.refuse("name", format!("`{}` is no name for a sink", self.name), remedy);
        }
    }

    /// A setting that the type does not have would be without effect.
    fn check_foreign(&self, check: &Check<'_>, own: &[&str]) {
        let table = |raw: &Self| toml::Table::try_from(raw.clone()).unwrap_or_default();
        let (written, defaults) = (table(self), table(&Self::default()));
        for key in OWN.iter().flat_map(|(_, keys)| *keys) {
            if !own.contains(key) && written.get(*key) != defaults.get(*key) {
                let message = format!("a sink of type \"{}\" has no `{key}`", self.r#type);
                check.refuse(key, message, "remove it, or change `type`");
            }
        }
    }

    fn resolve_kind(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> SinkKind {
        let text = |key: &str, text: &str, example: &str| {
            if text.is_empty() && !check.has_problem(key) {
                check.refuse(key, "this type of sink needs it", format!("write it, like {example}"));
            }
            text.to_owned()
        };
        match self.r#type.as_str() {
            "cloudevents" => SinkKind::CloudEvents {
                endpoint: self.resolve_endpoint(check, "https://openmeter.cloud/api/v1/events"),
                token: self.find_token(check, secrets),
                signing_secret: self.find_signing_secret(check, secrets),
                source: text("source", &self.source, "\"octroi\""),
                event_type: text("event_type", &self.event_type, "\"request\""),
            },
            "webhook" => SinkKind::Webhook {
                endpoint: self.resolve_endpoint(check, "https://example.com/hooks/usage"),
                signing_secret: self
                    .find_signing_secret(check, secrets)
                    .unwrap_or_else(|| SecretBytes::new(Vec::new())),
            },
            "stripe" => SinkKind::Stripe {
                endpoint: self.resolve_endpoint(check, "https://api.stripe.com"),
                token: self.find_token(check, secrets).unwrap_or_else(|| SecretText::new(String::new())),
                event_name: text("event_name", &self.event_name, "\"api_requests\""),
                value: check.choice(
                    "value",
                    &self.value,
                    &[("units", MeteredValue::Units), ("requests", MeteredValue::Requests)],
                ),
                customers: self.resolve_customers(check),
            },
            "lago" => SinkKind::Lago {
                endpoint: self.resolve_endpoint(check, "https://api.getlago.com"),
                token: self.find_token(check, secrets).unwrap_or_else(|| SecretText::new(String::new())),
                code: text("event_name", &self.event_name, "\"api_requests\""),
                customers: self.resolve_customers(check),
            },
            "nats" => SinkKind::Nats {
                endpoint: self.resolve_endpoint(check, "tls://nats.example.com:4222"),
                subject: self.resolve_subject(check),
                user: self.user.clone(),
                token: self.find_token(check, secrets),
            },
            // A type that is not known was said already; this one stands in.
            other => SinkKind::Ndjson {
                dir: check.place(&if other == "ndjson" {
                    text("path", &self.path, "\"usage\"")
                } else {
                    String::new()
                }),
                rotate_bytes: check.size("rotate_bytes", &self.rotate_bytes, 1024..=1 << 40, "from 1KiB to 1TiB"),
                rotate_interval: check.duration("rotate_interval", &self.rotate_interval, Zero::Refused),
            },
        }
    }

    fn resolve_subject(&self, check: &Check<'_>) -> String {
        let legal = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '*' | '>');
        let whole = self.subject.split('.').all(|token| !token.is_empty() && token.chars().all(legal));
        if !whole {
            let message = format!("`{}` is no subject to publish on", self.subject);
            check.refuse("subject", message, "write words with dots between, like \"octroi.usage\"");
        }
        self.subject.clone()
    }

    fn resolve_customers(&self, check: &Check<'_>) -> BTreeMap<String, String> {
        let mut customers = BTreeMap::new();
        for (index, pair) in self.customers.iter().enumerate() {
            let key = format!("customers[{index}]");
            let parts = pair.split_once('=').map(|(client, customer)| (client.trim(), customer.trim()));
            let client = parts.and_then(|(client, _)| client.parse::<uuid::Uuid>().ok());
            let (Some(client), Some((_, customer))) = (client, parts.filter(|(_, customer)| !customer.is_empty()))
            else {
                let message = format!("`{pair}` does not say which customer a client is");
                check.refuse(&key, message, "write a client's id and its customer: \"0190…-…=cus_123\"");
                continue;
            };
            if customers.insert(client.to_string(), customer.to_owned()).is_some() {
                check.refuse(&key, "this client is named already", "name each client once");
            }
        }
        customers
    }

    fn resolve_endpoint(&self, check: &Check<'_>, example: &str) -> Endpoint {
        let ca_file = (!self.ca_file.is_empty()).then(|| check.place(&self.ca_file));
        if let Some(path) = ca_file.as_ref().filter(|path| !path.is_file()) {
            check.refuse("ca_file", format!("there is no file {}", path.display()), "put the PEM text there");
        }
        let timeout = check.duration("timeout", &self.timeout, Zero::Refused);
        let url = Url::parse(&self.url).ok().filter(Url::has_host);
        let Some(url) = url else {
            check.refuse("url", "this is not a URL", format!("write it like \"{example}\""));
            let url = Url::parse("https://localhost/").expect("a URL");
            return Endpoint { url, ca_file, allow_private_addresses: false, timeout };
        };
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            check.refuse("url", "a secret does not stand in an address", "name a file in `token_file`");
        }
        let (safe, open) = if self.r#type == "nats" { ("tls", "nats") } else { ("https", "http") };
        match url.scheme() {
            scheme if scheme == safe => {}
            scheme if scheme == open && self.allow_http => {}
            scheme if scheme == open => {
                let message = "whoever is in between could read what your clients use";
                check.refuse("url", message, format!("write {safe}://, or `allow_http = true` on a network you trust"));
            }
            scheme => check.refuse("url", format!("`{scheme}` is not spoken here"), format!("write {safe}://")),
        }
        if is_private(&url) && !self.allow_private_addresses {
            let remedy = "name a public host, or write `allow_private_addresses = true`";
            check.refuse("url", "it lies in a private network", remedy);
        }
        Endpoint { url, ca_file, allow_private_addresses: self.allow_private_addresses, timeout }
    }

    /// `OCTROI_SINK_NAME_TOKEN`, and the like.
    fn variable(&self, what: &str) -> String {
        format!("OCTROI_SINK_{}_{what}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The secret that is needed and was not found.
    fn missing(&self, check: &Check<'_>, kind: &SinkKind) -> Option<Problem> {
        let (setting, what, message) = match kind {
            SinkKind::Webhook { signing_secret, .. } if signing_secret.is_empty() => {
                ("signing_secret_file", "SIGNING_SECRET", "without a signature nobody could tell that it is from us")
            }
            SinkKind::Stripe { token, .. } | SinkKind::Lago { token, .. } if token.expose().is_empty() => {
                ("token_file", "TOKEN", "it would not know who sends")
            }
            _ => return None,
        };
        let remedy = format!("name a file, or set {}", self.variable(what));
        Some(Problem::new(check.path_of(setting), message, remedy))
    }

    fn find_token(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> Option<SecretText> {
        let (variable, setting) = (self.variable("TOKEN"), check.path_of("token_file"));
        let found = secrets.find_bytes(&SecretSource {
            variable: &variable,
            setting: &setting,
            file: &self.token_file,
            allow_short: true,
        })?;
        let text = String::from_utf8(found.bytes.to_vec()).ok();
        let text = text.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()));
        if text.is_none() {
            check.refuse("token_file", format!("{} holds no token", found.origin), "write the token and nothing else");
        }
        text.map(SecretText::new)
    }

    /// At least 24 bytes, as Standard Webhooks asks for; `whsec_` in front of base64 is understood.
    fn find_signing_secret(&self, check: &Check<'_>, secrets: &Secrets<'_>) -> Option<SecretBytes> {
        let (variable, setting) = (self.variable("SIGNING_SECRET"), check.path_of("signing_secret_file"));
        let found = secrets.find_bytes(&SecretSource {
            variable: &variable,
            setting: &setting,
            file: &self.signing_secret_file,
            allow_short: true,
        })?;
        let bytes = match found.bytes.strip_prefix(b"whsec_") {
            Some(encoded) => STANDARD.decode(encoded).ok(),
            None => Some(found.bytes.to_vec()),
        };
        let secret = bytes.map(SecretBytes::new).filter(|secret| secret.len() >= 24);
        if secret.is_none() {
            let message = format!("{} holds no secret of at least 24 bytes", found.origin);
            let remedy = "make one with `echo whsec_$(openssl rand -base64 32)`";
            check.refuse("signing_secret_file", message, remedy);
        }
        secret
    }
}

fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_private() || address.is_link_local(),
        Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unique_local(),
        Some(Host::Domain(name)) => {
            name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

/// All of them, checked against each other.
pub(super) fn resolve_all(raw: &[RawSink], check: &Check<'_>, secrets: &Secrets<'_>) -> Vec<SinkConfig> {
    if raw.len() > SINKS_MAX {
        check.refuse("sinks", "there are too many sinks", format!("write at most {SINKS_MAX}"));
    }
    let mut sinks: Vec<SinkConfig> = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let check = check.below(&format!("sinks[{index}]"));
        let sink = raw.resolve(&check, secrets);
        if sinks.iter().any(|other| other.name == sink.name) {
            check.refuse("name", "there are two sinks of this name", "give each a name of its own");
        }
        sinks.push(sink);
    }
    sinks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Environment, Loaded, Problems, parse};
    use super::*;

    fn load(sink: &str, variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
        let environment = Environment::of(variables, Path::new("/"));
        parse(&format!("[[metering.sinks]]\n{sink}"), Some("/etc/octroi.toml".into()), &environment)
    }

    const STRIPE: &str = "name = \"s\"\ntype = \"stripe\"\nurl = \"https://api.stripe.com\"\nevent_name = \"e\"\n";
    const HOOK: &str = "name = \"my-hook\"\ntype = \"webhook\"\nurl = \"https://example.com/\"\n";

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        let client = "01a20773-e1b7-7000-937a-f7590f0b8c05";
        for (sink, setting) in [
            ("type = \"ndjson\"\npath = \"x\"".to_owned(), "name"),
            ("name = \"A b\"\ntype = \"ndjson\"\npath = \"x\"".to_owned(), "name"),
            ("name = \"s\"".to_owned(), "type"),
            ("name = \"s\"\ntype = \"kafka\"".to_owned(), "type"),
            ("name = \"s\"\ntype = \"ndjson\"".to_owned(), "path"),
            ("name = \"s\"\ntype = \"ndjson\"\npath = \"x\"\nurl = \"https://a\"".to_owned(), "url"),
            (format!("{STRIPE}subject = \"x\""), "subject"),
            (format!("{STRIPE}events = [\"quota_marks\"]"), "events"),
            (format!("{STRIPE}events = []"), "events"),
            (format!("{STRIPE}events = [\"all\"]"), "events[0]"),
            (format!("{STRIPE}value = \"bytes\""), "value"),
            (format!("{STRIPE}customers = [\"acme=cus_1\"]"), "customers[0]"),
            (format!("{STRIPE}customers = [\"{client}=\"]"), "customers[0]"),
            (format!("{STRIPE}customers = [\"{client}=a\", \"{client}=b\"]"), "customers[1]"),
            (STRIPE.replace("event_name = \"e\"", ""), "event_name"),
            (STRIPE.replace("https:", "http:"), "url"),
            (STRIPE.replace("api.stripe.com", "10.0.0.1"), "url"),
            (STRIPE.replace("api.stripe.com", "u:p@api.stripe.com"), "url"),
            (STRIPE.replace("https://api.stripe.com", "nonsense"), "url"),
            (STRIPE.replace("stripe\"\n", "lago\"\nbatch = 101\n"), "batch"),
            ("name = \"n\"\ntype = \"nats\"\nurl = \"nats://a\"\nsubject = \"a\"".to_owned(), "url"),
            ("name = \"n\"\ntype = \"nats\"\nurl = \"tls://a\"\nsubject = \"a.>\"".to_owned(), "subject"),
            ("name = \"n\"\ntype = \"nats\"\nurl = \"tls://127.0.0.1\"\nsubject = \"a\"".to_owned(), "url"),
        ] {
            let problems = load(&sink, &[]).map(|_| ()).unwrap_err();
            let paths: Vec<&str> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
            assert_eq!(paths, [format!("metering.sinks[0].{setting}")], "{sink}");
        }
        let twice = format!("{STRIPE}[[metering.sinks]]\n{STRIPE}");
        assert_eq!(load(&twice, &[]).map(|_| ()).unwrap_err().0[0].path, "metering.sinks[1].name");
    }

    #[test]
    fn secrets_are_missed_where_a_gateway_starts_and_never_shown() {
        for (sink, setting, variable) in [
            (STRIPE, "metering.sinks[0].token_file", "OCTROI_SINK_S_TOKEN"),
            (HOOK, "metering.sinks[0].signing_secret_file", "OCTROI_SINK_MY_HOOK_SIGNING_SECRET"),
        ] {
            let problem = load(sink, &[]).unwrap().config.sinks.require_secrets().unwrap_err();
            assert_eq!(problem.path, setting);
            assert!(problem.remedy.contains(variable), "{problem}");
            let text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr";
            let loaded = load(sink, &[(variable, text)]).unwrap();
            loaded.config.sinks.require_secrets().unwrap();
            assert!(!format!("{:?}", loaded.config.sinks).contains("whsec"), "it shows its secret");
            if let SinkKind::Webhook { signing_secret, .. } = &loaded.config.sinks.sinks[0].kind {
                assert_eq!(signing_secret.len(), 33, "decoded");
            }
        }
        let short = load(HOOK, &[("OCTROI_SINK_MY_HOOK_SIGNING_SECRET", "whsec_c2hvcnQ=")]);
        assert!(short.map(|_| ()).unwrap_err().to_string().contains("24 bytes"));
    }
}
