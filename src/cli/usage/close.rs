//! `octroi usage close MONTH`: what a month came to, frozen.

use std::io::Write;

use clap::Args;

use super::{SUMS, with_sums};
use crate::cli::open::open;
use crate::cli::output::{self, Format, Row};
use crate::cli::{Context, Exit, Failure};
use crate::model::month::Month;
use crate::store::UsageSum;
use crate::store::months::{Closing, Debtor};

/// `octroi usage close`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which, like 2026-10 (UTC); it must be over
    month: Month,
    /// A node or journal that is not waited for: it is gone for good. May be repeated
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
}

impl Arguments {
    /// Which month.
    pub(super) fn month(&self) -> Month {
        self.month
    }

    /// Who is not waited for.
    pub(super) fn without(&self) -> &[String] {
        &self.without
    }
}

/// Closes it, unless it is closed, and prints what it was frozen at.
///
/// # Errors
/// It lasts still; somebody owes entries for it.
pub(super) async fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let (_, store) = open(context).await?;
    let month = arguments.month;
    match store.months.close(month, &arguments.without).await? {
        Closing::Closed | Closing::Already => {}
        Closing::NotOver => {
            let detail = format!("{month} is not over: it ends at {}", month.ends());
            return Err(Failure::new(Exit::Failed, "month_not_over", detail));
        }
        Closing::Owing(debtors) => return Err(owing(month, &debtors)),
    }
    let gone = || Failure::new(Exit::Failed, "month_not_closed", format!("{month} is not closed any more"));
    let closed = store.months.closed(month).await?.ok_or_else(gone)?;
    let totals = store.months.totals(month, None).await?;
    let rows: Vec<Row> =
        totals.iter().map(|(client, sum)| with_sums(Row::new().with("client", client.to_string()), sum)).collect();
    let columns: Vec<&str> = std::iter::once("client").chain(SUMS.iter().copied()).collect();
    let total = totals.iter().fold(UsageSum::default(), |total, (_, sum)| total.plus(sum));
    match context.format {
        Format::Json => {
            let items = serde_json::to_value(&rows).unwrap_or_default();
            let total = serde_json::to_value(with_sums(Row::new(), &total)).unwrap_or_default();
            let row = Row::new()
                .with("month", closed.month)
                .with("closed_at", closed.closed_at.to_string())
                .with("without", closed.without)
                .with("items", items)
                .with("total", total);
            output::write_json(&row, out)?;
        }
        Format::Csv => output::write_csv(&columns, &rows, out)?,
        Format::Table => {
            writeln!(out, "{month} was closed at {}", closed.closed_at)?;
            output::write_table(&columns, &rows, out)?;
        }
    }
    Ok(())
}

fn owing(month: Month, debtors: &[Debtor]) -> Failure {
    let said: Vec<String> = debtors.iter().map(|debtor| say(month, debtor)).collect();
    let detail = format!("{month} cannot be closed: {}", said.join("; "));
    Failure::new(Exit::Failed, "entries_owed", detail)
}

fn say(month: Month, debtor: &Debtor) -> String {
    let node = &debtor.node;
    let (Some(journal), Some(clear), Some(reported)) = (debtor.journal, debtor.clear_until, debtor.reported_at) else {
        return format!("node {node} serves and does not say what it owes (an older version?); upgrade it or stop it");
    };
    if reported < month.ends() {
        return format!(
            "node {node} was last heard of at {reported}, and its journal {journal} may hold entries of the month; \
             start a gateway on its `metering.dir`, or close --without {journal} if it is lost"
        );
    }
    format!("node {node} still owes entries from {clear} on (journal {journal}); wait for its requests and its drain")
}
