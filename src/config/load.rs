//! From a file and the environment to a [`Config`]: the steps, in order.
//!
//! Find and parse the file, lay `OCTROI__…` over it, take out unknown keys and wrong types, read
//! the raw types, find the data folder, resolve each section, check what spans sections. Only a
//! file that is no TOML stops early: nothing of it can be trusted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Table;

use super::check::{Check, Findings};
use super::env::Environment;
use super::listener::ListenerConfig;
use super::overrides::{self, Origins};
use super::problem::{Problem, Problems};
use super::raw::{self, RawConfig};
use super::route::{RawRoute, RouteConfig, Surroundings};
use super::secrets::Secrets;
use super::show::Effective;
use super::upstream::UpstreamConfig;
use super::written::Written;
use super::{Config, walk};
use crate::model::clock::{Clock as _, SystemClock};

/// The file's name in the folder where the program is started.
const LOCAL_FILE: &str = "octroi.toml";

/// Routes are counted in 16 bits in the journal and in metrics; one number means "none".
const MAX_ROUTES: usize = u16::MAX as usize - 1;

/// A configuration that is whole, and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings, resolved.
    pub config: Config,
    /// The file they came from; none: defaults and environment.
    pub file: Option<PathBuf>,
    /// What is worth telling though nothing is wrong.
    pub warnings: Vec<String>,
    /// The settings in force, as a file.
    pub effective: Effective,
}

/// Loads the configuration: `flag` names its file, else it is looked for.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(flag: Option<&Path>, environment: &Environment) -> Result<Loaded, Problems> {
    let Some(file) = find_file(flag, environment) else {
        return parse("", None, environment);
    };
    let text = std::fs::read_to_string(&file).map_err(|error| {
        let message = format!("{} cannot be read: {error}", file.display());
        Problem::new("", message, "name the file with --config FILE or OCTROI_CONFIG")
    })?;
    parse(&text, Some(file), environment)
}

/// Makes the configuration of a text. `file` is where it stands: its folder is the data folder,
/// unless another is named.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(text: &str, file: Option<PathBuf>, environment: &Environment) -> Result<Loaded, Problems> {
    let mut written: Table = toml::from_str(text).map_err(|error| syntax_problem(text, file.as_deref(), &error))?;
    let findings = Findings::default();
    note_unreadable(environment, &findings);
    let schema = raw::schema();
    let mut origins = overrides::apply(&mut written, &schema, environment, &findings);
    walk::prune(&mut written, &schema, &findings);
    let mut raw = RawConfig::deserialize(written).unwrap_or_else(|error| {
        findings.add(Problem::new("", error.message(), "compare with config/reference.toml"));
        RawConfig::default()
    });

    let data_dir = data_dir(&raw.data_dir, file.as_deref(), environment, &findings);
    let secrets = Secrets::new(environment, &findings, &data_dir);
    take_database_url(&mut raw, &secrets, &findings, &mut origins);
    let mut warnings = Vec::new();
    raw.telemetry.traces.take_environment(environment, &mut origins, &mut warnings);
    let check = Check::root(&findings, &data_dir);
    let traces = raw.telemetry.traces.resolve(&check.below("telemetry.traces"), environment, &mut warnings);
    let mut config = Config { traces: traces.map(Box::new), ..resolve(&raw, &check, &secrets, data_dir.clone()) };
    config.written = Written::of(text, file.as_deref());
    warnings.extend(secrets.into_warnings());
    if environment.find("REDIS_URL").is_some() {
        warnings.push("REDIS_URL is set and has no effect: shared limits are not in this version".to_owned());
    }

    let mut problems = findings.into_problems();
    if problems.is_empty() {
        let effective = Effective::of(raw, &config);
        return Ok(Loaded { config, file, warnings, effective });
    }
    for problem in &mut problems {
        origins.annotate(problem);
    }
    Err(Problems(problems))
}

