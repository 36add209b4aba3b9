//! The settings in force, read only.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::frame::Page;
use super::parts::{Column, number, table};
use crate::api::caller::Caller;
use crate::api::fault::Result;
use crate::api::state::Api;

pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response> {
    let counts = caller.store.rotation.count_hashes(api.clock.wall()).await?;
    let current = api.mint.pepper_version();
    let peppers: Vec<_> = counts
        .by_version
        .iter()
        .map(|(version, keys)| {
            let word = if *version == current { "current" } else { "other" };
            vec![html! { (version) }, html! { (number(*keys)) }, html! { (word) }]
        })
        .collect();
    let columns = [Column::Number("Version"), Column::Number("Keys"), Column::Text("State")];
    let body = html! {
        p { "What is in force, secrets masked. It is changed in the file or the environment, and by starting anew." }
        @if let Value::Object(sections) = &api.settings {
            @for (name, section) in sections {
                h2 { (name) }
                (rows(name, section))
            }
        }
        h2 { "Peppers" }
        (table("Keys for each pepper", &columns, &peppers))
    };
    Ok(Page::new("Settings", "/settings", body).for_caller(&caller))
}

fn rows(section: &str, value: &Value) -> Markup {
    let mut found = Vec::new();
    flatten(section, value, &mut found);
    let rows: Vec<_> =
        found.into_iter().map(|(path, text)| vec![html! { code { (path) } }, html! { code { (text) } }]).collect();
    table(&format!("Settings of {section}"), &[Column::Text("Setting"), Column::Wide("Value")], &rows)
}

fn flatten(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, found));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(index, value)| flatten(&format!("{path}[{index}]"), value, found));
        }
        Value::String(text) => found.push((path.to_owned(), text.clone())),
        other => found.push((path.to_owned(), other.to_string())),
    }
}
