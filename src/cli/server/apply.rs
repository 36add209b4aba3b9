//! `octroi apply FILE` and `octroi diff FILE`: plans, clients and what stands beside their keys, as a
//! file says they should be.
//!
//! What the file names is made or changed; what it does not name stays, and nothing is ever deleted or
//! revoked. Keys are never made this way: their text could not be shown. Two clients of one name are
//! told apart by `id`. What TOML cannot say, nothing, is the word `none`.
//!
//! The file is read whole, and every value in it, before anything is changed.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Server, items, path};
use crate::cli::output::{self, Format, Row};
use crate::cli::{Context, Exit, Failure};
use crate::model::quota::Quota;
use crate::model::rate::Rate;

/// `octroi apply`, `octroi diff`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// TOML: `[[plans]]`, `[[clients]]`, `[[clients.keys]]`, with the names of the API
    file: PathBuf,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    plans: Vec<Map<String, Value>>,
    clients: Vec<WantedClient>,
}

#[derive(Debug, Deserialize)]
struct WantedClient {
    name: String,
    /// Which of several of that name.
    id: Option<String>,
    /// A plan's name.
    plan: Option<String>,
    #[serde(default)]
    keys: Vec<WantedKey>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct WantedKey {
    /// Its public id, or its name where that is enough.
    key_id: Option<String>,
    name: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What a client may say besides its name, plan and keys.
const CLIENT_MEMBERS: &[&str] = &["rate", "burst", "quota", "concurrency", "metadata", "status"];
/// The same of a key.
const KEY_MEMBERS: &[&str] = &["scopes", "rate", "burst", "allowed_addresses", "expires_at"];
/// The same of a plan.
const PLAN_MEMBERS: &[&str] = &["policies", "concurrency"];

/// One thing to do.
#[derive(Debug)]
struct Deed {
    what: &'static str,
    name: String,
    changes: Vec<String>,
    method: Method,
    path: String,
    body: Value,
}

/// Says what would be done; exit 1 where something would.
///
/// # Errors
/// The file is wrong, no gateway answers, or something would be done.
pub(in crate::cli) async fn diff(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let server = Server::named_or_local(context)?;
    let wanted = read(&arguments.file)?;
    let deeds = deeds(&server, &wanted).await?;
    write_deeds(context, &deeds, out)?;
    let detail = format!("{} things are not as {} says", deeds.len(), arguments.file.display());
    if deeds.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "differences", detail)) }
}

/// Does it. What was begun and refused midway stays as far as it came, and is shown; applying again
/// goes on.
///
/// # Errors
/// The file is wrong, no gateway answers, or refuses.
pub(in crate::cli) async fn apply(
    context: &Context,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let server = Server::named_or_local(context)?;
    let wanted = read(&arguments.file)?;
    // All of it once without doing anything: what cannot be done is told before anything is.
    deeds(&server, &wanted).await?;
    let mut done = Vec::new();
    let result = do_all(&server, &wanted, &mut done).await;
    write_deeds(context, &done, out)?;
    result
}

async fn do_all(server: &Server, wanted: &Wanted, done: &mut Vec<Deed>) -> Result<(), Failure> {
    // Plans first: clients name them.
    for deed in plan_deeds(server, wanted).await? {
        server.ask(deed.method.clone(), &deed.path, Some(&deed.body)).await?;
        done.push(deed);
    }
    let mut owed = Vec::new();
    for client in &wanted.clients {
        let (deeds, is_new) = deeds_of_client(server, wanted, client).await?;
        for deed in deeds {
            let made = server.ask(deed.method.clone(), &deed.path, Some(&deed.body)).await?;
            // A status is changed, and not made.
            let status = client.rest.get("status").filter(|_| deed.method == Method::POST);
            if let (Some(status), Some(id)) = (status, made["id"].as_str()) {
                let path = format!("/v1/clients/{id}");
                server.ask(Method::PATCH, &path, Some(&json!({ "status": status }))).await?;
            }
            done.push(deed);
        }
        if is_new && !client.keys.is_empty() {
            owed.push(client.name.as_str());
        }
    }
    if owed.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "made, and still without keys: {}; make them with `octroi key create CLIENT`, then apply again",
        owed.join(", ")
    );
    Err(Failure::new(Exit::Failed, "keys_missing", detail))
}

