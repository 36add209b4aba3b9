//! The one place where tasks are spawned, and how all of them stop.
//!
//! [`Tasks`] is cloned into everything that runs. A *soft* stop asks: accept nothing new, finish
//! what runs. A *hard* stop, when the drain time is over or a second signal came, ends the rest.
//! A vital task that ends on its own (a worker, the drain) ends the process: a gateway that is
//! half alive is worse than one that restarts.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A handle on everything that runs.
#[derive(Clone, Debug)]
pub struct Tasks {
    control: Handle,
    soft: CancellationToken,
    hard: CancellationToken,
    fatal: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Tasks whose control runtime is `control`.
    #[must_use]
    pub fn new(control: Handle) -> Self {
        Self {
            control,
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            fatal: CancellationToken::new(),
            tracker: TaskTracker::new(),
        }
    }

    /// Spawns on the control runtime, whichever thread calls.
    pub fn spawn_control<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(task, &self.control)
    }

    /// Spawns a task whose end, by return or panic, ends the process unless a stop was asked for.
    pub fn spawn_vital<F>(&self, name: &'static str, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = VitalGuard { name, tasks: self.clone() };
        self.spawn_control(async move {
            let _guard = guard;
            task.await;
        })
    }

    /// A guard for a vital thread: dropped before a stop was asked for, it ends the process.
    #[must_use]
    pub fn vital_guard(&self, name: &'static str) -> VitalGuard {
        VitalGuard { name, tasks: self.clone() }
    }

    /// Spawns on the runtime of the calling worker, where the request that asks for it lives.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "the one place where tasks are spawned")]
    pub fn spawn_here<F>(task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(task)
    }

    /// Asks everything to finish.
    pub fn stop_softly(&self) {
        self.soft.cancel();
    }

    /// Ends what has not finished.
    pub fn stop_hard(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Resolves when a soft stop was asked for.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Resolves when a hard stop was asked for.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Resolves when a vital task ended on its own.
    #[must_use]
    pub fn fatal(&self) -> &CancellationToken {
        &self.fatal
    }

    /// Waits until every control task has ended, at most `limit`; whether all did.
    pub async fn wait(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

/// Runs work that waits for a disk where it holds up no task. A panic in it goes on in the caller.
#[expect(clippy::disallowed_methods, reason = "the one place where tasks are spawned")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(test)]
    if inline::is_on() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failure) => match failure.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// For simulations: work that blocks runs where it is asked for, so that a run is one thread's.
#[cfg(test)]
pub(crate) mod inline {
    use std::cell::Cell;

    thread_local!(static ON: Cell<bool> = const { Cell::new(false) });

    /// From now on, on this thread.
    pub(crate) fn turn_on() {
        ON.set(true);
    }

    pub(super) fn is_on() -> bool {
        ON.get()
    }
}

/// Runs a future; a panic in it ends it and nothing else. None: it panicked.
///
/// What the future borrowed is the caller's to distrust: a request's own state, which is dropped.
/// Pinned, because a future that is moved into another stands in it twice.
pub async fn catch_panic<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| {
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled.map(Some),
            // The panic hook has said where and why.
            Err(_) => std::task::Poll::Ready(None),
        }
    })
    .await
}

/// See [`Tasks::vital_guard`].
#[derive(Debug)]
pub struct VitalGuard {
    name: &'static str,
    tasks: Tasks,
}

impl Drop for VitalGuard {
    fn drop(&mut self) {
        if !self.tasks.soft.is_cancelled() {
            tracing::error!(
                task = self.name,
                "a vital task ended; the gateway stops, so that it can be restarted whole"
            );
            self.tasks.fatal.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_task_that_panics_is_fatal_and_one_that_ends_after_a_stop_is_not() {
        let tasks = Tasks::new(Handle::current());
        let _ = tasks.spawn_vital("breaks", async { panic!("on purpose") }).await;
        assert!(tasks.fatal().is_cancelled());

        let tasks = Tasks::new(Handle::current());
        tasks.stop_softly();
        tasks.spawn_vital("ends", async {}).await.unwrap();
        assert!(!tasks.fatal().is_cancelled());
        assert!(tasks.wait(Duration::from_secs(1)).await);
    }
}
