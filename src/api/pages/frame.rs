//! What every page has: head, navigation, who is signed in, and a place for what was done.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets;
use crate::api::caller::Caller;
use crate::model::operator::Permission as P;

/// Entries of the navigation: address, label, and who sees it.
const PLACES: [(&str, &str, P); 10] = [
    ("/", "Overview", P::ReadGateway),
    ("/clients", "Clients", P::ReadClients),
    ("/plans", "Plans", P::ReadPlans),
    ("/usage", "Usage", P::ReadUsage),
    ("/events", "Events", P::ReadUsage),
    ("/refusals", "Refusals", P::ReadUsage),
    ("/explain", "Explain", P::Explain),
    ("/audit", "Audit", P::ReadAudit),
    ("/operators", "Operators", P::ManageOperators),
    ("/settings", "Settings", P::ReadGateway),
];

/// A page, before it has its frame.
pub(super) struct Page {
    /// The heading, and the title of the window.
    pub(super) title: String,
    /// Which entry of the navigation it belongs to.
    pub(super) place: &'static str,
    /// Seconds after which what goes on is read again.
    pub(super) refresh: Option<u32>,
    /// What was done, in words.
    pub(super) told: Option<&'static str>,
    pub(super) body: Markup,
}

impl Page {
    pub(super) fn new(title: impl Into<String>, place: &'static str, body: Markup) -> Self {
        Self { title: title.into(), place, refresh: None, told: None, body }
    }

    /// Says that something was done.
    #[must_use]
    pub(super) fn telling(self, told: Option<&'static str>) -> Self {
        Self { told, ..self }
    }

    /// The whole page, for whoever is signed in.
    pub(super) fn for_caller(self, caller: &Caller) -> Response {
        let actor = caller.actor();
        let places = PLACES.into_iter().filter(|(_, _, permission)| caller.may(*permission));
        let place = self.place;
        let top = html! {
            nav aria-label="Main" {
                ul {
                    @for (address, label, _) in places {
                        li { a href=(address) aria-current=[(address == place).then_some("page")] { (label) } }
                    }
                }
            }
            div.who {
                a href="/account" { (actor.name) " (" (actor.role.as_str()) ")" }
                form method="post" action="/logout" { button.plain type="submit" { "Sign out" } }
            }
        };
        self.framed(&top)
    }

    /// The whole page, for nobody.
    pub(super) fn for_nobody(self) -> Response {
        self.framed(&html! {})
    }

    fn framed(self, top: &Markup) -> Response {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) " · Octroi" }
                    link rel="stylesheet" href=(assets::STYLE.address());
                    script src=(assets::SCRIPT.address()) defer {}
                }
                body {
                    a.skip href="#main" { "Skip to content" }
                    header.top { a.brand href="/" { "Octroi" } (top) }
                    main #main data-refresh=[self.refresh] {
                        h1 { (self.title) }
                        @if let Some(told) = self.told { p.card.told role="status" { (told) } }
                        (self.body)
                    }
                    footer { "All times are UTC." }
                }
            }
        };
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
    }
}
