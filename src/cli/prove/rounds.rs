//! What is done to the gateway and its store, one thing after the other, as a seed decides.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::sleep;

use super::callers::Tally;
use super::gateway::Room;
use super::link::Wire;
use super::scene::{Scene, Way};
use super::show::Happened;
use crate::cli::{Exit, Failure};
use crate::model::chance::Chance;
use crate::store::scratch::WriteLock;
use crate::tasks::blocking;

/// How long callers have to fill a small journal before it is given up.
const FILLS_WITHIN: Duration = Duration::from_secs(12);

/// How long a gateway may take to listen: it waits for its store.
const STARTS_WITHIN: Duration = Duration::from_mins(1);

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// `kill -9`, and started again.
    Kill,
    /// Told to stop, and started again.
    Stop,
    /// The store behaves so for a while.
    Store(Wire),
    /// The store is away until the journal has no room left.
    Fill,
    /// The upstream takes no connection for a while.
    Deaf,
}

/// Each once, so that a short proof has seen all of them.
const ALL: [Round; 8] = [
    Round::Kill,
    Round::Store(Wire::Forgets),
    Round::Store(Wire::Refuses),
    Round::Stop,
    Round::Store(Wire::Silent),
    Round::Fill,
    Round::Store(Wire::Slow),
    Round::Deaf,
];

/// Decides and does.
pub(super) struct Rounds {
    chance: Chance,
    next: Vec<Round>,
    /// So far.
    pub(super) happened: Happened,
}

impl Rounds {
    pub(super) fn new(mut chance: Chance) -> Self {
        let mut next = ALL.to_vec();
        for place in (1..next.len()).rev() {
            next.swap(place, chance.index(place + 1));
        }
        Self { chance, next, happened: Happened::default() }
    }

    /// Whether something was not done yet: on a busy machine a short time is over before.
    pub(super) fn has_unseen(&self) -> bool {
        !self.next.is_empty()
    }

    /// Lets things run for a moment, then does the next thing.
    ///
    /// # Errors
    /// The gateway ended by itself, or could not be started.
    pub(super) async fn play(&mut self, scene: &mut Scene, tally: &Tally) -> Result<(), Failure> {
        self.wait(150, 1_200).await;
        still_runs(scene)?;
        let round = self.next.pop().unwrap_or_else(|| self.choose());
        match round {
            Round::Kill => self.kill(scene)?,
            Round::Stop => self.stop(scene).await?,
            Round::Store(wire) => self.disturb(scene, wire).await?,
            Round::Fill => self.fill(scene, tally).await?,
            Round::Deaf => {
                scene.upstream.turn_deaf(true);
                self.wait(100, 600).await;
                scene.upstream.turn_deaf(false);
                self.happened.deaf += 1;
            }
        }
        Ok(())
    }

    fn choose(&mut self) -> Round {
        match self.chance.below(20) {
            0..9 => Round::Kill,
            9 => Round::Stop,
            10..13 => Round::Store(Wire::Forgets),
            13..15 => Round::Store(Wire::Refuses),
            15 => Round::Store(Wire::Silent),
            16 => Round::Store(Wire::Slow),
            17 | 18 => Round::Deaf,
            _ => Round::Fill,
        }
    }

    fn kill(&mut self, scene: &mut Scene) -> Result<(), Failure> {
        scene.gateway.kill().map_err(|error| process(&error))?;
        self.happened.kills += 1;
        scene.gateway.start(Room::Enough).map_err(|error| process(&error))
    }

    async fn stop(&mut self, scene: &mut Scene) -> Result<(), Failure> {
        stop(scene).await?;
        self.happened.stops += 1;
        scene.gateway.start(Room::Enough).map_err(|error| process(&error))
    }

    /// Has the store behave so for a while; the gateway may be killed meanwhile.
    async fn disturb(&mut self, scene: &mut Scene, wire: Wire) -> Result<(), Failure> {
        let lock = begin(&scene.way, wire).await?;
        self.wait(400, 2_500).await;
        // A lock was taken behind a batch: whoever waits in the middle of one is to be met.
        let kills = if matches!(scene.way, Way::File(_)) { 2 } else { 1 };
        if self.chance.below(3) < kills {
            self.kill(scene)?;
            self.wait(100, 800).await;
        }
        self.end(&scene.way, lock);
        self.happened.outages += 1;
        Ok(())
    }