/// `--config`, `$OCTROI_CONFIG`, `./octroi.toml`, the system's. One that was named is taken even
/// if it is not there, so that a typing error is not answered with the defaults.
fn find_file(flag: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    let named = flag.or_else(|| environment.find("OCTROI_CONFIG").map(Path::new));
    if let Some(named) = named {
        return Some(environment.working_directory().join(named));
    }
    let local = environment.working_directory().join(LOCAL_FILE);
    let found = [Some(local.as_path()), environment.system_file()].into_iter().flatten().find(|file| file.exists());
    found.map(Path::to_owned)
}

fn syntax_problem(text: &str, file: Option<&Path>, error: &toml::de::Error) -> Problem {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let file = file.map_or_else(|| "the configuration".to_owned(), |file| file.display().to_string());
    // The parser's own message, without the quoted line: that line may hold a password.
    let message = error.message().replace('\n', ", ");
    Problem::new("", format!("{file} is not TOML: line {line}, column {column}: {message}"), "mend the line")
}

fn note_unreadable(environment: &Environment, findings: &Findings) {
    let ours = |name: &&String| {
        let stem = name.strip_suffix("_FILE").unwrap_or(name);
        let secrets = ["DATABASE_URL", "API_KEY_PEPPER", "API_KEY_PEPPER_PREVIOUS", "JWT_SECRET"];
        name.starts_with("OCTROI") || secrets.contains(&stem)
    };
    for name in environment.unreadable().iter().filter(ours) {
        findings.add(Problem::new(name, "its value is not UTF-8", "write `hex:` or `base64:` and the bytes encoded"));
    }
}

/// Where relative paths start. Always absolute.
fn data_dir(setting: &str, file: Option<&Path>, environment: &Environment, findings: &Findings) -> PathBuf {
    let started_in = environment.working_directory();
    let folder = file.and_then(Path::parent);
    // Environment beats file; but systemd sets STATE_DIRECTORY on its own, so a setting beats that.
    let from_environment = environment.find("OCTROI_DATA").map(|named| started_in.join(named));
    let from_setting = || (!setting.is_empty()).then(|| folder.unwrap_or(started_in).join(setting));
    let from_systemd = || {
        // Several folders are separated by colons; the first is the main one.
        let named = environment.find("STATE_DIRECTORY").and_then(|named| named.split(':').next());
        named.filter(|named| !named.is_empty()).map(PathBuf::from)
    };
    from_environment
        .or_else(from_setting)
        .or_else(from_systemd)
        .or_else(|| folder.map(Path::to_owned))
        .or_else(|| environment.user_data_dir())
        .unwrap_or_else(|| {
            findings.add(Problem::new(
                "data_dir",
                "there is no configuration file and no home folder to keep data in",
                "set OCTROI_DATA, or name a file with --config",
            ));
            started_in.to_owned()
        })
}

/// `DATABASE_URL` stands in for `store.url`.
fn take_database_url(raw: &mut RawConfig, secrets: &Secrets<'_>, findings: &Findings, origins: &mut Origins) {
    const VARIABLE: &str = "DATABASE_URL";
    let Some(found) = secrets.find_text(VARIABLE) else { return };
    let Ok(url) = std::str::from_utf8(&found.bytes) else {
        findings.add(Problem::new(found.origin, "the address is not UTF-8", "percent-encode what is not ASCII"));
        return;
    };
    url.clone_into(&mut raw.store.url);
    origins.note("store.url", found.origin);
}

fn resolve(raw: &RawConfig, check: &Check<'_>, secrets: &Secrets<'_>, data_dir: PathBuf) -> Config {
    let server = raw.server.resolve(&check.below("server"));
    let auth = raw.auth.resolve(&check.below("auth"), secrets);
    let upstreams = resolve_upstreams(raw, check);
    let routes = resolve_routes(
        &raw.routes,
        check,
        &Surroundings { auth: &auth, server: &server, now: SystemClock::new().wall() },
        &upstreams,
    );
    let admin = raw.admin.resolve(&check.below("admin"), secrets);
    let data: Vec<_> = server.listeners.iter().filter_map(ListenerConfig::tcp).collect();
    check_addresses(check, &data, admin.listen, admin.metrics_listen);
    Config {
        data_dir,
        server,
        admin,
        store: raw.store.resolve(&check.below("store")),
        auth,
        limits: raw.limits.resolve(&check.below("limits")),
        metering: raw.metering.resolve(&check.below("metering")),
        sinks: raw.metering.resolve_sinks(&check.below("metering"), secrets),
        proxy: raw.proxy.resolve(&check.below("proxy")),
        telemetry: raw.telemetry.resolve(&check.below("telemetry")),
        // The one section that asks the environment for more than secrets: laid in by the caller.
        traces: None,
        issuer: raw.issuer.resolve(&check.below("issuer"), secrets),
        upstreams,
        routes,
        written: Written::default(),
    }
}

