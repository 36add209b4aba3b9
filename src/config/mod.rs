//! Configuration: files and environment in, resolved values out.
//!
//! What TOML says is *raw*: a table. What the rest of the program gets is *resolved*: the types
//! of the sections' files. Conversion is validation; all problems are reported at once, each with
//! its path and a remedy, before a port is bound.
//!
//! To add a setting: one field in a section's type, one line in its `read`, one entry in
//! `config/reference.toml`; `tests/config_examples.rs` says what was forgotten.

pub mod admin;
pub mod auth;
mod env;
pub mod issuer;
pub mod limits;
pub mod metering;
mod problem;
mod reader;
pub mod route;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod units;
pub mod upstream;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::header::AUTHORIZATION;
use toml::{Table, Value};

pub use env::Environment;
pub use problem::{Problem, Problems};

use admin::AdminConfig;
use auth::AuthConfig;
use issuer::IssuerConfig;
use limits::LimitsConfig;
use metering::MeteringConfig;
use reader::Findings;
use route::RouteConfig;
use server::ServerConfig;
use store::StoreConfig;
use telemetry::TelemetryConfig;
use upstream::UpstreamConfig;

/// Where a configuration is looked for when no flag and no variable names one.
const PLACES: [&str; 2] = ["octroi.toml", "/etc/octroi/octroi.toml"];

/// Sections of later versions: said to be so, instead of "unknown".
const LATER: [(&str, &str); 4] =
    [("tls", "TLS"), ("redis", "Redis"), ("plans", "plans in the file"), ("proxy", "the section [proxy]")];

/// Everything a process is told.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each section's type says what it is")]
pub struct Config {
    pub data_dir: PathBuf,
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub store: StoreConfig,
    pub auth: AuthConfig,
    pub issuer: IssuerConfig,
    pub limits: LimitsConfig,
    pub metering: MeteringConfig,
    pub telemetry: TelemetryConfig,
    pub upstreams: Vec<UpstreamConfig>,
    pub routes: Vec<RouteConfig>,
    /// The effective settings, secrets masked: what `config show` prints.
    pub effective: Table,
}

impl Config {
    /// Finds the file (`named`, `$OCTROI_CONFIG`, the usual places), reads it, and lays the
    /// environment over it. Without any file the defaults stand.
    pub fn load(named: Option<&Path>, environment: &Environment) -> Result<Self, Problems> {
        let path = Self::find_file(named, environment);
        let text = match &path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                let path = path.display().to_string();
                Problems(vec![Problem {
                    path,
                    message: format!("cannot be read: {error}"),
                    remedy: "name a readable file".into(),
                }])
            })?,
        };
        Self::parse(&text, path.as_deref(), environment)
    }

    /// The file that would be read.
    #[must_use]
    pub fn find_file(named: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
        let named = named.map(Path::to_path_buf).or_else(|| environment.find("OCTROI_CONFIG").map(PathBuf::from));
        named.or_else(|| PLACES.iter().map(PathBuf::from).find(|place| place.exists()))
    }

    /// Resolves a text that stands in `file`.
    pub fn parse(text: &str, file: Option<&Path>, environment: &Environment) -> Result<Self, Problems> {
        let mut root: Table = text.parse().map_err(|error: toml::de::Error| {
            let place = error.span().map_or((1, 1), |span| position(text, span.start));
            let path = file.map_or_else(|| "configuration".to_owned(), |file| file.display().to_string());
            let message = format!("line {}, column {}: {}", place.0, place.1, error.message());
            Problems(vec![Problem { path, message, remedy: "mend the TOML there".to_owned() }])
        })?;
        environment.overrule(&mut root);
        let mut findings = Findings::default();
        let config = Self::resolve(root, file, environment, &mut findings);
        if findings.problems.is_empty() { Ok(config) } else { Err(Problems(findings.problems)) }
    }

    fn resolve(mut root: Table, file: Option<&Path>, environment: &Environment, findings: &mut Findings) -> Self {
        let setting = match root.remove("data_dir") {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(_) => {
                findings.problem("data_dir", "is not text", "write a folder in quotes");
                String::new()
            }
        };
        let data_dir = env::data_dir(&setting, environment, file);
        let mut effective = Table::new();
        effective.insert("data_dir".to_owned(), Value::String(setting));
        let mut keep = |name: &str, table: Table| drop(effective.insert(name.to_owned(), Value::Table(table)));
        let (server, table) = ServerConfig::read(&mut root, findings);
        keep("server", table);
        let (admin, table) = AdminConfig::read(&mut root, findings);
        keep("admin", table);
        let database_url = environment.or_file("DATABASE_URL", findings);
        let (store, table) = StoreConfig::read(&mut root, database_url, &data_dir, findings);
        keep("store", table);
        let (auth, table) = AuthConfig::read(&mut root, environment, &data_dir, findings);
        keep("auth", table);
        let (issuer, table) = IssuerConfig::read(&mut root, environment, &data_dir, findings);
        keep("issuer", table);
        let (limits, table) = LimitsConfig::read(&mut root, findings);
        keep("limits", table);
        let (metering, table) = MeteringConfig::read(&mut root, &data_dir, findings);
        keep("metering", table);
        let (telemetry, table) = TelemetryConfig::read(&mut root, findings);
        keep("telemetry", table);
        let (upstreams, tables) = read_each(&mut root, "upstreams", findings, UpstreamConfig::read);
        effective.insert("upstreams".to_owned(), tables);
        let places: Vec<_> = [AUTHORIZATION].into_iter().chain(auth.key_headers.iter().cloned()).collect();
        let (routes, tables) = read_each(&mut root, "routes", findings, |index, given, findings| {
            RouteConfig::read(index, given, &places, findings)
        });
        effective.insert("routes".to_owned(), tables);
        refuse_the_rest(&root, findings);
        check_references(&routes, &upstreams, findings);
        Self { data_dir, server, admin, store, auth, issuer, limits, metering, telemetry, upstreams, routes, effective }
    }

    /// Flags beat file and environment.
    pub fn overrule_addresses(&mut self, listen: Option<SocketAddr>, admin: Option<SocketAddr>) {
        if let Some(listen) = listen {
            self.server.listen = vec![listen];
        }
        if let Some(admin) = admin {
            self.admin.listen = admin;
        }
    }
}

