//! The configuration as a JSON Schema (draft 2020-12), for editors: names and types from the defaults,
//! words from the reference, so that neither can say something else.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};
use toml::{Table, Value};

use super::raw;

/// The reference, whose comments say what settings mean.
const REFERENCE: &str = include_str!("../../config/reference.toml");

/// The schema of the configuration file.
#[must_use]
pub fn json_schema() -> Json {
    let words = words(REFERENCE);
    let mut schema = table(&raw::schema(), "", &words);
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "Configuration of Octroi".into());
    schema.into()
}

fn table(defaults: &Table, path: &str, words: &HashMap<String, String>) -> Map<String, Json> {
    let mut properties = Map::new();
    for (key, value) in defaults {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let mut property = of(value, &path, words);
        if let Some(words) = words.get(&path) {
            property.insert("description".to_owned(), words.as_str().into());
        }
        properties.insert(key.clone(), property.into());
    }
    let mut schema = Map::new();
    schema.insert("type".to_owned(), "object".into());
    // An empty table in the defaults has words under names that nobody knows before.
    let others = if defaults.is_empty() { json!({ "type": "string" }) } else { json!(false) };
    schema.insert("additionalProperties".to_owned(), others);
    schema.insert("properties".to_owned(), properties.into());
    schema
}

fn of(value: &Value, path: &str, words: &HashMap<String, String>) -> Map<String, Json> {
    let mut schema = Map::new();
    let mut plain = |kind: &str, default: Json| {
        schema.insert("type".to_owned(), kind.into());
        // An empty text stands for what was not written.
        if default != "" {
            schema.insert("default".to_owned(), default);
        }
    };
    match value {
        Value::String(text) => plain("string", text.as_str().into()),
        Value::Integer(number) => plain("integer", (*number).into()),
        Value::Float(number) => plain("number", (*number).into()),
        Value::Boolean(word) => plain("boolean", (*word).into()),
        Value::Datetime(moment) => plain("string", moment.to_string().into()),
        Value::Table(below) => return table(below, path, words),
        Value::Array(items) => {
            let item = match items.first() {
                Some(Value::Table(first)) => table(first, &format!("{path}[]"), words),
                Some(first) => of(first, path, words),
                None => of(&Value::String(String::new()), path, words),
            };
            let mut item = item;
            item.remove("default");
            schema.insert("type".to_owned(), "array".into());
            schema.insert("items".to_owned(), item.into());
        }
    }
    schema
}

/// What the reference says of each setting: the comment above it, which speaks for all that follow it
/// without a blank line or another comment.
fn words(reference: &str) -> HashMap<String, String> {
    let mut words = HashMap::new();
    let (mut section, mut said, mut goes_on) = (String::new(), String::new(), false);
    for line in reference.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix('#') {
            if !goes_on {
                said.clear();
            }
            goes_on = true;
            if !said.is_empty() {
                said.push(' ');
            }
            said.push_str(comment.trim());
        } else if line.starts_with('[') {
            section = match line.strip_prefix("[[") {
                Some(name) => format!("{}[]", name.trim_end_matches(']')),
                None => line.trim_matches(['[', ']']).to_owned(),
            };
            // A part of a list's element is named as if there were one.
            for list in ["routes", "upstreams", "auth.issuers", "metering.sinks", "server.listeners"] {
                if let Some(rest) = section.strip_prefix(&format!("{list}.")) {
                    section = format!("{list}[].{rest}");
                }
            }
            said.clear();
            goes_on = false;
        } else if let Some((key, _)) = line.split_once('=') {
            let key = key.trim();
            let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
            words.insert(path, said.clone());
            goes_on = false;
        } else {
            said.clear();
            goes_on = false;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_its_type_its_default_and_its_words() {
        let schema = json_schema();
        let workers = &schema["properties"]["server"]["properties"]["workers"];
        assert_eq!((&workers["type"], &workers["default"]), (&"integer".into(), &0.into()));
        assert!(workers["description"].as_str().unwrap().contains("0: one for each core"), "{workers}");
        let scopes = &schema["properties"]["routes"]["items"]["properties"]["scopes"];
        assert_eq!((&scopes["type"], &scopes["items"]["type"]), (&"array".into(), &"string".into()));
        assert_eq!(schema["properties"]["routes"]["items"]["additionalProperties"], false);
    }

    #[test]
    fn every_setting_has_words() {
        fn visit(schema: &Json, path: &str, without: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                let below = if property["items"]["properties"].is_object() { &property["items"] } else { property };
                if below["properties"].is_object() {
                    visit(below, &path, without);
                } else if property["description"].as_str().is_none_or(str::is_empty) && name != "name" {
                    without.push(path);
                }
            }
        }
        let mut without = Vec::new();
        visit(&json_schema(), "", &mut without);
        assert!(without.is_empty(), "no words on {without:?}");
    }
}
