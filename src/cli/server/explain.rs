//! `octroi explain` and `octroi refusals`: why a request was or would be answered as it is.

use std::fs::File;
use std::io::{Read, Write, stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{Server, items, path};
use crate::cli::output::{self, Format, ListWriter, Row};
use crate::cli::{Context, Failure};

/// `octroi explain`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The key it would come with: its row's id or its public id; never the key itself
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// The token (JWT) it would come with, in a file; `-` reads it from stdin. It is judged as its next
    /// request would be, and written nowhere
    #[arg(long, value_name = "FILE", conflicts_with = "key_id")]
    token_file: Option<PathBuf>,
    /// From where it would come
    #[arg(long, value_name = "ADDRESS")]
    from: Option<std::net::IpAddr>,
    /// GET, POST …; or the id of a request, which was in the answer's X-Request-Id
    #[arg(value_name = "METHOD|REQUEST_ID")]
    method: String,
    /// A URL, or a path
    #[arg(value_name = "URL")]
    url: Option<String>,
}

/// `octroi refusals`
#[derive(Debug, Args)]
pub(in crate::cli) struct RefusalsArguments {
    /// Only this client's: its id or name
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// Only with this code, like `invalid_credentials`
    #[arg(long)]
    code: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

/// Explains.
///
/// # Errors
/// No gateway answers; nothing is known of the request.
pub(in crate::cli) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let server = Server::named_or_local(context)?;
    let Some(url) = &arguments.url else {
        if arguments.method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Failure::usage("say for which URL or path, or give the id of a request"));
        }
        let story = server.get(&format!("/v1/requests/{}", arguments.method)).await?;
        return write_story(context, &story, out);
    };
    let mut body = json!({ "method": arguments.method, "url": url });
    if let Some(key) = &arguments.key_id {
        body["key_id"] = key.as_str().into();
    }
    if let Some(file) = &arguments.token_file {
        body["token"] = read_token(file)?.into();
    }
    if let Some(from) = arguments.from {
        body["address"] = from.to_string().into();
    }
    let told = server.ask(Method::POST, "/v1/explain", Some(&body)).await?;
    match context.format {
        Format::Json => Ok(output::write_json(&told, out)?),
        Format::Table | Format::Csv => Ok(write_explanation(&told, out)?),
    }
}

/// The most that is read of a token's file: no token is as long.
const TOKEN_MAX: u64 = 64 * 1024;

fn read_token(file: &Path) -> Result<String, Failure> {
    let read = |mut from: Box<dyn Read>| {
        let mut text = String::new();
        from.read_to_string(&mut text).map(|_| text.trim().to_owned())
    };
    let text = if file == Path::new("-") {
        read(Box::new(stdin().take(TOKEN_MAX)))
    } else {
        File::open(file).and_then(|file| read(Box::new(file.take(TOKEN_MAX))))
    };
    text.map_err(|error| Failure::usage(format!("the token was not read from {}: {error}", file.display())))
}

fn write_story(context: &Context, story: &Value, out: &mut dyn Write) -> Result<(), Failure> {
    if context.format == Format::Json {
        return Ok(output::write_json(story, out)?);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    for (name, heading) in [("refusal", "it was refused"), ("event", "it was admitted")] {
        let Some(members) = story[name].as_object() else { continue };
        writeln!(out, "{heading}")?;
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            writeln!(out, "  {name:15} {}", text(value))?;
        }
    }
    if story["now"].is_object() {
        writeln!(out, "what would become of it now:")?;
        write_explanation(&story["now"], out)?;
    }
    Ok(())
}

fn write_explanation(told: &Value, out: &mut dyn Write) -> std::io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    writeln!(out, "{}", text(&told["verdict"]))?;
    for step in told["steps"].as_array().into_iter().flatten() {
        let mark = match step["finding"].as_str() {
            Some("passes") => "ok",
            Some("refuses") => "NO",
            _ => "--",
        };
        writeln!(out, "  {mark}  {:10}  {}", text(&step["step"]), text(&step["detail"]))?;
        let setting = &step["setting"];
        if setting.is_object() {
            let place = setting["written_at"].as_str().unwrap_or("not written: the default");
            writeln!(out, "                  {} = {} ({place})", text(&setting["path"]), text(&setting["value"]))?;
        }
    }
    for limit in told["limits"].as_array().into_iter().flatten() {
        let (policy, allows) = (text(&limit["policy"]), text(&limit["allows"]));
        writeln!(out, "  limit {policy}: {} left of {allows}, whole in {} s", limit["left"], limit["resets_in"])?;
    }
    Ok(())
}

const COLUMNS: &[&str] = &[
    "at",
    "request_id",
    "client_id",
    "api_key_id",
    "route",
    "method",
    "path",
    "address",
    "status",
    "code",
    "reason",
    "limit_policies",
    "limit_levels",
    "retry_after",
];
const SHOWN: &[&str] = &["at", "client_id", "method", "path", "status", "code", "reason", "request_id"];

/// Lists recent refusals with their true reason.
///
/// # Errors
/// No gateway answers; the client is not there.
pub(in crate::cli) async fn refusals(
    context: &Context,
    arguments: &RefusalsArguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let server = Server::named_or_local(context)?;
    let client = match &arguments.client {
        Some(named) => Some(server.client(named).await?.to_string()),
        None => None,
    };
    let limit = arguments.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(client.as_deref().map(|client| ("client", client)));
    query.extend(arguments.code.as_deref().map(|code| ("code", code)));
    let answer = server.get_list(&path("/v1/refusals", &query)).await?;
    let mut writer = ListWriter::begin(context.format, COLUMNS, SHOWN, out)?;
    for refusal in items(&answer) {
        writer.push(Row::read(COLUMNS, refusal))?;
    }
    Ok(writer.finish(None)?)
}