fn read(file: &Path) -> Result<Wanted, Failure> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let mut wanted: Wanted =
        toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let known = |names: &[&str], members: &Map<String, Value>, place: &str| {
        let unknown = members.keys().find(|name| !names.contains(&name.as_str()));
        unknown.map_or(Ok(()), |name| {
            let remedy = names.join(", ");
            Err(Failure::usage(format!("{}: {place}: there is no `{name}`; known are {remedy}", file.display())))
        })
    };
    for plan in &wanted.plans {
        let mut rest = plan.clone();
        if !rest.remove("name").is_some_and(|name| name.is_string()) {
            return Err(Failure::usage(format!("{}: a plan needs a name", file.display())));
        }
        known(PLAN_MEMBERS, &rest, "plans")?;
    }
    let mut names = BTreeSet::new();
    for client in &mut wanted.clients {
        if client.id.is_none() && !names.insert(client.name.clone()) {
            let detail = format!("{}: {} stands there twice: give each its `id`", file.display(), client.name);
            return Err(Failure::usage(detail));
        }
        known(CLIENT_MEMBERS, &client.rest, &client.name)?;
        check_values(&mut client.rest, file, &client.name)?;
        for key in &mut client.keys {
            known(KEY_MEMBERS, &key.rest, &client.name)?;
            check_values(&mut key.rest, file, &client.name)?;
            if key.key_id.is_none() && key.name.is_none() {
                return Err(Failure::usage(format!(
                    "{}: a key of {} needs a key_id or a name",
                    file.display(),
                    client.name
                )));
            }
        }
    }
    Ok(wanted)
}

/// Reads what would be refused otherwise, when half of the file is done; `none` becomes nothing.
fn check_values(members: &mut Map<String, Value>, file: &Path, whose: &str) -> Result<(), Failure> {
    for (name, value) in members {
        if !matches!(name.as_str(), "metadata" | "status" | "scopes" | "allowed_addresses") && *value == "none" {
            *value = Value::Null;
        }
        let Some(text) = value.as_str() else { continue };
        let wrong = match name.as_str() {
            "rate" => text.parse::<Rate>().err().map(|error| error.to_string()),
            "quota" => text.parse::<Quota>().err().map(|error| error.to_string()),
            "expires_at" => text.parse::<Timestamp>().err().map(|error| error.to_string()),
            "status" => (!matches!(text, "active" | "suspended"))
                .then(|| format!("`{text}` is no status: write `active` or `suspended`")),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(Failure::usage(format!("{}: {whose}: {name}: {wrong}", file.display())));
        }
    }
    Ok(())
}

async fn deeds(server: &Server, wanted: &Wanted) -> Result<Vec<Deed>, Failure> {
    let mut deeds = plan_deeds(server, wanted).await?;
    for client in &wanted.clients {
        deeds.extend(deeds_of_client(server, wanted, client).await?.0);
    }
    Ok(deeds)
}

async fn plan_deeds(server: &Server, wanted: &Wanted) -> Result<Vec<Deed>, Failure> {
    let mut deeds = Vec::new();
    for plan in &wanted.plans {
        let name = plan["name"].as_str().unwrap_or_default();
        let found = server.get(&path("/v1/plans", &[("name", name)])).await?;
        deeds.extend(deed("plan", name, items(&found).first(), &Value::from(plan.clone()), "/v1/plans", "/v1/plans/"));
    }
    Ok(deeds)
}

/// What is to be done of a client and its keys, and whether it is new.
async fn deeds_of_client(
    server: &Server,
    wanted: &Wanted,
    client: &WantedClient,
) -> Result<(Vec<Deed>, bool), Failure> {
    let mut body = client.rest.clone();
    body.insert("name".to_owned(), client.name.as_str().into());
    if let Some(plan) = &client.plan {
        body.insert("plan_id".to_owned(), plan_id(server, wanted, client, plan).await?);
    }
    let existing = existing_client(server, client).await?;
    if existing.is_none() {
        drop(body.remove("status"));
    }
    let made = deed("client", &client.name, existing.as_ref(), &body.into(), "/v1/clients", "/v1/clients/");
    let mut deeds: Vec<Deed> = made.into_iter().collect();
    if let Some(existing) = &existing {
        deeds.extend(key_deeds(server, client, existing).await?);
    }
    Ok((deeds, existing.is_none()))
}

/// The id of the plan that a client names; in words, where the file makes it first.
async fn plan_id(server: &Server, wanted: &Wanted, client: &WantedClient, plan: &str) -> Result<Value, Failure> {
    if plan == "none" {
        return Ok(Value::Null);
    }
    let found = server.get(&path("/v1/plans", &[("name", plan)])).await?;
    if let Some(found) = items(&found).first() {
        return Ok(found["id"].clone());
    }
    if wanted.plans.iter().any(|made| made["name"] == plan) {
        return Ok(format!("the plan {plan}").into());
    }
    Err(Failure::not_found(format!("there is no plan `{plan}` for the client {}", client.name)))
}

async fn existing_client(server: &Server, client: &WantedClient) -> Result<Option<Value>, Failure> {
    if let Some(id) = &client.id {
        return server.get(&format!("/v1/clients/{id}")).await.map(Some);
    }
    let found = server.get(&path("/v1/clients", &[("name", &client.name)])).await?;
    match items(&found) {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let detail =
                format!("{} clients are named `{}`: say which with `id` beside the name", several.len(), client.name);
            Err(Failure::new(Exit::Failed, "ambiguous", detail))
        }
    }
}

