//! What the file says: read whole, each value by the model's own type and put back as the API shows
//! it, so that what would be refused is told here, and what is the same compares as the same.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::cli::{Failure, client};
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::ClientStatus;
use crate::model::plan::{self, Policies};
use crate::model::quota::Quota;
use crate::model::rate::Rate;

/// Members of a thing, as the API has them.
pub(super) type Members = Map<String, Value>;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    pub(super) plans: Vec<WantedPlan>,
    pub(super) clients: Vec<WantedClient>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WantedPlan {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) rest: Members,
}

#[derive(Debug, Deserialize)]
pub(super) struct WantedClient {
    pub(super) name: String,
    /// Which of several of that name.
    pub(super) id: Option<Uuid>,
    /// A plan's name.
    pub(super) plan: Option<String>,
    #[serde(default)]
    pub(super) keys: Vec<WantedKey>,
    #[serde(flatten)]
    pub(super) rest: Members,
}

#[derive(Debug, Deserialize)]
pub(super) struct WantedKey {
    /// Its public id, or its name where that is enough.
    pub(super) key_id: Option<String>,
    pub(super) name: Option<String>,
    #[serde(flatten)]
    pub(super) rest: Members,
}

/// What a client may say besides its name, plan and keys.
const CLIENT_MEMBERS: &[&str] = &["rate", "burst", "quota", "concurrency", "metadata", "status"];
/// The same of a key.
const KEY_MEMBERS: &[&str] = &["scopes", "rate", "burst", "allowed_addresses", "expires_at"];
/// The same of a plan.
const PLAN_MEMBERS: &[&str] = &["policies", "concurrency"];

/// Members that the word `none` takes away.
const OPTIONAL: &[&str] = &["rate", "burst", "quota", "concurrency", "expires_at"];

/// Reads a file.
///
/// # Errors
/// The first thing in it that cannot be.
pub(super) fn read(file: &Path) -> Result<Wanted, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    parse(&text).map_err(|error| wrong(&error))
}

fn parse(text: &str) -> Result<Wanted, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let value = json_of(toml::Value::Table(table))?;
    let mut wanted: Wanted = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let mut names = BTreeSet::new();
    for plan in &mut wanted.plans {
        plan::check_name(&plan.name).map_err(|error| error.to_string())?;
        if !names.insert(plan.name.clone()) {
            return Err(format!("the plan {} stands there twice", plan.name));
        }
        check(("name", PLAN_MEMBERS), &mut plan.rest, &plan.name)?;
    }
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for client in &mut wanted.clients {
        client::parse_name(&client.name)?;
        let is_new = client.id.map_or_else(|| names.insert(client.name.clone()), |id| ids.insert(id));
        if !is_new {
            return Err(format!("{} stands there twice: give each its own `id`", client.name));
        }
        check(("name, id, plan, keys", CLIENT_MEMBERS), &mut client.rest, &client.name)?;
        for key in &mut client.keys {
            key.name.as_deref().map(client::parse_name).transpose()?;
            if key.key_id.is_none() && key.name.is_none() {
                return Err(format!("a key of {} needs a key_id or a name", client.name));
            }
            check(("key_id, name", KEY_MEMBERS), &mut key.rest, &client.name)?;
        }
    }
    Ok(wanted)
}

/// TOML's values as JSON's. TOML has dates of its own, which JSON has as text.
fn json_of(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => {
            Value::Number(serde_json::Number::from_f64(number).ok_or_else(|| format!("{number} is no number of JSON"))?)
        }
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(values) => Value::Array(values.into_iter().map(json_of).collect::<Result<_, _>>()?),
        toml::Value::Table(table) => {
            let members = table.into_iter().map(|(name, value)| Ok::<_, String>((name, json_of(value)?)));
            Value::Object(members.collect::<Result<_, _>>()?)
        }
    })
}

/// Puts each member as the API shows it; `named` are those that were read already.
fn check((named, known): (&str, &[&str]), members: &mut Members, whose: &str) -> Result<(), String> {
    for (name, value) in members {
        if !known.contains(&name.as_str()) {
            return Err(format!("{whose}: there is no `{name}`; known are {named}, {}", known.join(", ")));
        }
        *value = canonical(name, value).map_err(|error| format!("{whose}: {name}: {error}"))?;
    }
    Ok(())
}

fn canonical(name: &str, value: &Value) -> Result<Value, String> {
    if OPTIONAL.contains(&name) && *value == "none" {
        return Ok(Value::Null);
    }
    match name {
        "rate" => parsed::<Rate>(value).map(|rate| rate.to_string().into()),
        "quota" => parsed::<Quota>(value).map(|quota| quota.to_string().into()),
        "burst" => Ok(count(value, Rate::MAX_COUNT)?.into()),
        "concurrency" => Ok(count(value, u32::MAX)?.into()),
        "status" => {
            let status = value.as_str().and_then(ClientStatus::parse);
            status.map(|status| status.as_str().into()).ok_or_else(|| "write `active` or `suspended`".to_owned())
        }
        "metadata" if value.is_object() => Ok(value.clone()),
        "metadata" => Err("write a table".to_owned()),
        "scopes" => {
            let scopes = Scopes::new(typed::<Vec<String>>(value)?);
            scopes.map(|scopes| json!(scopes)).map_err(|scope| format!("`{scope}` is not a scope"))
        }
        "allowed_addresses" => {
            let ranges = AddressRanges::new(typed::<Vec<String>>(value)?).map_err(|error| error.to_string())?;
            Ok(ranges.iter().collect::<Vec<_>>().into())
        }
        "expires_at" => {
            let text = value.as_str().unwrap_or_default();
            // A date of TOML's is its midnight in UTC.
            let at = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse::<Timestamp>());
            let at = at.map_err(|_| format!("{value} is no time: write a time like 2027-01-01T00:00:00Z"))?;
            // As finely as stores keep times.
            let at = Timestamp::from_microsecond(at.as_microsecond()).map_err(|error| error.to_string())?;
            Ok(at.to_string().into())
        }
        "policies" => Ok(json!(typed::<Policies>(value)?)),
        _ => Ok(value.clone()),
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(value: &Value) -> Result<T, String> {
    let text = value.as_str().ok_or_else(|| format!("{value} is no text"))?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| error.to_string())
}

