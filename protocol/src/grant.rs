//! Who may enter a backend, and what the application is told of them. Grants live with the drone.

use serde::{Deserialize, Serialize};

use crate::ids::GrantId;

/// Bytes of a user's name, at most.
pub const USER_BYTES_MAX: usize = 256;
/// Origins of one grant, at most, and bytes of one.
pub const ORIGINS_MAX: usize = 32;
pub const ORIGIN_BYTES_MAX: usize = 256;
/// Bytes of the auth data as JSON, at most: it travels in one request header.
pub const AUTH_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub id: GrantId,
    /// `x-verified-username`. Absent for the static token's grant and for callers who named nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `x-verified-user-data`: a JSON object, already as text. Escaped to ASCII, so it is a valid header value.
    #[serde(default = "empty_object")]
    pub auth: String,
    /// `x-verified-secret`: proves to the application that the request came through the proxy for this grant.
    /// Empty for static tokens.
    #[serde(default)]
    pub secret: String,
    /// Pages that may open WebSockets, as browsers write origins (RFC 6454 §6.2), in lower case. Empty: every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
}

fn empty_object() -> String {
    "{}".to_owned()
}

/// Shows the id and the user; never the secret or what the caller said of the user.
impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}
