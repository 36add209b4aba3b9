//! `octroi admin create|list|show|update|passwd|disable|enable|logout|token`: who may operate the gateway.

pub(super) mod remote;
mod token;

use std::io::Write;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::open::open;
use super::output::{self, ListWriter, Row};
use super::pages::{Window, write_pages};
use super::person::read_password;
use super::{Context, Exit, Failure, client};
use crate::model::admin::{Operator, OperatorChange, Reach};
use crate::model::causes::with_causes;
use crate::model::id::ClientId;
use crate::model::operator::Role;
use crate::operators::{self, NewPerson, OperatorFault};
use crate::store::Store;

/// `octroi admin …`
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an operator; the password is typed, or comes on stdin
    Create(Create),
    /// List operators, oldest first
    List(List),
    /// Show an operator
    Show {
        /// Its id or name
        operator: String,
    },
    /// Give an operator another role, or other clients
    Update(Update),
    /// Give an operator another password, which is typed or comes on stdin; its sessions end
    Passwd {
        /// Its id or name
        operator: String,
    },
    /// Let an operator sign in no more; its sessions end
    Disable {
        /// Its id or name
        operator: String,
    },
    /// Let a disabled operator sign in again
    Enable {
        /// Its id or name
        operator: String,
    },
    /// End all sessions of an operator
    Logout {
        /// Its id or name
        operator: String,
    },
    /// Tokens of the admin API, for machines and clients
    #[command(subcommand)]
    Token(token::Command),
}

/// A role, and the clients it is for.
#[derive(Debug, Args)]
struct ReachArguments {
    /// What it is: owner, operator, auditor, support; a token may be a client's
    #[arg(long, value_name = "ROLE")]
    role: Option<Role>,
    /// A client that a support or client role is for: its id or name; may be repeated
    #[arg(long = "client", value_name = "C")]
    clients: Vec<String>,
}

/// `octroi admin create`
#[derive(Debug, Args)]
pub(super) struct Create {
    /// What it signs in with
    name: String,
    /// Without a role it is an operator; the first one of all is an owner.
    #[command(flatten)]
    reach: ReachArguments,
}

/// `octroi admin update`
#[derive(Debug, Args)]
pub(super) struct Update {
    /// Its id or name
    operator: String,
    #[command(flatten)]
    reach: ReachArguments,
}

/// `octroi admin list`
#[derive(Debug, Args)]
pub(super) struct List {
    /// At most so many; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only those after this one
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
}

const COLUMNS: &[&str] = &[
    "id",
    "name",
    "role",
    "clients",
    "has_password",
    "issuer",
    "subject",
    "disabled_at",
    "last_login_at",
    "created_at",
    "updated_at",
];
const SHOWN: &[&str] = &["id", "name", "role", "clients", "disabled_at", "last_login_at", "created_at"];

fn row(operator: &Operator) -> Row {
    Row::new()
        .with("id", operator.id.to_string())
        .with("name", operator.name.as_str())
        .with("role", operator.role.as_str())
        .with("clients", texts(&operator.clients))
        .with("has_password", operator.has_password)
        .with("issuer", operator.issuer.clone())
        .with("subject", operator.subject.clone())
        .with_text("disabled_at", operator.disabled_at)
        .with_text("last_login_at", operator.last_login_at)
        .with_text("created_at", Some(operator.created_at))
        .with_text("updated_at", Some(operator.updated_at))
}

fn texts(clients: &[ClientId]) -> Vec<String> {
    clients.iter().map(ToString::to_string).collect()
}

