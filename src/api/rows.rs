//! Rows of the admin API: each with who may use it. There is no way to add one without.

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt as _};

use super::caller::{Access, guard};
use super::state::Api;
use crate::model::operator::Permission;

/// Rows, and their description.
pub(super) struct Rows {
    api: Arc<Api>,
    pub(super) router: OpenApiRouter<Arc<Api>>,
}

impl Rows {
    pub(super) fn new(api: &Arc<Api>, router: OpenApiRouter<Arc<Api>>) -> Self {
        Self { api: Arc::clone(api), router }
    }

    /// A row for who may do this.
    #[must_use]
    pub(super) fn row(self, permission: Permission, routes: UtoipaMethodRouter<Arc<Api>>) -> Self {
        self.guarded(Access::To(permission), routes)
    }

    /// A row that only asks, with what stands in no address, for who may.
    #[must_use]
    pub(super) fn row_that_asks(self, permission: Permission, routes: UtoipaMethodRouter<Arc<Api>>) -> Self {
        self.guarded(Access::ToAsk(permission), routes)
    }

    /// A row for whoever is known.
    #[must_use]
    pub(super) fn row_for_known(self, routes: UtoipaMethodRouter<Arc<Api>>) -> Self {
        self.guarded(Access::Known, routes)
    }

    /// A row that makes somebody known.
    #[must_use]
    pub(super) fn row_for_all(self, routes: UtoipaMethodRouter<Arc<Api>>) -> Self {
        Self { api: self.api, router: self.router.routes(routes) }
    }

    fn guarded(self, access: Access, routes: UtoipaMethodRouter<Arc<Api>>) -> Self {
        let routes = routes.layer(from_fn_with_state((Arc::clone(&self.api), access), guard));
        Self { api: self.api, router: self.router.routes(routes) }
    }
}
