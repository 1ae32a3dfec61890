//! Waiting for a backend to become ready or to end: a long request to the drone that owns it, so that any controller
//! can wait; Postgres is only asked, with growing pauses, where the drone does not answer. No wait holds a connection
//! to the database.

use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::error::Code;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::{End, EndReason, Status, StatusEntry};
use jetway_service::backoff::Backoff;
use tokio::time::{Instant, timeout_at};

use super::join::row_has_ended;
use super::respond::{Connected, Stopwatch};
use crate::app::App;
use crate::db::drones::DroneRef;
use crate::db::{events, list};
use crate::error::{ApiError, ApiResult};

/// For the timeline of an answer that has waited.
const VIEW_DEADLINE: Duration = Duration::from_millis(250);
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(500);

/// True: the row has ended. False: the deadline came first.
pub async fn until_row_ended(
    app: &App,
    drone: &DroneRef,
    id: &BackendId,
    deadline: Instant,
) -> ApiResult<bool> {
    let mut backoff = Backoff::new(POLL_FIRST, POLL_MAX);
    loop {
        // What the drone says comes first; its event reaches Postgres a moment later.
        if follow_until(app, drone, id, deadline, |entry| entry.status == Status::Terminated).await.is_some()
        {
            backoff.reset();
        }
        loop {
            if row_has_ended(app, id).await? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            let wait = backoff.next_wait();
            tokio::time::sleep(wait).await;
            // Back to the drone once Postgres has been asked in vain for a while.
            if wait > POLL_MAX / 3 {
                break;
            }
        }
    }
}

/// Waits for `ready`. A failed start is an error; running out of time is not: the URL is good.
pub async fn until_ready(
    app: &App,
    connected: &mut Connected,
    stopwatch: &mut Stopwatch,
    wait: Duration,
) -> ApiResult<()> {
    let deadline = Instant::now() + wait;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    let mut reached = connected.status;
    while reached < Status::Ready {
        let (drone, id) = (&connected.drone, &connected.id);
        let found = follow_until(app, drone, id, deadline, |entry| {
            reached = reached.max(entry.status);
            entry.status == Status::Ready || entry.status == Status::Terminated
        });
        match found.await {
            Some(entry) if entry.status == Status::Terminated => return Err(start_failed(id, entry.end)),
            Some(_) => break,
            None => {
                if Instant::now() >= deadline {
                    break;
                }
                if let Some(end) = ended_in_postgres(app, id).await? {
                    return Err(start_failed(id, Some(end)));
                }
                let _deadline_passed = timeout_at(deadline, backoff.wait()).await;
            }
        }
    }
    // A status beyond ready means that it was ready and has been told to stop since.
    connected.status = connected.status.max(reached);
    if let Ok(view) = app.drones.view(&connected.drone, &connected.id, VIEW_DEADLINE).await {
        stopwatch.add(&view.timeline);
        connected.drone_answered = true;
    }
    Ok(())
}

/// The first entry that `wanted` takes. `None`: the deadline, a broken line, or a drone that does not answer.
async fn follow_until(
    app: &App,
    drone: &DroneRef,
    id: &BackendId,
    deadline: Instant,
    mut wanted: impl FnMut(&StatusEntry) -> bool,
) -> Option<StatusEntry> {
    let following = async {
        let mut entries = app.drones.follow(drone, id).await.ok()?;
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if wanted(&entry) {
                return Some(entry);
            }
        }
        None
    };
    timeout_at(deadline, following).await.ok().flatten()
}

async fn ended_in_postgres(app: &App, id: &BackendId) -> ApiResult<Option<End>> {
    let mut connection = app.db.acquire().await?;
    let Some(details) = list::details(&mut connection, id).await? else { return Ok(None) };
    if details.summary.ended_at.is_none() {
        return Ok(None);
    }
    let entries = events::of_backend(&mut connection, id).await?;
    let was_ready = entries.iter().any(|entry| entry.status == Status::Ready);
    Ok(details.summary.end.filter(|_| !was_ready))
}

fn start_failed(id: &BackendId, end: Option<End>) -> ApiError {
    let end = end.unwrap_or(End {
        reason: EndReason::Internal,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: String::new(),
        output: String::new(),
    });
    let why = if end.message.is_empty() { "it ended before it was ready" } else { &end.message };
    ApiError::new(Code::StartFailed, format!("the backend did not start: {why}")).ended(&end).about(id)
}
