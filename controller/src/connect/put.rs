//! The `PUT` of a new row, sent by the connect that made it: what the drone's answer, or the want of one, proves.

use std::time::Duration;

use jetway_protocol::drone_api::{PutBackend, Refusal, RefusalCode};
use jetway_protocol::ids::BackendId;
use jetway_protocol::lease::{Evidence, Holding, released};
use jetway_protocol::status::Status;
use jetway_service::backoff::Backoff;
use jetway_service::client::CallError;
use tokio::time::Instant;

use crate::db::drones::DroneRef;
use crate::drone::{DroneCalls, Failure, PUT_DEADLINE};

/// Times that one drone is sent the same `PUT`, where it said that it cannot answer now.
const PUTS_MAX: u32 = 5;

pub(super) enum Put {
    /// It is there, or may be.
    Done { status: Status, answered: bool, drone: DroneRef },
    /// It is certain that nothing runs there and never will, and why. `again`: the drone itself may take another one.
    Nothing { message: String, again: bool },
}

/// Sends nothing that could still be under way when `until` has come and somebody else may send. The row's `PUT` is always
/// of the row's term: a drone that has registered since refuses it for good, and the next try has an id of its own.
///
/// A drone that puts it off for as long as that is worth a wait is asked to decline it, where another one `may` be tried.
pub(super) async fn put(
    drones: &DroneCalls,
    drone: &DroneRef,
    id: &BackendId,
    mut body: PutBackend,
    until: Instant,
    may_decline: impl Fn() -> bool,
) -> Put {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
    let mut holding = Holding {
        row_term: body.term,
        drone_term: body.term,
        on_isolation: body.spec.on_isolation,
        acknowledged: false,
        puts_sent: 0,
        put_off: 0,
    };
    let unanswered = || Put::Done { status: Status::Scheduled, answered: false, drone: drone.clone() };
    // Where time runs out, the task that repeats what is lost goes on.
    while Instant::now() + PUT_DEADLINE <= until {
        let is_last = holding.puts_sent + holding.put_off + 1 == PUTS_MAX;
        body.or_never = is_last && holding.puts_sent == 0 && may_decline();
        holding.puts_sent += 1;
        let error = match drones.put(drone, id, &body).await {
            Ok(view) => {
                return Put::Done { status: view.status, answered: true, drone: drone.clone() };
            }
            // It is starting, has not registered yet, or its disk is in trouble, and may be well in a moment.
            Err(error @ CallError::Refused { status: 500.., .. }) if !is_last => {
                // Its own word: it has refused nothing, and taken nothing. Anybody else's says neither.
                if is_put_off(&error) {
                    holding.puts_sent -= 1;
                    holding.put_off += 1;
                }
                backoff.wait().await;
                continue;
            }
            Err(error) => Failure::from(error),
        };
        let (evidence, message, again) = match error {
            // "Not here" is no answer to a `PUT`: something between us made it, and the drone may have the backend.
            Failure::Unclear(message) | Failure::Refused(RefusalCode::Unknown, message) => {
                let key = body.key.as_ref().map(|key| key.name.as_str());
                tracing::warn!(backend = %id, key, drone = %drone.name, message, "a drone did not answer a PUT");
                return unanswered();
            }
            Failure::Refused(RefusalCode::WrongTerm, message) => (Evidence::Refused, message, true),
            Failure::Refused(_, message) => (Evidence::Refused, message, false),
            Failure::NotSent(message) => (Evidence::NeverSent, message, false),
        };
        // An earlier one may have been taken, or may still be: then no later "no" proves that nothing comes of it.
        return if released(&holding, evidence) { Put::Nothing { message, again } } else { unanswered() };
    }
    unanswered()
}

fn is_put_off(error: &CallError) -> bool {
    matches!(error.refusal::<Refusal>(), Some((_, Refusal { code: RefusalCode::Unavailable, .. })))
}
