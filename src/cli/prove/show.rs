//! What a person watching sees: one line a moment, rewritten on a terminal.

use std::io::{self, IsTerminal as _, Write, stderr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::callers::Tally;

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Happened {
    /// `kill -9` of the gateway.
    pub(super) kills: u64,
    /// Orderly stops.
    pub(super) stops: u64,
    /// Times in which the store was away, silent, slow or locked.
    pub(super) outages: u64,
    /// Connections to the store that lost an answer.
    pub(super) forgotten: u64,
    /// Times in which the journal had no room left.
    pub(super) full: u64,
    /// Times in which the upstream took no connection.
    pub(super) deaf: u64,
}

/// The counts of one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) elapsed: Duration,
    pub(super) arrived: u64,
    pub(super) events: u64,
    pub(super) rollup: u64,
    /// Lost and doubled, when they were counted.
    pub(super) checked: Option<(u64, u64)>,
}

const HEAD: &str =
    "    time    answered  upstream saw      events      rollup  lost  doubled  kills  outages  unanswered commits";

/// Writes to stderr, so that stdout has the verdict only.
pub(super) struct Table {
    terminal: bool,
    silent: bool,
    last_line: Option<Duration>,
}

impl Table {
    pub(super) fn new(silent: bool) -> Self {
        Self { terminal: stderr().is_terminal(), silent, last_line: None }
    }

    /// Whether a line is due: each second on a terminal, else each five.
    pub(super) fn due(&self, elapsed: Duration) -> bool {
        let pause = Duration::from_secs(if self.terminal { 1 } else { 5 });
        self.last_line.is_none_or(|last| elapsed.saturating_sub(last) >= pause)
    }

    pub(super) fn show(&mut self, moment: &Moment, tally: &Tally, happened: &Happened) {
        let first = self.last_line.replace(moment.elapsed).is_none();
        if !self.silent {
            // Nothing is lost if nobody watches.
            let _ = self.write(moment, tally, happened, first, &mut stderr());
        }
    }

    fn write(
        &self,
        moment: &Moment,
        tally: &Tally,
        happened: &Happened,
        first: bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if first {
            writeln!(out, "{HEAD}")?;
        } else if self.terminal {
            // One line up, and what stands there away.
            write!(out, "\x1b[1A\x1b[2K")?;
        }
        let seconds = moment.elapsed.as_secs();
        let counted = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let (lost, doubled) = (moment.checked.map(|(lost, _)| lost), moment.checked.map(|(_, doubled)| doubled));
        writeln!(
            out,
            "{:>5}:{:02}  {:>10}  {:>12}  {:>10}  {:>10}  {:>4}  {:>7}  {:>5}  {:>7}  {:>18}",
            seconds / 60,
            seconds % 60,
            tally.answered.load(Relaxed),
            moment.arrived,
            moment.events,
            moment.rollup,
            counted(lost),
            counted(doubled),
            happened.kills,
            happened.outages,
            happened.forgotten,
        )
    }
}
