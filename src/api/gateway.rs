//! What the admin API asks of the gateway that serves beside it. The gateway cannot be named here
//! (it stands on the same floor): `app` puts one behind this.

use std::sync::Arc;

use async_trait::async_trait;

use crate::model::explanation::{Counts, EndpointView, Explanation, Question, Setting};
use crate::telemetry::refusals::Refusals;
use crate::telemetry::tail::Tail;

/// The gateway that serves beside the admin API.
#[async_trait]
pub trait RunningGateway: Send + Sync {
    /// What would become of a request.
    async fn explain(&self, question: Question) -> Explanation;
    /// What was refused lately.
    fn refusals(&self) -> &Refusals;
    /// What goes on, as it goes on.
    fn tail(&self) -> &Arc<Tail>;
    /// Upstreams' endpoints as they stand.
    fn endpoints(&self) -> Vec<EndpointView>;
    /// Which route this is, by its name: where it stands in the configuration.
    fn setting_of_route(&self, name: &str) -> Option<Setting>;
    /// What goes on, in numbers.
    fn counts(&self) -> Counts;
}
