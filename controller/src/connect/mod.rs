//! `POST /ctrl/connect`, from a checked request to an answer: which backend a key means, made if need be.
//!
//! The loop reads, then either joins what lives, waits for what is ending, or places something new; whatever another
//! request changed in between sends it round again. Everything here runs on a tracked task, because axum drops a
//! handler's future when its client hangs up, and what was begun after the commit must be finished.

pub mod executable;
pub mod request;
pub mod validate;

pub mod deliver;
mod join;
mod patient;
pub mod place;
mod put;
pub mod respond;
mod spawn;
pub mod wait;

use std::time::Duration;

use jetway_protocol::error::Code;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::GrantId;
use jetway_protocol::key::Key;
use tokio::time::Instant;
use uuid::Uuid;

use crate::app::App;
use crate::db::backends::{self, LiveBackend};
use crate::db::{self, DbError};
use crate::error::{ApiError, ApiResult};
pub use patient::patiently;
use respond::{Connected, Stopwatch};
use validate::Wanted;

/// How long a connect waits for a stopping backend's end.
const STOPPING_WAIT: Duration = Duration::from_secs(20);
/// What a caller is told to wait after that.
const STOPPING_RETRY_MS: u64 = 1000;
/// Times that other requests may cut in before a connect gives up.
const ROUNDS_MAX: u32 = 12;

/// What a round came to.
enum Round {
    Done(Box<Connected>),
    /// Something changed: look again.
    Again,
}

pub async fn connect(app: &App, wanted: &Wanted, stopwatch: &mut Stopwatch) -> ApiResult<Connected> {
    let deadline = Instant::now() + STOPPING_WAIT;
    for _ in 0..ROUNDS_MAX {
        let live = match &wanted.key {
            Some(key) => live_by_key(app, key).await?,
            None => None,
        };
        let round = match (live, &wanted.spawn) {
            (Some(live), _) => join::join(app, wanted, live, deadline).await?,
            (None, Some(spawn)) => spawn::spawn(app, wanted, spawn, stopwatch).await?,
            (None, None) => {
                return Err(ApiError::new(
                    Code::KeyUnheld,
                    "no backend has this key, and the request has no spawn_config to start one with",
                ));
            }
        };
        if let Round::Done(connected) = round {
            return Ok(*connected);
        }
        if Instant::now() >= deadline {
            return Err(stopping());
        }
    }
    Err(ApiError::new(Code::Busy, "the key changed hands too often while this request looked at it")
        .retry_after_ms(STOPPING_RETRY_MS))
}

/// A read, and so sent once more where its connection turns out to be broken: after a restart of Postgres each that was idle is.
async fn live_by_key(app: &App, key: &Key) -> Result<Option<LiveBackend>, DbError> {
    let mut connection = app.db.acquire().await?;
    match backends::live_by_key(&mut connection, key).await {
        Err(error) if error.is_broken() => {}
        outcome => return outcome,
    }
    drop(connection);
    backends::live_by_key(&mut *db::fresh(&app.db).await?, key).await
}

fn stopping() -> ApiError {
    ApiError::new(Code::KeyStopping, "the key's backend is stopping and has not ended yet")
        .retry_after_ms(STOPPING_RETRY_MS)
}

/// The caller's permission to enter.
fn grant(wanted: &Wanted) -> Grant {
    Grant {
        id: GrantId::random(),
        user: wanted.user.clone(),
        auth: wanted.auth.clone(),
        secret: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
    }
}

/// The permission behind a static token: for everybody, and it says nothing of anybody.
fn static_grant() -> Grant {
    Grant { id: GrantId::STATIC, user: None, auth: "{}".to_owned(), secret: String::new() }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trouble_tests;
