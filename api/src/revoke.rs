//! `POST /ctrl/revoke`: a user's access to a backend ends.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    pub backend_id: String,
    /// Every grant of this user is deleted, and its open connections are closed.
    pub user: String,
}
