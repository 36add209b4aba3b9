//! A gateway's admin API as commands use it: a remote one by `--server` and a token, or the one that
//! serves on this machine under the same settings, which believes whoever has the pepper and may read
//! what it left in its folder.

pub(super) mod apply;
pub(super) mod explain;
mod lists;
pub(super) mod watch;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use super::output::{self, Row};
use super::{Context, Exit, Failure, person};
use crate::config::Problem;
use crate::crypto::shell_text::{self, ShellTexts};
use crate::model::causes::with_causes;
use crate::model::secret::SecretText;
use crate::server::outbound::{Outbound, OutboundFault, OutboundRules};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same where books are read as a whole: the server gives up before.
const LONG_PATIENCE: Duration = Duration::from_mins(11);

/// The largest answer.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// The largest body that an admin API reads.
const BODY_MAX: usize = 1024 * 1024;

/// An admin API.
pub(super) struct Server {
    base: Url,
    outbound: Outbound,
    bearer: SecretText,
    /// Whether it believes the pepper, and not a token.
    by_pepper: bool,
}

impl Server {
    /// The one that `--server` or `$OCTROI_SERVER` names; none: commands work on the store.
    ///
    /// # Errors
    /// It is no address, or there is no token for it.
    pub(super) fn named(context: &Context) -> Result<Option<Self>, Failure> {
        let named = context.server.as_deref().or_else(|| context.environment.find("OCTROI_SERVER"));
        let Some(named) = named else { return Ok(None) };
        let wrong = || Failure::usage(format!("`{named}` is no address of an admin API: write https://HOST:PORT"));
        let base = Url::parse(named).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(wrong)?;
        if base.scheme() == "http" && !is_loopback(&base) {
            return Err(Failure::usage("a token does not cross a network in the clear: write https://"));
        }
        let bearer = token(context)?;
        Ok(Some(Self { outbound: outbound(context, PATIENCE)?, base, bearer, by_pepper: false }))
    }

    /// The named one, else the one that serves here under the settings in force.
    ///
    /// # Errors
    /// Bad settings, or no pepper.
    pub(super) fn named_or_local(context: &Context) -> Result<Self, Failure> {
        if let Some(named) = Self::named(context)? {
            return Ok(named);
        }
        let loaded = context.load()?;
        let pepper = loaded.config.auth.pepper.as_ref().ok_or_else(no_pepper)?;
        let user = person::actor(&context.environment).name;
        let folder = &loaded.config.data_dir;
        let texts = ShellTexts::of_folder(folder, pepper).map_err(|error| {
            let file = folder.join(shell_text::FILE);
            let detail = format!(
                "no gateway that serves here could be asked: {}: {error} (be the user that serves, under the same \
                 settings; or use --server with a token)",
                file.display()
            );
            Failure::new(Exit::Unavailable, "server_unavailable", detail)
        })?;
        let bearer = texts.make(&user, context.clock.wall().as_second());
        let listen = loaded.config.admin.listen;
        let ip = if listen.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { listen.ip() };
        let scheme = if loaded.config.admin.tls.is_some() { "https" } else { "http" };
        let base = Url::parse(&format!("{scheme}://{}", SocketAddr::new(ip, listen.port())));
        let base = base.map_err(|_| Failure::usage("`admin.listen` makes no address"))?;
        Ok(Self { outbound: outbound(context, PATIENCE)?, base, bearer, by_pepper: true })
    }

    /// The same, where an answer may take so long.
    ///
    /// # Errors
    /// The file of authorities cannot be read.
    pub(super) fn with_patience(&self, context: &Context, patience: Duration) -> Result<Self, Failure> {
        let outbound = outbound(context, patience)?;
        Ok(Self { base: self.base.clone(), outbound, bearer: self.bearer.clone(), by_pepper: self.by_pepper })
    }