fn count(value: &Value, most: u32) -> Result<u32, String> {
    let count = value.as_u64().and_then(|count| u32::try_from(count).ok()).and_then(NonZeroU32::new);
    let count = count.filter(|count| count.get() <= most).map(NonZeroU32::get);
    count.ok_or_else(|| format!("{value} is no whole number from 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_as_the_api_shows_them() {
        for (member, text, shown) in [
            ("rate", "\"5 / s\"", json!("5/s")),
            ("rate", "\"none\"", Value::Null),
            ("burst", "7", json!(7)),
            ("burst", "\"none\"", Value::Null),
            ("concurrency", "\"none\"", Value::Null),
            ("quota", "\"1000000/month@1\"", json!("1000000/month")),
            ("quota", "\"none\"", Value::Null),
            ("metadata", "{ since = 2026-01-01, a = [1.5] }", json!({"since": "2026-01-01", "a": [1.5]})),
        ] {
            let wanted = parse(&format!("[[clients]]\nname = \"acme\"\n{member} = {text}")).unwrap();
            assert_eq!(wanted.clients[0].rest[member], shown, "{member} = {text}");
        }
        for (member, text, shown) in [
            ("allowed_addresses", "[\"192.0.2.7\", \"198.51.100.9/24\"]", json!(["192.0.2.7/32", "198.51.100.0/24"])),
            ("scopes", "[\"b\", \"a\", \"b\"]", json!(["b", "a"])),
            // TOML's own dates, and text.
            ("expires_at", "2027-01-01T00:00:00Z", json!("2027-01-01T00:00:00Z")),
            ("expires_at", "2027-01-01T01:00:00.123456789+01:00", json!("2027-01-01T00:00:00.123456Z")),
            ("expires_at", "\"2027-01-01T01:00:00+01:00\"", json!("2027-01-01T00:00:00Z")),
            ("expires_at", "2027-01-01", json!("2027-01-01T00:00:00Z")),
            ("expires_at", "\"none\"", Value::Null),
        ] {
            let file = format!("[[clients]]\nname = \"acme\"\n[[clients.keys]]\nname = \"ci\"\n{member} = {text}");
            assert_eq!(parse(&file).unwrap().clients[0].keys[0].rest[member], shown, "{member} = {text}");
        }
        let file =
            "[[plans]]\nname = \"gold\"\nconcurrency = \"none\"\npolicies = [{ name = \"gold\", rate = \"5/s\" }]";
        let plan = &parse(file).unwrap().plans[0];
        assert_eq!(plan.rest["concurrency"], Value::Null);
        assert_eq!(plan.rest["policies"], json!([{"name": "gold", "rate": "5/s", "burst": 5, "mode": "enforce"}]));
    }

    #[test]
    fn what_cannot_be_is_told_before_anything_is_asked() {
        for (text, told) in [
            ("[[plans]]\nname = \"a b\"", "no name of a policy"),
            ("[[plans]]\nname = \"gold\"\n[[plans]]\nname = \"gold\"", "stands there twice"),
            ("[[plans]]\nname = \"gold\"\npolicies = [{ name = \"gold\", rate = \"5\" }]", "gold: policies: "),
            ("[[plans]]\nname = \"gold\"\nconcurrency = 0", "gold: concurrency: "),
            ("[[plans]]\nname = \"gold\"\ncolour = 1", "there is no `colour`"),
            ("[[clients]]\nplan = \"gold\"", "missing field `name`"),
            ("[[clients]]\nname = \"\"", "write 1 to 200 characters"),
            ("[[clients]]\nname = \"acme\"\nid = \"x\"", "UUID parsing failed"),
            ("[[clients]]\nname = \"acme\"\nburst = 0", "acme: burst: "),
            ("[[clients]]\nname = \"acme\"\nburst = \"many\"", "acme: burst: "),
            ("[[clients]]\nname = \"acme\"\nconcurrency = -1", "acme: concurrency: "),
            ("[[clients]]\nname = \"acme\"\nmetadata = 7", "acme: metadata: "),
            ("[[clients]]\nname = \"acme\"\nmetadata = { a = nan }", "no number of JSON"),
            ("[[clients]]\nname = \"acme\"\nrate = 5", "acme: rate: "),
            ("[[clients]]\nname = \"acme\"\n[[clients.keys]]\nscopes = [\"a\"]", "needs a key_id or a name"),
            ("[[clients]]\nname = \"acme\"\n[[clients.keys]]\nname = \"x\"\nscopes = [\"a b\"]", "acme: scopes: "),
            ("[[clients]]\nname = \"acme\"\n[[clients.keys]]\nname = \"x\"\nscopes = \"a\"", "acme: scopes: "),
            (
                "[[clients]]\nname = \"acme\"\n[[clients.keys]]\nname = \"x\"\nallowed_addresses = [\"here\"]",
                "acme: allowed_addresses: ",
            ),
            (
                "[[clients]]\nname = \"acme\"\n[[clients.keys]]\nname = \"x\"\nexpires_at = \"90d\"",
                "acme: expires_at: \"90d\" is no time: write a time like 2027-01-01T00:00:00Z",
            ),
        ] {
            let error = parse(text).map(drop).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
