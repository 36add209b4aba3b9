//! `octroi prove`: the promise of metering, shown on the machine that will have to keep it.
//!
//! A recording upstream, callers and, as a child process, a gateway; then the gateway is killed
//! again and again, the store is cut off, and at the end every request is looked up in the books
//! by its id. [docs/prove.md] says how to read it.
//!
//! `scene` sets up, `rounds` disturbs, `check` compares; `nginx` puts another proxy's access log
//! through the same. To disturb in one more way: a variant of `rounds::Round`.

mod callers;
mod check;
mod gateway;
mod link;
mod nginx;
mod rounds;
mod scene;
mod show;
mod upstream;

use std::fs::{self, DirEntry};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use self::callers::{Crowd, Tally};
use self::check::{Findings, Period, Seen, check};
use self::gateway::Room;
use self::rounds::{Rounds, process, serves, stop, wait_until};
use self::scene::Scene;
use self::show::{Happened, Moment, Table};
use super::output::{self, Format, Row};
use super::serve::control_runtime;
use super::{Context, Exit, Failure};
use crate::model::chance::Chance;
use crate::store::StoreError;

/// How long the journals of killed processes may take to be adopted and drained at the end.
const DRAINED_WITHIN: Duration = Duration::from_mins(2);

/// How often a store that is away is asked at the end, and how long is waited in between.
const TRIES: u32 = 120;
const PAUSE: Duration = Duration::from_millis(500);

/// `octroi prove`
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Beside which store: the proof makes a schema, or a file in the same folder, and removes it
    /// again; without it, SQLite here
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// For how long
    #[arg(long, value_name = "N", default_value = "5", value_parser = minutes)]
    minutes: Duration,
    /// How many callers ask at the same time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// Decides what is done when; a proof prints its own
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Put this one's access log through the same kills instead
    #[arg(long, value_name = "WHICH", conflicts_with = "store")]
    against: Option<Against>,
}

/// Another proxy, installed here.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Against {
    /// Its access log as it is by default
    Nginx,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "write a number of minutes, like 5 or 0.5".to_owned())?;
    if (0.05..=1_440.0).contains(&minutes) {
        Ok(Duration::from_secs_f64(minutes * 60.0))
    } else {
        Err("write a number of minutes from 0.05 to 1440".to_owned())
    }
}

/// Proves.
///
/// # Errors
/// The promise was broken (exit 1); something it needs is not there.
pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut dyn Write) -> Result<(), Failure> {
    let seed = arguments.seed.unwrap_or_else(|| context.clock.wall().as_microsecond().unsigned_abs() % 1_000_000);
    control_runtime()?.block_on(async {
        // Dropped when it is broken off: no gateway and no proxy is left behind.
        tokio::select! {
            done = one(context, arguments, seed, out) => done,
            broken_off = told_to_stop() => Err(broken_off),
        }
    })
}

async fn one(context: &Context, arguments: &Arguments, seed: u64, out: &mut dyn Write) -> Result<(), Failure> {
    match arguments.against {
        None => prove(context, arguments, seed, out).await,
        Some(Against::Nginx) => {
            let plan = nginx::Plan { lasts: arguments.minutes, connections: arguments.connections, seed };
            nginx::run(context, &plan, out).await
        }
    }
}

/// SIGTERM or SIGINT, as a failure.
async fn told_to_stop() -> Failure {
    let next = async |kind| match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        // Then a signal ends the process, as it ends any.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = next(SignalKind::terminate()) => {}
        () = next(SignalKind::interrupt()) => {}
    }
    let detail = "it was broken off and proves nothing; what it made (octroi_prove_…) is still there";
    Failure::new(Exit::Failed, "broken_off", detail)
}

/// What was done, and what was seen of it from outside.
struct Run {
    table: Table,
    tally: Arc<Tally>,
    lasted: Duration,
    happened: Happened,
    seen: Seen,
}

impl Run {
    /// The last line, with all that was counted.
    fn show(&mut self, found: &Findings) {
        let moment = Moment {
            elapsed: self.lasted,
            arrived: self.seen.arrived.len() as u64,
            events: found.events,
            rollup: found.rollup,
            checked: Some((found.lost, found.doubled)),
        };
        self.table.show(&moment, &self.tally, &self.happened);
    }
}

async fn prove(context: &Context, arguments: &Arguments, seed: u64, out: &mut dyn Write) -> Result<(), Failure> {
    let from = context.clock.wall();
    let mut scene = Scene::set(context, arguments.store.as_deref(), &from.as_millisecond().to_string()).await?;
    let (store, folder) = (scene.store_name().to_owned(), scene.folder.display().to_string());
    context.tell(&format!("seed {seed}; store: {store}; folder: {folder}; both are removed if the promise holds"));
    let mut run = disturb(context, arguments, seed, from, &mut scene).await?;
    context.tell("adopting what killed gateways left, then looking up every request");
    bring_home(&mut scene).await?;
    let period = period(context, &scene, from);
    let found = persistently(async || check(&scene.store, period, &run.seen).await).await?;
    run.show(&found);
    let reconciled = reconciles(&scene).await?;
    let held = found.breaches == 0 && reconciled;
    write_verdict(context, seed, &run, &found, reconciled, out)?;
    if held {
        return scene.clear().await;
    }
    let detail = format!("the promise was broken {} times; kept for a look: {store}, {folder}", found.breaches.max(1));
    Err(Failure::new(Exit::Failed, "promise_broken", detail))
}

