//! `octroi plan create|list|show|update|marks|replay`, and how policies are written on a command line.

use std::io::Write;
use std::num::NonZeroU32;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use super::open::open;
use super::output::{self, ListWriter, Row};
use super::pages::{Window, write_pages};
use super::{Context, Exit, Failure, client};
use crate::config::moment::Moment;
use crate::model::own_limit;
use crate::model::plan::{Allowed, NewPlan, Plan, PlanChange, PlanPolicy, Policies, PolicyMode, QuotaMark, check_name};
use crate::model::quota::Quota;
use crate::model::rate::{Rate, RateLimit};
use crate::store::Store;

pub(super) mod remote;
mod replay;

/// `octroi plan …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a plan
    Create(Create),
    /// List plans, oldest first
    List(List),
    /// Show a plan
    Show {
        /// Its id or name
        #[arg(value_name = "PLAN")]
        plan: String,
    },
    /// Change a plan; its clients are under the new limits within a second. Policies that are named (--rate, --quota, --policy) take the place of all that it had
    Update(Update),
    /// Who reached 80 or 100 percent of a quota, the latest first
    Marks(Marks),
    /// What a plan would have refused of what a client has done
    Replay(replay::Arguments),
}

/// `octroi plan create`
#[derive(Debug, Args)]
pub(super) struct Create {
    /// What people call it, and callers see: letters, digits, `.`, `_`, `-`
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    terms: TermArguments,
}

/// What a plan allows, as written on the command line.
#[derive(Debug, Args)]
pub(super) struct TermArguments {
    /// A rate, like 100/s
    #[arg(long)]
    rate: Option<Rate>,
    /// How much of the rate may be spent at once; without it, one second's worth
    #[arg(long, value_name = "N", requires = "rate", value_parser = client::burst)]
    burst: Option<NonZeroU32>,
    /// A quota, like 1000000/month, 5000/day@Europe/Berlin or 1000000/month@15; may be repeated
    #[arg(long)]
    quota: Vec<Quota>,
    /// How many requests of a client may be open at once; `none`: any number
    #[arg(long, value_name = "N|none", value_parser = at_once)]
    concurrency: Option<AtOnce>,
    /// Whether rate and quotas refuse, or are only counted
    #[arg(long, value_parser = parse_mode, default_value = "enforce")]
    mode: PolicyMode,
    /// One policy more, as JSON: {"name":"trial","quota":"100/day","mode":"shadow"}; may be repeated
    #[arg(long, value_name = "JSON", value_parser = parse_policy)]
    policy: Vec<PlanPolicy>,
}

/// `octroi plan list`
#[derive(Debug, Args)]
pub(super) struct List {
    /// At most so many; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

/// `octroi plan update`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)
    .args(["new_name", "rate", "quota", "concurrency", "policy", "clear"])))]
pub(super) struct Update {
    /// Its id or name
    #[arg(value_name = "PLAN")]
    plan: String,
    /// A new name
    #[arg(long = "name", value_name = "NAME", value_parser = parse_name)]
    new_name: Option<String>,
    /// Without any policy
    #[arg(long, conflicts_with_all = ["rate", "quota", "policy"])]
    clear: bool,
    #[command(flatten)]
    terms: TermArguments,
}