fn read_each<T>(
    root: &mut Table,
    name: &str,
    findings: &mut Findings,
    read: impl Fn(usize, Table, &mut Findings) -> (T, Table),
) -> (Vec<T>, Value) {
    let items = match root.remove(name) {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => {
            findings.problem(name, "is not a list of tables", format!("write each as [[{name}]]"));
            Vec::new()
        }
    };
    let mut resolved = Vec::new();
    let mut effective = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        if let Value::Table(given) = item {
            let (value, table) = read(index, given, findings);
            resolved.push(value);
            effective.push(Value::Table(table));
        } else {
            findings.problem(format!("{name}[{index}]"), "is not a table", format!("write it as [[{name}]]"));
        }
    }
    (resolved, Value::Array(effective))
}

fn refuse_the_rest(root: &Table, findings: &mut Findings) {
    for name in root.keys() {
        match LATER.iter().find(|(later, _)| later == name) {
            Some((_, what)) => findings.problem(name, format!("{what} is not in this version"), "remove it"),
            None => findings.problem(
                name,
                "unknown section",
                "known: data_dir, server, admin, store, auth, issuer, limits, metering, telemetry, upstreams, routes",
            ),
        }
    }
}

/// What no single section can see: names that must exist, and must not exist twice.
fn check_references(routes: &[RouteConfig], upstreams: &[UpstreamConfig], findings: &mut Findings) {
    let mut names = HashSet::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        if !names.insert(&upstream.name) {
            findings.problem(
                format!("upstreams[{index}].name"),
                format!("{:?} is there already", upstream.name),
                "name it otherwise",
            );
        }
    }
    let (mut route_names, mut places) = (HashSet::new(), HashSet::new());
    for (index, route) in routes.iter().enumerate() {
        let at = |field: &str| format!("routes[{index}].{field}");
        if !upstreams.iter().any(|upstream| upstream.name == route.upstream) {
            findings.problem(
                at("upstream"),
                format!("no upstream is named {:?}", route.upstream),
                "name one of [[upstreams]]",
            );
        }
        if !route_names.insert(&route.name) {
            findings.problem(
                at("name"),
                format!("{:?} is there already", route.name),
                "name it otherwise: events carry it",
            );
        }
        let methods = if route.methods.is_empty() {
            vec![String::new()]
        } else {
            route.methods.iter().map(ToString::to_string).collect()
        };
        for method in methods {
            if !places.insert((route.host.clone(), route.path.trim_end_matches('/'), method)) {
                findings.problem(
                    at("path"),
                    "host, path and method are taken by an earlier route",
                    "change one of the three",
                );
                break;
            }
        }
    }
}

/// Line and column, counted from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