async fn key_deeds(server: &Server, client: &WantedClient, existing: &Value) -> Result<Vec<Deed>, Failure> {
    if client.keys.is_empty() {
        return Ok(Vec::new());
    }
    let id = existing["id"].as_str().unwrap_or_default();
    let all = server.get(&format!("/v1/clients/{id}/keys?limit=1000")).await?;
    let mut deeds = Vec::new();
    for key in &client.keys {
        let is_meant = |row: &&Value| match (&key.key_id, &key.name) {
            (Some(key_id), _) => row["key_id"] == key_id.as_str(),
            (None, Some(name)) => {
                row["name"] == name.as_str() && row["revoked_at"].is_null() && row["replaced_by"].is_null()
            }
            (None, None) => false,
        };
        let found: Vec<&Value> = items(&all).iter().filter(is_meant).collect();
        let named = key.key_id.as_deref().or(key.name.as_deref()).unwrap_or_default();
        let [row] = found.as_slice() else {
            let detail = match found.len() {
                0 => format!("the client {} has no key `{named}`: make it with `octroi key create`", client.name),
                count => format!("the client {} has {count} keys `{named}`: say which with `key_id`", client.name),
            };
            return Err(Failure::not_found(detail));
        };
        let mut body = key.rest.clone();
        if let (Some(_), Some(name)) = (&key.key_id, &key.name) {
            body.insert("name".to_owned(), name.as_str().into());
        }
        deeds.extend(deed("key", named, Some(row), &body.into(), "", "/v1/keys/"));
    }
    Ok(deeds)
}

/// What is to be done that something is as it is wanted; none: it is.
fn deed(
    what: &'static str,
    name: &str,
    existing: Option<&Value>,
    wanted: &Value,
    list: &str,
    one: &str,
) -> Option<Deed> {
    let members = wanted.as_object()?;
    let Some(existing) = existing else {
        let changes = vec!["it is made".to_owned()];
        let (method, path) = (Method::POST, list.to_owned());
        return Some(Deed { what, name: name.to_owned(), changes, method, path, body: wanted.clone() });
    };
    let mut body = Map::new();
    let mut changes = Vec::new();
    for (member, value) in members {
        if !is_same(&existing[member], value) {
            changes.push(format!("{member}: {} -> {value}", existing[member]));
            body.insert(member.clone(), value.clone());
        }
    }
    let path = format!("{one}{}", existing["id"].as_str()?);
    let (method, body) = (Method::PATCH, body.into());
    (!changes.is_empty()).then(|| Deed { what, name: name.to_owned(), changes, method, path, body })
}

/// Whether something is as it is wanted.
fn is_same(existing: &Value, wanted: &Value) -> bool {
    match (existing, wanted) {
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| is_same(there, wanted))
        }
        (Value::Object(there), Value::Object(wanted)) => {
            // A policy's mode and such have defaults, which the file may leave out.
            wanted.iter().all(|(name, value)| there.get(name).is_some_and(|there| is_same(there, value)))
        }
        (there, wanted) => there == wanted,
    }
}

fn write_deeds(context: &Context, deeds: &[Deed], out: &mut dyn Write) -> Result<(), Failure> {
    match context.format {
        Format::Json => {
            let rows: Vec<Value> = deeds
                .iter()
                .map(|deed| json!({ "what": deed.what, "name": deed.name, "changes": deed.changes }))
                .collect();
            output::write_json(&json!({ "items": rows, "next": null }), out)?;
        }
        Format::Csv | Format::Table => {
            let rows: Vec<Row> = deeds
                .iter()
                .map(|deed| {
                    let row = Row::new().with("what", deed.what).with("name", deed.name.as_str());
                    row.with("changes", deed.changes.join("; "))
                })
                .collect();
            let columns = &["what", "name", "changes"];
            match context.format {
                Format::Csv => output::write_csv(columns, &rows, out)?,
                _ if rows.is_empty() => writeln!(out, "everything is as the file says")?,
                _ => output::write_table(columns, &rows, out)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_changed() {
        let there = json!({"id": "1", "name": "gold", "concurrency": null,
            "policies": [{"name": "gold", "rate": "5/s", "mode": "enforce"}]});
        let told = |wanted: Value| deed("plan", "gold", Some(&there), &wanted, "/v1/plans", "/v1/plans/");
        assert!(told(json!({"name": "gold", "policies": [{"name": "gold", "rate": "5/s"}]})).is_none());
        let changed = told(json!({"name": "gold", "concurrency": 3})).unwrap();
        assert_eq!((changed.method, changed.path.as_str()), (Method::PATCH, "/v1/plans/1"));
        assert_eq!(changed.body, json!({"concurrency": 3}));
        let made = deed("plan", "new", None, &json!({"name": "new"}), "/v1/plans", "/v1/plans/").unwrap();
        assert_eq!((made.method, made.path.as_str()), (Method::POST, "/v1/plans"));
    }
}
