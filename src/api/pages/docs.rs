//! `/docs`: the API's description for people, from the same document that programs read.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use super::frame::Page;
use super::parts::{Column, table};

pub(super) fn show(document: &OpenApi) -> Response {
    let schemas = serde_json::to_value(&document.components).unwrap_or_default()["schemas"].take();
    let body = html! {
        p { (document.info.description.as_deref().unwrap_or_default()) }
        p {
            "Send " code { "Authorization: Bearer octroi_admin_…" } " (octroi admin token create). The whole description, for programs: "
            a href="/openapi.json" { "openapi.json" } " (OpenAPI 3.1)."
        }
        @for (path, item) in &document.paths.paths {
            @for (method, operation) in [
                ("GET", &item.get), ("POST", &item.post), ("PUT", &item.put), ("PATCH", &item.patch), ("DELETE", &item.delete),
            ] {
                @if let Some(operation) = operation { (described(method, path, operation, &schemas)) }
            }
        }
    };
    Page::new("Admin API", "", body).for_nobody()
}

/// What may be sent, member by member.
fn members(operation: &Operation, schemas: &Value) -> Vec<Vec<Markup>> {
    let body = serde_json::to_value(&operation.request_body).unwrap_or_default();
    let named = body["content"]["application/json"]["schema"]["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    let schema = &schemas[named.unwrap_or_default()];
    let is_required =
        |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name));
    let row = |(name, member): (&String, &Value)| {
        let kind = match &member["type"] {
            Value::String(kind) => kind.clone(),
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
            _ => "object".to_owned(),
        };
        let needed = if is_required(name) { "must be there" } else { "" };
        vec![
            html! { code { (name) } },
            html! { (kind) },
            html! { (needed) },
            in_words(member["description"].as_str().unwrap_or_default()),
        ]
    };
    schema["properties"].as_object().into_iter().flatten().map(row).collect()
}

/// A text whose parts between backticks are code.
fn in_words(text: &str) -> Markup {
    html! {
        @for (number, part) in text.split('`').enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn described(method: &str, path: &str, operation: &Operation, schemas: &Value) -> Markup {
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    });
    let rows: Vec<_> = parameters
        .map(|parameter| {
            let place = match parameter.parameter_in {
                ParameterIn::Query | ParameterIn::QueryString => "query",
                ParameterIn::Path => "path",
                ParameterIn::Header => "header",
                ParameterIn::Cookie => "cookie",
            };
            let text = parameter.description.clone().unwrap_or_default();
            vec![html! { code { (parameter.name) } }, html! { (place) }, in_words(&text)]
        })
        .collect();
    let columns = [Column::Text("Parameter"), Column::Text("In"), Column::Wide("Meaning")];
    html! {
        h2 { code { (method) " " (path) } }
        p { (in_words(operation.summary.as_deref().unwrap_or_default())) " " (in_words(operation.description.as_deref().unwrap_or_default())) }
        @let sent = members(operation, schemas);
        @if !sent.is_empty() {
            @let columns = [Column::Text("Member"), Column::Text("Kind"), Column::Text("Needed"), Column::Wide("Meaning")];
            (table(&format!("Body of {method} {path}"), &columns, &sent))
        }
        @if !rows.is_empty() { (table(&format!("Parameters of {method} {path}"), &columns, &rows)) }
    }
}
