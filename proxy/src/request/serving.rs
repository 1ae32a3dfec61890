//! One client connection that is served, with everything that its requests need. The listener makes
//! it; `http1`, `http2` and `plain` take it.

use std::sync::Arc;

use jetway_service::lifecycle::Lifecycle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::client::connection::Connection;
use crate::limits::Limits;
use crate::request::server::Server;

/// One connection that is served.
pub struct Serving {
    pub connection: Arc<Connection>,
    pub server: Arc<Server>,
    pub lifecycle: Lifecycle,
    pub limits: Limits,
    /// Until it has no request in flight, the stop waits for it.
    pub in_use: TaskTrackerToken,
}
