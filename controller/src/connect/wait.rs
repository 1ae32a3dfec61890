//! Waiting for a backend to become ready or to end: a long request to the drone that owns it, so that any controller
//! can wait; Postgres is only asked, with growing pauses, where the drone does not answer. No wait holds a connection
//! to the database.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::drone_api::{Followed, RefusalCode};
use jetway_protocol::error::Code;
use jetway_protocol::ids::{BackendId, GrantId};
use jetway_protocol::status::{End, EndReason, Status, StatusEntry};
use jetway_service::backoff::Backoff;
use jetway_service::lifecycle::Lifecycle;
use tokio::time::{Instant, timeout_at};

use super::respond::{Connected, Stopwatch};
use super::round::STOPPING_RETRY_MS;
use crate::db::backends::has_ended;
use crate::db::drones::DroneRef;
use crate::db::list;
use crate::db::pool::Pool;
use crate::drone::{DroneCalls, Failure, LOOK_DEADLINE};
use crate::error::{ApiError, ApiResult};

const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(500);

pub struct Waits {
    pub drones: Arc<DroneCalls>,
    pub db: Arc<Pool>,
    pub lifecycle: Lifecycle,
}

impl Waits {
    /// True: the row has ended. False: the deadline, or the controller's own end, came first.
    /// Without a drone, which may be dead, only Postgres is asked.
    pub async fn until_row_ended(
        &self,
        drone: Option<&DroneRef>,
        id: &BackendId,
        deadline: Instant,
    ) -> ApiResult<bool> {
        let mut backoff = Backoff::new(POLL_FIRST, POLL_MAX);
        loop {
            // What the drone says comes first; its event reaches Postgres a moment later.
            if let Some(drone) = drone
                && self
                    .follow_until(drone, id, deadline, |told| told.entry.status == Status::Terminated)
                    .await
                    .is_some()
            {
                backoff.reset();
            }
            loop {
                if self.row_has_ended(id).await? {
                    return Ok(true);
                }
                if Instant::now() >= deadline || self.lifecycle.is_stopping() {
                    return Ok(false);
                }
                let wait = backoff.next_wait();
                self.pause(deadline, wait).await;
                // Back to the drone once Postgres has been asked in vain for a while.
                if drone.is_some() && wait > POLL_MAX / 3 {
                    break;
                }
            }
        }
    }

    /// Waits for `ready`. A failed start is an error; running out of time is not: the URL is good.
    pub async fn until_ready(
        &self,
        connected: &mut Connected,
        stopwatch: &mut Stopwatch,
        wait: Duration,
    ) -> ApiResult<()> {
        let deadline = Instant::now() + wait;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        // Of a session that was ready before, an end is no failed start: its key is free in a
        // moment.
        let was_ready = connected.status >= Status::Ready;
        let mut reached = connected.status;
        while reached < Status::Ready {
            let (drone, id) = (&connected.drone, &connected.id);
            let hint = &mut connected.hint;
            let found = self.follow_until(drone, id, deadline, |told| {
                reached = reached.max(told.entry.status);
                hint.clone_from(&told.hint);
                told.entry.status == Status::Ready || told.entry.status == Status::Terminated
            });
            match found.await {
                Some(entry) if entry.status == Status::Terminated => return Err(start_failed(id, entry.end)),
                Some(_) => break,
                None => {
                    // The line broke, or never was: what came after it may be known by now.
                    if let Some(end) = self.ended_in_postgres(id).await {
                        return Err(start_failed(id, Some(end)));
                    }
                    if Instant::now() >= deadline || self.lifecycle.is_stopping() {
                        break;
                    }
                    self.pause(deadline, backoff.next_wait()).await;
                }
            }
        }
        // A status beyond ready means that it was ready and has been told to stop since.
        connected.status = connected.status.max(reached);
        let (drone, id) = (&connected.drone, &connected.id);
        match self
            .drones
            .view(drone, id, Some(connected.grant.id), LOOK_DEADLINE)
            .await
            .map_err(Failure::from)
        {
            Ok(view) if view.status == Status::Terminated && !was_ready => {
                let end = view.history.into_iter().rev().find_map(|entry| entry.end);
                return Err(start_failed(id, end));
            }
            Ok(view) if view.status.is_ending() => return Err(ended_meanwhile(id)),
            Ok(view) => {
                stopwatch.add(&view.timeline);
                connected.hint = view.hint;
                // A drone that has the backend may still be without this grant: then its delivery
                // goes on.
                let grant = connected.grant.id;
                connected.drone_answered |=
                    grant == GrantId::STATIC || view.grants.iter().any(|held| held.id == grant);
            }
            Err(Failure::Refused(RefusalCode::Ended, _)) if was_ready => return Err(ended_meanwhile(id)),
            Err(Failure::Refused(RefusalCode::Ended, _)) => {
                return Err(start_failed(id, self.ended_in_postgres(id).await));
            }
            // The URL is as good as it was.
            Err(Failure::Refused(_, _) | Failure::NotSent(_) | Failure::Unclear(_)) => {}
        }
        Ok(())
    }

    /// Waits, but not beyond the deadline, nor for a controller that stops.
    async fn pause(&self, deadline: Instant, wait: Duration) {
        tokio::select! {
            () = self.lifecycle.stopping() => {}
            _deadline_passed = timeout_at(deadline, tokio::time::sleep(wait)) => {}
        }
    }

    /// The first entry that `wanted` takes. `None`: the deadline, a broken line, a drone that does
    /// not answer, or the controller stops.
    async fn follow_until(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        deadline: Instant,
        mut wanted: impl FnMut(&Followed) -> bool,
    ) -> Option<StatusEntry> {
        let following = async {
            let mut entries = self.drones.follow(drone, id).await.ok()?;
            while let Some(entry) = entries.next().await {
                let told = entry?;
                if wanted(&told) {
                    return Some(told.entry);
                }
            }
            None
        };
        tokio::select! {
            found = timeout_at(deadline, following) => found.ok().flatten(),
            () = self.lifecycle.stopping() => None,
        }
    }

    /// How the backend has ended, if Postgres knows it. A database that does not answer says
    /// nothing about the URL, which was handed out by then: it is asked again later.
    async fn ended_in_postgres(&self, id: &BackendId) -> Option<End> {
        let details = async {
            let mut connection = self.db.acquire().await?;
            list::details(&mut connection, id).await
        };
        match details.await {
            Ok(Some(details)) => details.summary.end.filter(|_| details.summary.ended_at.is_some()),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(backend = %id, %error, "Postgres was asked for the end of a backend in vain");
                None
            }
        }
    }

    /// Whether Postgres has the end.
    async fn row_has_ended(&self, id: &BackendId) -> ApiResult<bool> {
        let mut connection = self.db.acquire().await?;
        Ok(has_ended(&mut connection, id).await?)
    }
}

fn ended_meanwhile(id: &BackendId) -> ApiError {
    ApiError::new(
        Code::KeyStopping,
        "the backend was ready and has been told to stop, or has ended; connect again",
    )
    .retry_after_ms(STOPPING_RETRY_MS)
    .about(id)
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
    let why = if end.message.is_empty() { "it ended at once" } else { &end.message };
    ApiError::new(Code::StartFailed, format!("the backend has ended: {why}")).ended(&end).about(id)
}