    /// Asks, and reads the JSON of the answer.
    ///
    /// # Errors
    /// What the server says is wrong, or that it does not answer.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.ask_by(&self.outbound, method, path, body).await
    }

    /// Asks with what only the server may see, a key: the text that is sent is wiped afterwards. What is
    /// refused with the code `told` is an answer, too.
    ///
    /// # Errors
    /// What else the server says is wrong, that it does not answer, or that it is too much for it.
    pub(super) async fn ask_secretly(
        &self,
        path: &str,
        body: &impl Serialize,
        told: Option<&str>,
    ) -> Result<Value, Failure> {
        // Room for everything at once: what grows leaves copies of the secret behind.
        let mut text = Zeroizing::new(vec![0; BODY_MAX]);
        let mut rest: &mut [u8] = &mut text;
        serde_json::to_writer(&mut rest, body).map_err(|_| {
            let detail = format!("this is more than the {BODY_MAX} bytes that a gateway reads: send it in parts");
            Failure::new(Exit::Failed, "body_too_large", detail)
        })?;
        let left = rest.len();
        text.truncate(BODY_MAX - left);
        let (status, value) = self.send(&self.outbound, Method::POST, path, Some(Bytes::from_owner(text))).await?;
        let is_answer = status.is_success() || told.is_some_and(|told| value["code"] == told);
        if is_answer { Ok(value) } else { Err(self.refused(status, &value)) }
    }

    /// The same of what may take long, read as what it is. What makes no sense to the server is wrong
    /// usage, as it is beside the store.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub(super) async fn ask_patiently<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let outbound = self.outbound.with_deadline(LONG_PATIENCE);
        let answer = self.ask_by(&outbound, method, path, body).await.map_err(|failure| {
            if failure.code() == "bad_request" { Failure::usage(failure.detail()) } else { failure }
        })?;
        serde_json::from_value(answer).map_err(|_| unreadable())
    }

    /// The same by GET.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub(super) async fn read_patiently<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask_patiently(Method::GET, path, None).await
    }

    async fn ask_by(
        &self,
        outbound: &Outbound,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let (status, value) = self.send(outbound, method, path, body).await?;
        if status.is_success() { Ok(value) } else { Err(self.refused(status, &value)) }
    }

    async fn send(
        &self,
        outbound: &Outbound,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Value), Failure> {
        let url = self.url(path)?;
        let mut headers = self.headers()?;
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let sent = outbound.send(method, &url, &headers, body.unwrap_or_default()).await;
        let answer = sent.map_err(|fault| self.lost(&fault))?;
        let (status, value) = (answer.status(), serde_json::from_slice(answer.body()).ok());
        // Whatever else listens there may answer 200, too: that is not an empty list.
        let is_ours = has_type(answer.headers(), "application/json") && value.is_some();
        if status.is_success() && !is_ours {
            return Err(unreadable());
        }
        Ok((status, value.unwrap_or(Value::Null)))
    }

    /// GET.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::GET, path, None).await
    }

    /// GET of a list, or of a page of it.
    ///
    /// # Errors
    /// See [`Self::ask`]; the answer is no list.
    pub(super) async fn get_list(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.get(path).await?;
        if answer["items"].is_array() { Ok(answer) } else { Err(unreadable()) }
    }

    /// Reads an answer as it comes.
    ///
    /// # Errors
    /// What the server says is wrong, or that `each` fails.
    pub(super) async fn stream(
        &self,
        path: &str,
        each: &mut (dyn FnMut(&[u8]) -> Result<(), Failure> + Send),
    ) -> Result<(), Failure> {
        let url = self.url(path)?;
        let (head, mut pieces) =
            self.outbound.open_stream(&url, &self.headers()?).await.map_err(|fault| self.lost(&fault))?;
        let status = head.status;
        if !status.is_success() {
            let mut whole = Vec::new();
            while let Some(piece) = pieces.next().await.map_err(|fault| self.lost(&fault))? {
                whole.extend_from_slice(&piece);
            }
            return Err(self.refused(status, &serde_json::from_slice(&whole).unwrap_or(Value::Null)));
        }
        if !has_type(&head.headers, "application/x-ndjson") {
            return Err(unreadable());
        }
        while let Some(piece) = pieces.next().await.map_err(|fault| self.lost(&fault))? {
            each(&piece)?;
        }
        Ok(())
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        self.base.join(path).map_err(|_| Failure::usage(format!("`{path}` is no path")))
    }

    fn headers(&self) -> Result<HeaderMap, Failure> {
        let value = HeaderValue::from_str(&format!("Bearer {}", self.bearer.expose()));
        let mut value = value.map_err(|_| Failure::usage("the admin token has characters that no token has"))?;
        value.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value);
        Ok(headers)
    }

    /// What the server says, and what it means of how this was asked.
    fn refused(&self, status: StatusCode, problem: &Value) -> Failure {
        let failure = refused(status, problem);
        if status != StatusCode::UNAUTHORIZED {
            return failure;
        }
        if self.by_pepper {
            let detail = "the gateway that serves here does not believe this command: the pepper is not the one that \
                          it runs with (give that in API_KEY_PEPPER, API_KEY_PEPPER_FILE or the file \
                          `auth.pepper_file` names), or `shell.secret` in the data folder is not its own";
            return Failure::new(Exit::Failed, "wrong_pepper", detail);
        }
        // The words of the data listener (`proxy::rejection`); the admin API has others.
        if problem["detail"] == "The credential is not valid here." {
            let detail =
                format!("{} (is {} the data listener? URL is that of admin.listen)", failure.detail(), self.base);
            return Failure::new(Exit::Failed, failure.code().to_owned(), detail);
        }
        failure
    }

    fn lost(&self, fault: &OutboundFault) -> Failure {
        let detail = format!(
            "the admin API at {} does not answer: {} (does `octroi serve` run there?)",
            self.base,
            with_causes(fault)
        );
        Failure::new(Exit::Unavailable, "server_unavailable", detail)
    }
}