fn resolve_upstreams(raw: &RawConfig, check: &Check<'_>) -> Vec<UpstreamConfig> {
    let mut upstreams: Vec<UpstreamConfig> = Vec::new();
    for (index, upstream) in raw.upstreams.iter().enumerate() {
        let check = check.below(&format!("upstreams[{index}]"));
        let upstream = upstream.resolve(&check);
        if upstreams.iter().any(|other| other.name == upstream.name) {
            check.refuse("name", format!("there are two upstreams `{}`", upstream.name), "give each a name of its own");
        }
        upstreams.push(upstream);
    }
    upstreams
}

fn resolve_routes(
    raw: &[RawRoute],
    check: &Check<'_>,
    around: &Surroundings<'_>,
    upstreams: &[UpstreamConfig],
) -> Vec<RouteConfig> {
    if raw.len() > MAX_ROUTES {
        check.refuse("routes", "there are too many routes", format!("write at most {MAX_ROUTES}"));
    }
    let mut names = HashMap::new();
    let mut places = HashMap::new();
    let mut routes = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let check = check.below(&format!("routes[{index}]"));
        let route = raw.resolve(&check, around);
        check_leads_somewhere(&check, &route, upstreams);
        // Two at one place would share a default name: the place is what is wrong then.
        check_place_is_free(&check, &route, index, &mut places);
        if let Some(other) = names.insert(route.name.clone(), index)
            && !check.has_problem("path")
        {
            let message = format!("routes[{other}] is named `{}` too", route.name);
            check.refuse("name", message, "give each route a name of its own");
        }
        routes.push(route);
    }
    routes
}

fn check_leads_somewhere(check: &Check<'_>, route: &RouteConfig, upstreams: &[UpstreamConfig]) {
    if route.upstream.is_empty() || upstreams.iter().any(|upstream| upstream.name == route.upstream) {
        return;
    }
    let known: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let remedy = if known.is_empty() {
        "add it under `[[upstreams]]`".to_owned()
    } else {
        format!("name one of {}, or add it under `[[upstreams]]`", known.join(", "))
    };
    check.refuse("upstream", format!("there is no upstream `{}`", route.upstream), remedy);
}

/// A host, a path and a method lead to one route. A route for any method stands behind those
/// for some at the same place.
fn check_place_is_free(
    check: &Check<'_>,
    route: &RouteConfig,
    index: usize,
    places: &mut HashMap<(Option<String>, String, Option<String>), usize>,
) {
    let methods: Vec<Option<String>> = match route.methods.as_slice() {
        [] => vec![None],
        methods => methods.iter().map(|method| Some(method.to_string())).collect(),
    };
    for method in methods {
        let on = method.as_deref().unwrap_or("any method").to_owned();
        if let Some(other) = places.insert((route.host.clone(), route.path.clone(), method), index) {
            let message = format!("routes[{other}] takes `{}` for {on} too", route.path);
            check.refuse("path", message, "remove one, or tell them apart by host, path or methods");
        }
    }
}

fn check_addresses(
    check: &Check<'_>,
    data: &[std::net::SocketAddr],
    admin: std::net::SocketAddr,
    metrics: Option<std::net::SocketAddr>,
) {
    let remedy = "give each listener an address of its own";
    if admin.port() != 0 && data.contains(&admin) {
        check.refuse("admin.listen", format!("callers connect to {admin}"), remedy);
    }
    if let Some(metrics) = metrics
        && metrics.port() != 0
        && (metrics == admin || data.contains(&metrics))
    {
        check.refuse("admin.metrics_listen", format!("{metrics} is taken by another listener"), remedy);
    }
}