/// `octroi plan marks`
#[derive(Debug, Args)]
pub(super) struct Marks {
    /// Only this client's: its id or name
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// Reached from then on: RFC 3339, a day (UTC) or how long ago, like -24h; 31 days without it
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    from: Option<Moment>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AtOnce(pub(super) Option<NonZeroU32>);

/// So many at once, or any number.
pub(super) fn at_once(text: &str) -> Result<AtOnce, String> {
    if text == "none" {
        return Ok(AtOnce(None));
    }
    let count = text.parse().map_err(|_| "write a whole number from 1 to 4294967295, or `none`".to_owned())?;
    Ok(AtOnce(Some(count)))
}

fn parse_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn parse_mode(text: &str) -> Result<PolicyMode, String> {
    let known = [PolicyMode::Enforce, PolicyMode::Shadow].into_iter().find(|mode| mode.as_str() == text);
    known.ok_or_else(|| "write `enforce` or `shadow`".to_owned())
}

fn parse_policy(text: &str) -> Result<PlanPolicy, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl TermArguments {
    /// The policies of a plan of this name. Unnamed ones are called after it: the rate like the
    /// plan, a quota like the plan and its period.
    fn policies(&self, plan: &str) -> Result<Policies, Failure> {
        own_limit::check(self.rate, self.burst)?;
        let mut policies = Vec::new();
        if let Some(rate) = self.rate {
            let allows = Allowed::Rate(RateLimit::new(rate, self.burst));
            policies.push(PlanPolicy { name: plan.to_owned(), allows, mode: self.mode });
        }
        for quota in &self.quota {
            let name = format!("{plan}.{}", quota.period.word());
            check_name(&name).map_err(|error| Failure::usage(error.to_string()))?;
            policies.push(PlanPolicy { name, allows: Allowed::Quota(quota.clone()), mode: self.mode });
        }
        policies.extend(self.policy.iter().cloned());
        Policies::new(policies).map_err(|error| Failure::usage(error.to_string()))
    }

    fn names_policies(&self) -> bool {
        self.rate.is_some() || !self.quota.is_empty() || !self.policy.is_empty()
    }
}

const COLUMNS: &[&str] = &["id", "name", "policies", "concurrency", "created_at", "updated_at"];
const SHOWN: &[&str] = &["id", "name", "policies", "concurrency"];
const MARK_COLUMNS: &[&str] =
    &["client_id", "policy", "window_start", "window_end", "percent", "quota", "used", "mode", "reached_at"];

fn row(plan: &Plan) -> Row {
    let policies = serde_json::to_value(&plan.policies).unwrap_or(Value::Null);
    Row::new()
        .with("id", plan.id.to_string())
        .with("name", plan.name.as_str())
        .with("policies", policies)
        .with("concurrency", plan.concurrency.map(NonZeroU32::get))
        .with_text("created_at", Some(plan.created_at))
        .with_text("updated_at", Some(plan.updated_at))
}

fn mark_row(mark: &QuotaMark) -> Row {
    Row::new()
        .with("client_id", mark.client_id.to_string())
        .with("policy", mark.policy.as_str())
        .with_text("window_start", Some(mark.window_start))
        .with_text("window_end", Some(mark.window_end))
        .with("percent", mark.percent)
        .with("quota", mark.quota)
        .with("used", mark.used)
        .with("mode", mark.mode.as_str())
        .with_text("reached_at", Some(mark.reached_at))
}

/// Runs one of them.
///
/// # Errors
/// The plan is not there, or its name is taken; the store is away or refuses.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    let (loaded, store) = open(context).await?;
    let plan = match command {
        Command::Create(create) => {
            let terms = &create.terms;
            let concurrency = terms.concurrency.and_then(|AtOnce(most)| most);
            let new = NewPlan { name: create.name.clone(), policies: terms.policies(&create.name)?, concurrency };
            store.plans.create(new).await?
        }
        Command::List(list) => return write_list(context, &store, list, out).await,
        Command::Show { plan } => find(&store, plan).await?,
        Command::Update(update) => change(&store, update).await?,
        Command::Marks(marks) => return write_marks(context, &store, marks, out).await,
        Command::Replay(arguments) => return replay::run(context, (&loaded.config, &store), arguments, out).await,
    };
    Ok(output::write_object(&row(&plan), context.format, out)?)
}

async fn change(store: &Store, update: &Update) -> Result<Plan, Failure> {
    let plan = find(store, &update.plan).await?;
    let name = update.new_name.as_deref().unwrap_or(&plan.name);
    let replaced = update.clear || update.terms.names_policies();
    let change = PlanChange {
        policies: if replaced { Some(update.terms.policies(name)?) } else { None },
        concurrency: update.terms.concurrency.map(|AtOnce(most)| most),
        name: update.new_name.clone(),
        only_if: None,
    };
    let changed = store.plans.update(plan.id, change).await?;
    changed.ok_or_else(|| Failure::not_found(format!("the plan {} is gone", plan.id)))
}

async fn write_list(context: &Context, store: &Store, list: &List, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(after) = list.after
        && store.plans.find(after).await?.is_none()
    {
        return Err(Failure::not_found(format!("there is no plan {after} to go on after")));
    }
    let writer = ListWriter::begin(context.format, COLUMNS, SHOWN, out)?;
    let window = Window { after: list.after, limit: list.limit };
    let fetch = async |after, limit| store.plans.list(after, limit).await;
    write_pages(writer, window, fetch, |plan| (plan.id, row(plan))).await
}

async fn write_marks(context: &Context, store: &Store, marks: &Marks, out: &mut dyn Write) -> Result<(), Failure> {
    let client = match &marks.client {
        Some(named) => Some(client::find(store, named).await?.id),
        None => None,
    };
    let now = context.clock.wall();
    let month_ago = now.checked_sub(jiff::SignedDuration::from_hours(31 * 24)).unwrap_or(now);
    let since = marks.from.map_or(month_ago, |from| from.at(now));
    let mut writer = ListWriter::begin(context.format, MARK_COLUMNS, MARK_COLUMNS, out)?;
    for mark in store.quotas.marks(client, since, None, marks.limit).await? {
        writer.push(mark_row(&mark))?;
    }
    Ok(writer.finish(None)?)
}

/// The plan that a person means: by id, else by name.
///
/// # Errors
/// There is none.
pub(super) async fn find(store: &Store, named: &str) -> Result<Plan, Failure> {
    if let Ok(id) = named.parse()
        && let Some(plan) = store.plans.find(id).await?
    {
        return Ok(plan);
    }
    let found = store.plans.find_by_name(named).await?;
    found.ok_or_else(|| Failure::new(Exit::Failed, "not_found", format!("there is no plan `{named}`")))
}