/// Runs one of them.
///
/// # Errors
/// The operator is not there, its name is taken, the password cannot be one; the store is away.
pub(super) async fn run(context: &Context, command: &Command, out: &mut dyn Write) -> Result<(), Failure> {
    let (_, store) = open(context).await?;
    let operator = match command {
        Command::Create(arguments) => create(context, &store, arguments).await?,
        Command::List(list) => return write_list(context, &store, list, out).await,
        Command::Show { operator } => find(&store, operator).await?,
        Command::Update(arguments) => {
            let found = find(&store, &arguments.operator).await?;
            let role = arguments.reach.role.unwrap_or(found.role);
            let reach = Some(reach_of_person(&store, role, &arguments.reach.clients).await?);
            // What is not named of its role and clients is the row's.
            let only_if = Some(Box::new(found.clone()));
            change(context, &store, &found, OperatorChange { reach, only_if, ..OperatorChange::default() }).await?
        }
        Command::Passwd { operator } => {
            let found = find(&store, operator).await?;
            let password = read_password(context)?;
            operators::reset_password(&store, found.id, &password, context.clock.wall()).await?
        }
        Command::Disable { operator } => disable(context, &store, operator, true).await?,
        Command::Enable { operator } => disable(context, &store, operator, false).await?,
        Command::Logout { operator } => {
            let found = find(&store, operator).await?;
            let ended = store.operators.end_sessions(found.id, context.clock.wall()).await?;
            let answer = Row::new().with("id", found.id.to_string()).with("sessions", ended);
            return Ok(output::write_object(&answer, context.format, out)?);
        }
        Command::Token(command) => return token::run(context, &store, command, out).await,
    };
    Ok(output::write_object(&row(&operator), context.format, out)?)
}

async fn create(context: &Context, store: &Store, arguments: &Create) -> Result<Operator, Failure> {
    let is_first = store.operators.list(None, 1).await?.items.is_empty();
    let role = arguments.reach.role.unwrap_or(if is_first { Role::Owner } else { Role::Operator });
    let reach = reach_of_person(store, role, &arguments.reach.clients).await?;
    let password = read_password(context)?;
    Ok(operators::create_operator(store, NewPerson { name: arguments.name.clone(), reach, password }).await?)
}

/// The role with the clients that are named.
async fn reach(store: &Store, role: Role, named: &[String]) -> Result<Reach, Failure> {
    let mut clients = Vec::with_capacity(named.len());
    for named in named {
        clients.push(client::find(store, named).await?.id);
    }
    Reach::new(role, clients).map_err(|fault| Failure::usage(fault.to_string()))
}

/// The same of an operator, who is a person.
async fn reach_of_person(store: &Store, role: Role, named: &[String]) -> Result<Reach, Failure> {
    reach(store, role, named).await?.of_person().map_err(|fault| Failure::usage(fault.to_string()))
}

async fn disable(context: &Context, store: &Store, named: &str, disabled: bool) -> Result<Operator, Failure> {
    let found = find(store, named).await?;
    change(context, store, &found, OperatorChange { disabled: Some(disabled), ..OperatorChange::default() }).await
}

async fn change(
    context: &Context,
    store: &Store,
    operator: &Operator,
    change: OperatorChange,
) -> Result<Operator, Failure> {
    let changed = store.operators.update(operator.id, change, context.clock.wall()).await?;
    changed.ok_or_else(|| Failure::not_found(format!("the operator {} is gone", operator.id)))
}

async fn write_list(context: &Context, store: &Store, list: &List, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(after) = list.after
        && store.operators.find(after).await?.is_none()
    {
        return Err(Failure::not_found(format!("there is no operator {after} to go on after")));
    }
    let writer = ListWriter::begin(context.format, COLUMNS, SHOWN, out)?;
    let window = Window { after: list.after, limit: list.limit };
    let fetch = async |after, limit| store.operators.list(after, limit).await;
    write_pages(writer, window, fetch, |operator| (operator.id, row(operator))).await
}

/// The operator that a person means: by id, else by name.
async fn find(store: &Store, named: &str) -> Result<Operator, Failure> {
    if let Ok(id) = named.parse()
        && let Some(operator) = store.operators.find(id).await?
    {
        return Ok(operator);
    }
    let found = store.operators.find_by_name(named).await?;
    found.ok_or_else(|| Failure::not_found(format!("there is no operator `{named}`")))
}

impl From<OperatorFault> for Failure {
    fn from(fault: OperatorFault) -> Self {
        match fault {
            OperatorFault::Store(error) => error.into(),
            OperatorFault::NotFound => Self::not_found(fault.to_string()),
            OperatorFault::Password(_) | OperatorFault::Reach(_) | OperatorFault::Name => {
                Self::usage(with_causes(&fault))
            }
            OperatorFault::Wrong
            | OperatorFault::TooMany(_)
            | OperatorFault::NoPassword
            | OperatorFault::Disabled
            | OperatorFault::NoSecret => Self::new(Exit::Failed, "refused", fault.to_string()),
        }
    }
}
