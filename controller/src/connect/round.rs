//! What the parts of a connect share: what a round comes to, and the grant that a caller gets.

use jetway_protocol::error::Code;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::GrantId;

use super::respond::Connected;
use super::validate::Wanted;
use crate::error::ApiError;

/// What a caller is told to wait where its key's backend has not ended in time.
pub const STOPPING_RETRY_MS: u64 = 1000;

/// What a round came to.
pub enum Round {
    Done(Box<Connected>),
    /// Something changed: look again.
    Again,
}

pub fn stopping() -> ApiError {
    ApiError::new(Code::KeyStopping, "the key's backend is stopping and has not ended yet")
        .retry_after_ms(STOPPING_RETRY_MS)
}

/// The caller's permission to enter.
pub fn grant(wanted: &Wanted) -> Grant {
    Grant {
        id: GrantId::random(),
        user: wanted.user.clone(),
        auth: wanted.auth.clone(),
        secret: format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()),
        allowed_origins: wanted.allowed_origins.clone(),
    }
}

/// The permission behind a static token: for everybody, and it says nothing of anybody.
pub fn static_grant() -> Grant {
    Grant {
        id: GrantId::STATIC,
        user: None,
        auth: "{}".to_owned(),
        secret: String::new(),
        allowed_origins: Vec::new(),
    }
}
