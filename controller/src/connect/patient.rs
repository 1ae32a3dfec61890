//! A connect as its caller waits for it: the work itself on a task of its own, and then, where that is wanted, `ready`.

use std::sync::Arc;

use jetway_protocol::error::Code;
use jetway_protocol::status::EndReason;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::context::Connects;
use super::respond::{Connected, Stopwatch};
use super::validate::Wanted;
use super::{holder, rounds};
use crate::error::{ApiError, ApiResult};
use crate::silence::{Unfinished, silent};

/// Starts that a waiting connect makes beyond its first, where a drone never took what it was given.
const STARTS_AGAIN_MAX: u32 = 2;

/// `permit`: of one of the connects that may be under way.
pub async fn patiently(
    app: &Arc<Connects>,
    wanted: Wanted,
    begun: Stopwatch,
    permit: OwnedSemaphorePermit,
) -> ApiResult<(Connected, Stopwatch)> {
    if let Some(form) = &wanted.host_form {
        app.hosts.check(form)?;
    }
    if let Some(connected) = holder::ask(app, &wanted).await {
        return Ok((connected, begun));
    }
    let wanted = Arc::new(wanted);
    let deadline = wanted.wait.map(|wait| Instant::now() + wait);
    let (mut permit, mut again) = (Some(permit), 0..STARTS_AGAIN_MAX);
    loop {
        let once = connect_once(app, wanted.clone(), begun.clone(), permit.take());
        let (mut connected, mut stopwatch) = once.await?;
        let Some(deadline) = deadline else { return Ok((connected, stopwatch)) };
        let left = deadline.saturating_duration_since(Instant::now());
        match Box::pin(app.waits.until_ready(&mut connected, &mut stopwatch, left)).await {
            Ok(()) => return Ok((connected, stopwatch)),
            Err(error) if was_never_taken(&wanted, &connected, &error) && again.next().is_some() => {
                let (backend, drone) = (&connected.id, &connected.drone.name);
                tracing::info!(%backend, %drone, "it was never taken; another one is started");
            }
            Err(error) => return Err(error),
        }
    }
}

/// On a task of its own: a client that hangs up must not leave half a placement behind. The permit is the work's: what goes on
/// after its client has hung up still counts.
async fn connect_once(
    app: &Arc<Connects>,
    wanted: Arc<Wanted>,
    mut stopwatch: Stopwatch,
    permit: Option<OwnedSemaphorePermit>,
) -> ApiResult<(Connected, Stopwatch)> {
    let app_ = app.clone();
    let work = async move {
        let _one_of_many = permit;
        let connected = rounds::connect(&app_, &wanted, &mut stopwatch).await?;
        Ok::<_, ApiError>((connected, stopwatch))
    };
    app.silence.bounded(&app.lifecycle, work).await.map_err(|unfinished| match unfinished {
        Unfinished::Silent => silent(),
        Unfinished::Panicked(_logged_by_its_hook) => {
            ApiError::new(Code::Internal, "a fault of the controller's; its log has the details")
        }
    })?
}

/// Its drone did not answer the `PUT`, and has said since that it never will run: nothing of the caller's was lost. Under a
/// chosen id nothing can be started again.
fn was_never_taken(wanted: &Wanted, connected: &Connected, error: &ApiError) -> bool {
    // A pool chooses no ids.
    let may_spawn = wanted.spawn.as_ref().map_or(wanted.warm_pool.is_some(), |spawn| spawn.id.is_none());
    may_spawn && !connected.drone_answered && error.end_reason() == Some(EndReason::Refused)
}
