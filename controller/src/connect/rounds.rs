//! The loop of a connect: it reads, then either joins what lives, waits for what is ending, or
//! places something new. Whatever another request changed in between sends it round again.

use std::time::Duration;

use jetway_protocol::error::Code;
use tokio::time::Instant;

use super::context::Connects;
use super::respond::{Connected, Stopwatch};
use super::round::{Round, STOPPING_RETRY_MS, stopping};
use super::template::{spawn_of, template};
use super::validate::Wanted;
use super::{join, spawn};
use crate::error::{ApiError, ApiResult};

/// How long a connect waits for a stopping backend's end.
const STOPPING_WAIT: Duration = Duration::from_secs(20);
/// Times that other requests may cut in before a connect gives up.
const ROUNDS_MAX: u32 = 12;

pub async fn connect(app: &Connects, wanted: &Wanted, stopwatch: &mut Stopwatch) -> ApiResult<Connected> {
    let deadline = Instant::now() + STOPPING_WAIT;
    let mut of_pool = None;
    for _ in 0..ROUNDS_MAX {
        let (live, offered) = match &wanted.key {
            Some(key) => app.keys.look(&app.grants.offers, wanted, key).await?,
            None => (None, None),
        };
        if live.is_none()
            && of_pool.is_none()
            && let Some(pool) = &wanted.warm_pool
        {
            of_pool = Some(spawn_of(Box::pin(template(app, pool)).await?, wanted.key.as_ref())?);
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
