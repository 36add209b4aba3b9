//! `/docs`: the API's description for people, from the same document that programs read.

use axum::response::Response;
use maud::{Markup, html};
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use super::frame::Page;
use super::parts::{Column, table};

pub(super) fn show(document: &OpenApi) -> Response {
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
                @if let Some(operation) = operation { (described(method, path, operation)) }
            }
        }
    };
    Page::new("Admin API", "", body).for_nobody()
}

fn described(method: &str, path: &str, operation: &Operation) -> Markup {
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
            vec![html! { code { (parameter.name) } }, html! { (place) }, html! { (text) }]
        })
        .collect();
    let columns = [Column::Text("Parameter"), Column::Text("In"), Column::Wide("Meaning")];
    html! {
        h2 { code { (method) " " (path) } }
        p { (operation.summary.as_deref().unwrap_or_default()) " " (operation.description.as_deref().unwrap_or_default()) }
        @if !rows.is_empty() { (table(&format!("Parameters of {method} {path}"), &columns, &rows)) }
    }
}