/// Until the time is over; then callers finish, and the gateway is told to stop.
async fn disturb(
    context: &Context,
    arguments: &Arguments,
    seed: u64,
    from: Timestamp,
    scene: &mut Scene,
) -> Result<Run, Failure> {
    let mut chance = Chance(seed);
    let callers = usize::from(arguments.connections);
    scene.gateway.start(Room::Enough).map_err(|error| process(&error))?;
    let crowd = Crowd::start(scene.data, callers, &scene.key, &mut chance);
    let mut rounds = Rounds::new(chance);
    let started = context.clock.monotonic();
    let elapsed = || context.clock.monotonic().since(started);
    let mut table = Table::new(context.format == Format::Json);
    while elapsed() < arguments.minutes || rounds.has_unseen() {
        rounds.play(scene, &crowd.tally).await?;
        if table.due(elapsed()) {
            let moment = look(context, scene, from, elapsed()).await;
            table.show(&moment, &crowd.tally, &rounds.happened);
        }
    }
    let tally = crowd.stop().await;
    let lasted = elapsed();
    stop(scene).await?;
    // A caller that left may have left a second request behind that is still under way.
    let in_flight = rounds.happened.kills * 2 * callers as u64;
    let arrived = scene.upstream.arrived().into_iter().collect();
    Ok(Run {
        table,
        lasted,
        happened: rounds.happened,
        seen: Seen { arrived, answers: tally.answers(), in_flight },
        tally,
    })
}

fn period(context: &Context, scene: &Scene, from: Timestamp) -> Period {
    Period { client: scene.client, from, to: context.clock.wall() + SignedDuration::from_mins(1) }
}

/// The counts of this moment; those of the books as far as the store can be asked.
async fn look(context: &Context, scene: &Scene, from: Timestamp, elapsed: Duration) -> Moment {
    let books = check::sums(&scene.store, period(context, scene, from)).await.unwrap_or_default();
    Moment { elapsed, arrived: scene.upstream.count(), events: books.0, rollup: books.1, checked: None }
}

/// One more gateway on each journal takes in what killed ones left, and stops in order.
async fn bring_home(scene: &mut Scene) -> Result<(), Failure> {
    for room in [Room::Little, Room::Enough] {
        scene.gateway.start(room).map_err(|error| process(&error))?;
        serves(scene).await;
        let journal = scene.gateway.journal(room);
        if !wait_until(DRAINED_WITHIN, || folders(&journal) <= 1).await {
            let detail = format!("{} is not drained after {DRAINED_WITHIN:?}", journal.display());
            return Err(Failure::new(Exit::Failed, "not_drained", detail));
        }
        stop(scene).await?;
    }
    Ok(())
}

fn folders(journal: &Path) -> usize {
    let is_folder = |entry: &std::io::Result<DirEntry>| entry.as_ref().is_ok_and(|entry| entry.path().is_dir());
    fs::read_dir(journal).map_or(0, |entries| entries.filter(is_folder).count())
}

/// Whether `octroi usage reconcile`, which reads the journal as well, says the same.
async fn reconciles(scene: &Scene) -> Result<bool, Failure> {
    let mut left = TRIES;
    loop {
        let output = scene.gateway.command(&["usage", "reconcile"]).output().map_err(|error| process(&error))?;
        left -= 1;
        if output.status.code() != Some(Exit::Unavailable as i32) || left == 0 {
            return Ok(output.status.success());
        }
        sleep(PAUSE).await;
    }
}

/// Asks a store that may be starting again: how it is disturbed from elsewhere is not ours to know.
async fn persistently<T>(attempt: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 1..TRIES {
        match attempt().await {
            Err(error) if error.is_transient() => sleep(PAUSE).await,
            done => return done,
        }
    }
    attempt().await
}

fn write_verdict(
    context: &Context,
    seed: u64,
    run: &Run,
    found: &Findings,
    reconciled: bool,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let (happened, outcomes) = (&run.happened, serde_json::json!(found.by_outcome));
    let row = Row::new()
        .with("held", found.breaches == 0 && reconciled)
        .with("seed", seed)
        .with("seconds", run.lasted.as_secs())
        .with("answered", run.seen.answers.len())
        .with("refused_uncounted", run.tally.uncountable.load(Relaxed))
        .with("broken", run.tally.broken.load(Relaxed))
        .with("aborted", run.tally.aborted.load(Relaxed))
        .with("upstream_saw", run.seen.arrived.len())
        .with("events", found.events)
        .with("rollup", found.rollup)
        .with("lost", found.lost)
        .with("doubled", found.doubled)
        .with("surplus", found.surplus)
        .with("outcomes", outcomes)
        .with("kills", happened.kills)
        .with("stops", happened.stops)
        .with("store_outages", happened.outages)
        .with("commits_unanswered", happened.forgotten)
        .with("journal_full", happened.full)
        .with("upstream_deaf", happened.deaf)
        .with("reconciled", reconciled)
        .with("breaches", found.breaches)
        .with("told", serde_json::json!(found.told));
    output::write_object(&row, context.format, out)?;
    if context.format == Format::Table && found.breaches == 0 && reconciled {
        writeln!(out, "\nThe books balance: every request that the upstream saw has exactly one event.")?;
    }
    Ok(())
}
