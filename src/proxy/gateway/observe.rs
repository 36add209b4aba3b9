//! A route that observes: everything is looked at as if it were enforced, and nothing of it refuses.
//!
//! For the first week in front of a service that is live and asks its callers itself. What it
//! would have refused is counted, once a request and for the first reason, as it would have been:
//! so what a refused request would not have cost is not charged either. What cannot be read, has
//! no route, is too large, or cannot be counted is refused as ever: it would break the promises
//! made to everybody else.

use http::HeaderMap;

use super::WorkerGateway;
use crate::auth::Identified;
use crate::limit::{self, When};
use crate::proxy::context::RequestContext;
use crate::proxy::rejection::Rejection;
use crate::proxy::shared::Route;

impl WorkerGateway {
    /// Whether a route refuses nothing yet. The clock is asked only where a date was written.
    pub(super) fn observes(&self, route: &Route) -> bool {
        route.config.observes(|| self.shared.clock.wall())
    }

    /// As `decide`, noting where it would have refused.
    pub(super) async fn observe(
        &self,
        route: &Route,
        headers: &HeaderMap,
        context: &mut RequestContext,
    ) -> Result<Identified, Rejection> {
        context.is_being_observed();
        let authenticator = &self.shared.authenticator;
        let now = self.shared.clock.monotonic();
        let principal =
            match authenticator.authenticate(&route.config, context.presented(headers), context.caller(), now).await {
                // Its exchange rests on nothing: a stream that goes on is not cut either.
                Ok(principal) => principal,
                Err(error) => {
                    context.would_be(&error.into());
                    authenticator.nobody()
                }
            };
        context.identified(&principal);
        // Nobody's lack of scopes is no second reason.
        if !context.would_be_refused()
            && let Err(rejection) = self.authorize(route, &principal, context)
        {
            context.would_be(&rejection);
        }
        if let Err(unknown) = limit::quotas_read(&principal).await {
            context.would_be(&unknown.into());
        }
        let when = When { arrived: context.arrived(), now: self.shared.clock.monotonic() };
        let (charge, exceeded) = limit::observe(&principal, self.cost(route), when, context.would_be_refused());
        if let Some(exceeded) = exceeded {
            context.would_be(&Rejection::Limit(exceeded));
        }
        context.charged(charge.standing());
        self.admit(charge, when.now, context).await?;
        Ok(principal)
    }
}
