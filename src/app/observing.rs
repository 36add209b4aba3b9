//! Says which routes refuse nothing: at the start, while they do, and when each begins to refuse.
//!
//! Nobody should have to remember an open door. That a route enforces again is not decided here:
//! whoever decides about a request asks the clock.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::route::RouteConfig;
use crate::model::clock::SharedClock;
use crate::telemetry::metrics::Metrics;

/// How often it looks: a clock may be set.
const LOOK: Duration = Duration::from_secs(1);

/// A route with a date.
#[derive(Clone, Debug)]
struct Observed {
    route: String,
    until: Timestamp,
}

/// The routes that have a date.
#[derive(Clone)]
pub(super) struct Observing {
    routes: Arc<[Observed]>,
    clock: SharedClock,
}

impl Observing {
    /// Those of a configuration.
    pub(super) fn of(routes: &[RouteConfig], clock: &SharedClock) -> Self {
        let with_date = |route: &RouteConfig| Some(Observed { route: route.name.clone(), until: route.observe_until? });
        Self { routes: routes.iter().filter_map(with_date).collect(), clock: Arc::clone(clock) }
    }

    /// How many refuse nothing now.
    pub(super) fn count(&self) -> usize {
        let now = self.clock.wall();
        self.routes.iter().filter(|route| now < route.until).count()
    }

    /// One line for each, by whom it starts.
    pub(super) fn announce(&self) {
        let now = self.clock.wall();
        for Observed { route, until } in self.routes.iter() {
            if now < *until {
                tracing::warn!(
                    event = "route_observes",
                    route,
                    %until,
                    "until then this route refuses nothing for want of a credential, a scope or what is left of a limit; \
                     it only counts what it would have refused (octroi usage)"
                );
            } else {
                tracing::warn!(
                    event = "observing_over",
                    route,
                    %until,
                    "this route has mode = \"observe\" and its date has passed: it enforces"
                );
            }
        }
    }

    /// The task: keeps the gauge, and says when a route begins to refuse. Ends when none is left.
    pub(super) async fn watch(self, metrics: Arc<Metrics>) {
        let mut before = self.clock.wall();
        loop {
            let count = self.count();
            metrics.routes_observing.set(i64::try_from(count).unwrap_or(i64::MAX));
            let now = self.clock.wall();
            for Observed { route, until } in self.routes.iter().filter(|one| before < one.until && one.until <= now) {
                tracing::warn!(event = "observing_over", route, %until, "from now on this route enforces");
            }
            if count == 0 {
                return;
            }
            before = now;
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::ManualClock;

    #[tokio::test(start_paused = true)]
    async fn the_gauge_falls_when_the_date_comes() {
        let clock = ManualClock::at("2026-11-30T23:59:58Z".parse().unwrap());
        let shared: SharedClock = clock.clone();
        let one = |route: &str, until: &str| Observed { route: route.to_owned(), until: until.parse().unwrap() };
        let routes =
            [one("a", "2026-12-01T00:00:00Z"), one("b", "2026-12-02T00:00:00Z"), one("c", "2026-11-01T00:00:00Z")];
        let observing = Observing { routes: routes.into(), clock: shared };
        let metrics = Metrics::new(&[], &[]);
        let look = async {
            for (later, left) in [(0, 2), (1, 2), (1, 1), (86_399, 1), (1, 0)] {
                clock.advance(Duration::from_secs(later));
                tokio::time::sleep(LOOK * 2).await;
                assert_eq!(observing.count(), left, "{later} s later");
                assert_eq!(metrics.routes_observing.get(), i64::try_from(left).unwrap(), "{later} s later");
            }
        };
        // It ends by itself when none is left.
        tokio::join!(observing.clone().watch(Arc::clone(&metrics)), look);
    }
}