    /// With a journal of a few thousand entries and a store that is away.
    async fn fill(&mut self, scene: &mut Scene, tally: &Tally) -> Result<(), Failure> {
        stop(scene).await?;
        scene.gateway.start(Room::Little).map_err(|error| process(&error))?;
        self.happened.stops += 1;
        let before = tally.answered.load(Relaxed);
        wait_until(FILLS_WITHIN, || tally.answered.load(Relaxed) > before + 50).await;
        let refused = tally.uncountable.load(Relaxed);
        let lock = begin(&scene.way, Wire::Refuses).await?;
        if wait_until(FILLS_WITHIN, || tally.uncountable.load(Relaxed) > refused + 20).await {
            self.happened.full += 1;
        }
        if self.chance.one_in(2) {
            scene.gateway.kill().map_err(|error| process(&error))?;
            self.happened.kills += 1;
        }
        self.end(&scene.way, lock);
        self.happened.outages += 1;
        stop(scene).await?;
        // What a killed one left is adopted by the next that has this journal: at the latest at the end.
        scene.gateway.start(Room::Enough).map_err(|error| process(&error))
    }

    fn end(&mut self, way: &Way, lock: Option<WriteLock>) {
        drop(lock);
        if let Way::Link(link) = way {
            link.cut();
            link.set(Wire::Passes);
            self.happened.forgotten = link.forgotten();
        }
    }

    async fn wait(&mut self, least: u64, most: u64) {
        sleep(Duration::from_millis(self.chance.between(least, most))).await;
    }
}

/// A file cannot be cut off; it can be locked.
async fn begin(way: &Way, wire: Wire) -> Result<Option<WriteLock>, Failure> {
    match way {
        Way::Link(link) => {
            link.set(wire);
            Ok(None)
        }
        Way::File(path) => {
            let path = path.clone();
            Ok(Some(blocking(move || WriteLock::take(&path)).await?))
        }
    }
}

/// Lets a gateway that was just started serve first: before, a signal ends it as it ends any
/// program, and with nothing in its journal.
pub(super) async fn serves(scene: &Scene) -> bool {
    wait_until(STARTS_WITHIN, || is_live(scene.admin).unwrap_or(false)).await
}

/// Whether somebody answers there; a socket alone listens earlier.
fn is_live(admin: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: proof\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer == *b"HTTP/1.1 200")
}

/// Stops the gateway in order, when it listens.
///
/// # Errors
/// It ended with another exit code than 0.
pub(super) async fn stop(scene: &mut Scene) -> Result<(), Failure> {
    if scene.gateway.runs() {
        serves(scene).await;
    }
    match scene.gateway.stop().await.map_err(|error| process(&error))? {
        Some(status) if !status.success() => {
            let log = scene.folder.join("gateway.log");
            let detail = format!("the gateway was told to stop and ended with {status}; see {}", log.display());
            Err(Failure::new(Exit::Failed, "gateway_ended", detail))
        }
        _ => Ok(()),
    }
}

fn still_runs(scene: &mut Scene) -> Result<(), Failure> {
    match scene.gateway.ended().map_err(|error| process(&error))? {
        None => Ok(()),
        Some(status) => {
            let log = scene.folder.join("gateway.log");
            let detail = format!("the gateway ended by itself with {status}; see {}", log.display());
            Err(Failure::new(Exit::Failed, "gateway_ended", detail))
        }
    }
}

/// Looks again and again; whether it came about in time.
pub(super) async fn wait_until(patience: Duration, mut is: impl FnMut() -> bool) -> bool {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut left = patience;
    while !is() {
        if left.is_zero() {
            return false;
        }
        sleep(PAUSE).await;
        left = left.saturating_sub(PAUSE);
    }
    true
}

/// A process could not be started, told or awaited.
pub(super) fn process(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "process", format!("the gateway's process: {error}"))
}
