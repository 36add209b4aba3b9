//! Charts as SVG, drawn here: bars in time, with the same numbers as a table beside them for who does
//! not see bars.

use maud::{Markup, html};

use super::parts::{Column, number, table};

/// What one bar stands for.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// When.
    pub(super) label: String,
    /// Requests that were admitted.
    pub(super) requests: u64,
    /// Those that were refused.
    pub(super) rejected: u64,
}

/// The drawing's own measures; it is scaled to the page.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 200.0;
const FOOT: f64 = 22.0;

/// Bars of requests, with refusals on top.
pub(super) fn bars(caption: &str, bars: &[Bar]) -> Markup {
    let most = bars.iter().map(|bar| bar.requests + bar.rejected).max().unwrap_or(0);
    let total: u64 = bars.iter().map(|bar| bar.requests).sum();
    let rejected: u64 = bars.iter().map(|bar| bar.rejected).sum();
    let said = format!("{caption}: {total} requests, {rejected} refused; at most {most} in one bar");
    let rows: Vec<_> = bars
        .iter()
        .map(|bar| vec![html! { (bar.label) }, html! { (number(bar.requests)) }, html! { (number(bar.rejected)) }])
        .collect();
    let columns = [Column::Text("When (UTC)"), Column::Number("Requests"), Column::Number("Refused")];
    html! {
        figure.card {
            figcaption { (caption) ": " (number(total)) " requests, " (number(rejected)) " refused" }
            (drawing(&said, bars, most.max(1)))
            details { summary { "As a table" } (table(caption, &columns, &rows)) }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bar's height has three digits")]
fn drawing(said: &str, bars: &[Bar], most: u64) -> Markup {
    let step = WIDTH / bars.len().max(1) as f64;
    let high = HEIGHT - FOOT - 14.0;
    let scale = |count: u64| count as f64 / most as f64 * high;
    let base = HEIGHT - FOOT;
    // As many labels as have room.
    let every = bars.len().div_ceil(10).max(1);
    html! {
        svg.chart viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(said) {
            line x1="0" x2=(WIDTH) y1=(base) y2=(base) {}
            text x="0" y="11" { (number(most)) }
            @for (place, bar) in bars.iter().enumerate() {
                @let left = place as f64 * step + step * 0.1;
                @let good = scale(bar.requests);
                @let bad = scale(bar.rejected);
                rect.bar x=(px(left)) width=(px(step * 0.8)) y=(px(base - good)) height=(px(good)) {}
                rect.bad x=(px(left)) width=(px(step * 0.8)) y=(px(base - good - bad)) height=(px(bad)) {}
                @if place % every == 0 { text x=(px(left)) y=(HEIGHT - 6.0) { (bar.label) } }
            }
        }
    }
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bar_fills_the_chart_and_says_its_numbers() {
        let bar = |label: &str, requests, rejected| Bar { label: label.to_owned(), requests, rejected };
        let text = bars("Days", &[bar("1", 50, 50), bar("2", 25, 0)]).into_string();
        assert!(text.contains("75 requests, 50 refused; at most 100 in one bar"), "{text}");
        assert!(text.contains(r#"height="82.0""#), "half of the height: {text}");
        assert!(text.contains(r#"height="41.0""#), "a quarter: {text}");
        assert!(bars("None", &[]).into_string().contains("0 requests"));
    }
}
