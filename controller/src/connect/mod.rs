//! `POST /ctrl/connect`, from a checked request to an answer: which backend a key means, made if need be.
//!
//! The loop reads, then either joins what lives, waits for what is ending, or places something new; whatever another
//! request changed in between sends it round again. Everything here runs on a tracked task, because axum drops a
//! handler's future when its client hangs up, and what was begun after the commit must be finished; but for the first thing that is
//! tried, which begins nothing (`holder`).

pub mod executable;
pub mod request;
pub mod validate;

pub mod deliver;
mod holder;
mod join;
pub mod offer;
mod origins;
mod patient;
pub mod place;
mod ports;
mod put;
pub mod recent;
pub mod respond;
mod spawn;
pub mod wait;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::error::Code;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{GrantId, WarmPoolName};
use jetway_protocol::key::Key;
use tokio::time::Instant;

use crate::app::App;
use crate::db::backends::{self, Found, FoundTogether, LiveBackend};
use crate::db::{DbError, warm_pools};
use crate::error::{ApiError, ApiResult};
use crate::warm::pool::Template;
use offer::Offered;
pub use patient::patiently;
use recent::Guess;
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
    let mut of_pool = None;
    for _ in 0..ROUNDS_MAX {
        let (live, offered) = match &wanted.key {
            Some(key) => look(app, wanted, key).await?,
            None => (None, None),
        };
        if live.is_none()
            && of_pool.is_none()
            && let Some(pool) = &wanted.warm_pool
        {
            of_pool = Some(Box::pin(template(app, pool)).await?.spawn(wanted.key.as_ref())?);
        }
        let round = match (live, wanted.spawn.as_ref().or(of_pool.as_ref())) {
            (Some(live), _) => join::join(app, wanted, live, offered, deadline).await?,
            // On the heap, so that those who join do not carry its room about.
            (None, Some(spawn)) => Box::pin(spawn::spawn(app, wanted, spawn, stopwatch)).await?,
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

/// Which backend the key means, and what came of a grant that was offered to it meanwhile.
async fn look(
    app: &App,
    wanted: &Wanted,
    key: &Key,
) -> ApiResult<(Option<LiveBackend>, Option<(Grant, Offered)>)> {
    let Some(Guess { live: guess, .. }) = app.recent.guess(key) else {
        return Ok((live_by_key(app, key).await?, None));
    };
    let grant = grant(wanted);
    let (live, offered) = {
        let mut reading = pin!(live_by_key(app, key));
        let mut offering = pin!(offer::offer(app, &guess, &grant));
        tokio::select! {
            biased;
            live = &mut reading => {
                let live = live?;
                let is_right = live.as_ref().is_some_and(|live| live.is_same_as(&guess));
                (live, if is_right { Some(offering.await) } else { None })
            }
            offered = &mut offering => {
                let live = reading.await?;
                let is_right = live.as_ref().is_some_and(|live| live.is_same_as(&guess));
                (live, is_right.then_some(offered))
            }
        }
    };
    if offered.is_none() {
        app.recent.forget(key);
    }
    Ok((live, offered.map(|offered| (grant, offered))))
}

/// A read, and so sent once more where its connection turns out to be broken: after a restart of Postgres each that was idle is.
async fn live_by_key(app: &App, key: &Key) -> Found {
    let together = app.reads.answer(key.clone(), async |keys| live_by_keys(app, &keys).await);
    if let Some(found) = together.await {
        return found.map_err(DbError::Together);
    }
    // Those that were idle went with it: this one is new.
    let mut taken = app.hot.take().await?;
    let live = backends::live_by_key(&mut taken.connection, key).await;
    taken.done(live)
}

/// Nothing where it is better asked again.
async fn live_by_keys(app: &App, keys: &[Key]) -> Vec<Option<FoundTogether>> {
    let each: Vec<&Key> = keys.iter().collect();
    let found = async {
        let mut taken = app.hot.take().await?;
        let found = backends::live_by_keys(&mut taken.connection, &each).await;
        taken.done(found)
    };
    match found.await {
        Ok(found) => found.into_iter().map(|found| Some(found.map_err(Arc::new))).collect(),
        Err(error) if error.is_broken() => Vec::new(),
        Err(error) => vec![Some(Err(Arc::new(error))); keys.len()],
    }
}

/// What a pool's backends are started from: one read, and only where the key is not live.
async fn template(app: &App, pool: &WarmPoolName) -> ApiResult<Template> {
    let mut taken = app.hot.take().await?;
    let found = warm_pools::template(&mut taken.connection, &app.at_rest, pool).await;
    match taken.done(found)? {
        Some(Ok(template)) => Ok(template),
        Some(Err(_)) => Err(unreadable(pool)),
        None => Err(no_pool(pool)),
    }
}

pub fn no_pool(pool: &WarmPoolName) -> ApiError {
    ApiError::new(Code::PoolNotFound, format!("there is no warm pool \"{pool}\""))
}

pub fn unreadable(pool: &WarmPoolName) -> ApiError {
    let message =
        format!("the warm pool \"{pool}\" was put under another secret and cannot be opened: put it again");
    ApiError::new(Code::PoolUnreadable, message)
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
        secret: format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()),
        allowed_origins: wanted.allowed_origins.clone(),
    }
}

/// The permission behind a static token: for everybody, and it says nothing of anybody.
fn static_grant() -> Grant {
    Grant {
        id: GrantId::STATIC,
        user: None,
        auth: "{}".to_owned(),
        secret: String::new(),
        allowed_origins: Vec::new(),
    }
}

#[cfg(test)]
mod burst_tests;
#[cfg(test)]
mod holder_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;
#[cfg(test)]
mod trouble_tests;
#[cfg(test)]
mod waiting_tests;