/// The gateway that serves has a pepper already: a new one would be another.
fn no_pepper() -> Problem {
    Problem::new(
        "auth.pepper_file",
        "no pepper was given, and the gateway that serves here believes only whoever has its own",
        "give the pepper that this gateway runs with in API_KEY_PEPPER, API_KEY_PEPPER_FILE or the file \
         `auth.pepper_file` names; or use --server with a token",
    )
}

fn token(context: &Context) -> Result<SecretText, Failure> {
    let environment = &context.environment;
    if let Some(text) = environment.find("OCTROI_ADMIN_TOKEN") {
        return Ok(SecretText::new(text.to_owned()));
    }
    let Some(file) = environment.find("OCTROI_ADMIN_TOKEN_FILE") else {
        return Err(Failure::usage("a server needs a token: set OCTROI_ADMIN_TOKEN or OCTROI_ADMIN_TOKEN_FILE"));
    };
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::usage(format!("OCTROI_ADMIN_TOKEN_FILE {file}: {error}")))?;
    Ok(SecretText::new(text.trim().to_owned()))
}

fn outbound(context: &Context, deadline: Duration) -> Result<Outbound, Failure> {
    let rules = OutboundRules {
        deadline,
        body_max: ANSWER_MAX,
        allow_private_addresses: true,
        ca_file: context.environment.find("OCTROI_SERVER_CA_FILE").map(PathBuf::from),
    };
    Outbound::new(rules).map_err(|fault| Failure::usage(format!("OCTROI_SERVER_CA_FILE: {fault}")))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether what came says that it is of this media type.
fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let named = headers.get(CONTENT_TYPE).and_then(|named| named.to_str().ok()).unwrap_or_default();
    named.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted)
}

fn refused(status: StatusCode, problem: &Value) -> Failure {
    let code = problem["code"].as_str().unwrap_or("server_refused").to_owned();
    let exit = match (status, code.as_str()) {
        // Its settings lack something: waiting does not help.
        (_, "no_signing_key") => Exit::Configuration,
        (StatusCode::SERVICE_UNAVAILABLE, _) => Exit::Unavailable,
        _ => Exit::Failed,
    };
    let detail = problem["detail"].as_str().map_or_else(|| format!("the server answered {status}"), ToOwned::to_owned);
    Failure::new(exit, code, detail)
}

/// The answer has another form.
pub(super) fn unreadable() -> Failure {
    let detail = "the server's answer cannot be read: is URL the admin listener (admin.listen) of an octroi of this \
                  version?";
    Failure::new(Exit::Failed, "server_unreadable", detail)
}

/// The rows of a list.
pub(super) fn items(answer: &Value) -> &[Value] {
    answer["items"].as_array().map_or(&[], Vec::as_slice)
}

/// A path with its query.
pub(super) fn path(path: &str, pairs: &[(&str, &str)]) -> String {
    if pairs.is_empty() {
        return path.to_owned();
    }
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    format!("{path}?{query}")
}

/// Writes one object of an answer, with the columns that the command line has.
pub(super) fn write_object(
    columns: &[&'static str],
    answer: &Value,
    context: &Context,
    out: &mut dyn std::io::Write,
) -> Result<(), Failure> {
    Ok(output::write_object(&Row::read(columns, answer), context.format, out)?)
}
