//! The gateway under proof: a child process that is started, told to stop and killed.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::model::secret::SecretText;

/// How long a gateway that was told to stop may take; it has its own deadline before that.
const STOPS_WITHIN: Duration = Duration::from_mins(1);

/// How it is started.
pub(super) struct Gateway {
    program: PathBuf,
    folder: PathBuf,
    store: SecretText,
    child: Option<Child>,
}

/// Which journal it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// As much as it needs.
    Enough,
    /// For a few thousand entries, in a folder of its own.
    Little,
}

impl Gateway {
    /// Of this program, configured by `folder/octroi.toml`, on the store at `store`.
    pub(super) fn new(program: PathBuf, folder: &Path, store: SecretText) -> Self {
        Self { program, folder: folder.to_owned(), store, child: None }
    }

    /// A command of the program, under its settings.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let file = self.folder.join("octroi.toml");
        command.arg("--config").arg(file).args(arguments).current_dir(&self.folder).env_clear();
        // Not in the file, where a password would stay if the folder is kept.
        command.env("DATABASE_URL", self.store.expose()).stdin(Stdio::null());
        command
    }

    /// Starts it; it may take a while to listen.
    pub(super) fn start(&mut self, room: Room) -> io::Result<()> {
        let log = self.log()?;
        let mut command = self.command(&["serve"]);
        if room == Room::Little {
            command.env("OCTROI__METERING__DIR", self.journal(room));
            command.env("OCTROI__METERING__SEGMENT_BYTES", "64KiB").env("OCTROI__METERING__MAX_BYTES", "768KiB");
        }
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn()?);
        Ok(())
    }

    /// Where its journals are.
    pub(super) fn journal(&self, room: Room) -> PathBuf {
        self.folder.join(match room {
            Room::Enough => "journal",
            Room::Little => "journal-little",
        })
    }

    fn log(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.folder.join("gateway.log"))
    }

    /// Kills it; nothing in it runs any more when this returns.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait().map(drop)
    }

    /// Tells it to stop and waits until it has; its exit status, none when it would not stop.
    pub(super) async fn stop(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process(process, Signal::TERM)?;
        }
        let ended = timeout(STOPS_WITHIN, async {
            loop {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        if let Ok(status) = ended.await {
            return status.map(Some);
        }
        child.kill()?;
        child.wait()?;
        Ok(None)
    }

    /// Whether it was started and neither killed nor stopped.
    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it did so by itself.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Whatever went wrong: no process is left behind.
        let _ = self.kill();
    }
}
