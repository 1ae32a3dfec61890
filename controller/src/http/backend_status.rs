//! `GET /pub/b/{id}/status`: where a backend is, in Plane's words with ours beside them.
//!
//! While a backend lives, its drone knows first: events are on their way to Postgres for a moment,
//! or for as long as it is away. So each reader of a status asks the drone, too, and none is told
//! less than another was before.

use axum::Json;
use axum::extract::State;
use jetway_api::ErrorBody;
use jetway_api::status::BackendStatus;
use jetway_protocol::drone_api::{RefusalCode, StatusView};
use jetway_protocol::hint::Hint;
use jetway_protocol::ids::{BackendId, GrantId};
use jetway_protocol::status::{End, Status, StatusEntry};

use super::extract::ApiPath;
use crate::app::App;
use crate::db::{events, list};
use crate::drone::{Failure, LOOK_DEADLINE};
use crate::error::{ApiError, ApiResult};

/// A backend's way so far, and what Postgres has of it.
pub struct Known {
    /// `scheduled` included, oldest first.
    pub entries: Vec<StatusEntry>,
    pub details: list::Details,
    /// `None`: it has ended, and Postgres knows all. False: the drone may know more.
    pub drone_answered: Option<bool>,
    /// What holds its start up, as its drone says.
    pub hint: Option<Hint>,
}

/// Where a backend is: its last entry.
#[utoipa::path(
    get, path = "/b/{id}/status", tag = "status",
    operation_id = "backend_status",
    params(("id" = String, Path, description = "A backend's id")),
    responses(
        (status = 200, description = "The last entry", body = BackendStatus),
        (status = 404, description = "`backend_not_found`: unknown, or ended more than a day ago", body = ErrorBody),
    ),
)]
pub async fn status(
    State(app): State<App>,
    ApiPath(text): ApiPath<String>,
) -> ApiResult<Json<BackendStatus>> {
    let known = known(&app, &text).await?;
    let last = known.entries.last().ok_or_else(|| ApiError::unknown_backend(&text))?;
    Ok(Json(BackendStatus { drone_answered: known.drone_answered, hint: known.hint, ..last.into() }))
}

/// All that is known now: one read, and one exchange with the drone where it has not ended.
pub async fn known(app: &App, text: &str) -> ApiResult<Known> {
    let (entries, details) = history(app, text).await?;
    if details.summary.ended_at.is_some() {
        return Ok(Known { entries, details, drone_answered: None, hint: None });
    }
    let told = told(app, &details).await;
    let drone_answered = Some(told.is_some());
    let StatusView { history, hint } = told.unwrap_or_default();
    Ok(Known { entries: together(entries, history), details, drone_answered, hint })
}

/// What the drone says. `None`: it does not answer in time, or does not have the backend.
pub async fn told(app: &App, details: &list::Details) -> Option<StatusView> {
    let (drone, id) = (&details.drone, &details.summary.id);
    match app.drones.status(drone, id).await.map_err(Failure::from) {
        Ok(view) => Some(view),
        // Or it is of a version that has but the view.
        Err(Failure::Refused(RefusalCode::Unknown, _)) => {
            let view = app.drones.view(drone, id, Some(GrantId::STATIC), LOOK_DEADLINE).await;
            view.ok().map(|view| StatusView { history: view.history, hint: view.hint })
        }
        Err(_) => None,
    }
}

/// What Postgres has, and what the drone says: neither is left out, and the drone knows better what
/// both have.
pub fn together(stored: Vec<StatusEntry>, told: Vec<StatusEntry>) -> Vec<StatusEntry> {
    let mut all = told;
    for entry in stored {
        if all.iter().all(|one| one.status != entry.status) {
            all.push(entry);
        }
    }
    all.sort_by_key(|entry| entry.status);
    all
}

/// Everything that Postgres knows of a backend's way, `scheduled` included, and where it is followed further.
pub async fn history(app: &App, text: &str) -> ApiResult<(Vec<StatusEntry>, list::Details)> {
    let id: BackendId = text.parse().map_err(|_| ApiError::unknown_backend(text))?;
    let mut connection = app.pools.requests.acquire().await?;
    let details = list::details(&mut connection, &id).await?;
    let details = details.ok_or_else(|| ApiError::unknown_backend(text))?;
    let mut entries = events::of_backend(&mut connection, &id).await?;
    let summary = &details.summary;
    if entries.first().is_none_or(|first| first.status != Status::Scheduled) {
        entries.insert(0, StatusEntry { status: Status::Scheduled, at: summary.created_at, end: None });
    }
    // A row that was ended without a drone's event: refused, or gone.
    if let Some(at) = summary.ended_at
        && entries.last().is_none_or(|last| last.status != Status::Terminated)
    {
        let end: Option<End> = summary.end.clone();
        entries.push(StatusEntry { status: Status::Terminated, at, end });
    }
    Ok((entries, details))
}

#[cfg(test)]
mod tests {
    use jetway_protocol::time::UnixMicros;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Harness, Mode, keyed};

    #[test]
    fn neither_postgres_nor_the_drone_is_left_out() {
        let entries = |statuses: &[Status], at| -> Vec<StatusEntry> {
            let entry = |status: &Status| StatusEntry { status: *status, at: UnixMicros(at), end: None };
            statuses.iter().map(entry).collect()
        };
        use Status::{Ready, Scheduled, Starting, Terminated};
        for (stored, told, expected) in [
            (&[Scheduled][..], &[][..], &[(Scheduled, 1)][..]),
            (&[Scheduled], &[Scheduled, Starting, Ready], &[(Scheduled, 2), (Starting, 2), (Ready, 2)]),
            // A drone that has begun anew, or that has but a tombstone.
            (&[Scheduled, Ready], &[Scheduled], &[(Scheduled, 2), (Ready, 1)]),
            (&[Scheduled, Ready], &[Terminated], &[(Scheduled, 1), (Ready, 1), (Terminated, 2)]),
        ] {
            let found = together(entries(stored, 1), entries(told, 2));
            let found: Vec<_> = found.iter().map(|entry| (entry.status, entry.at.0)).collect();
            assert_eq!(found, expected, "{stored:?} {told:?}");
        }
    }

    /// What each reader says of a backend whose events do not reach Postgres.
    async fn readers(harness: &Harness, id: &str) -> Vec<Value> {
        let shown = harness.get(&format!("/ctrl/backends/{id}")).await.json();
        let status = harness.get(&format!("/pub/b/{id}/status")).await.json();
        let of = |answer: &Value| json!([answer["status"], answer["drone_answered"], answer["end_reason"]]);
        vec![of(&shown), of(&status)]
    }

    #[tokio::test]
    async fn reads_do_not_go_back_while_events_are_held_up() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let id = harness.connect(&keyed("k")).await.json()["backend_id"].as_str().unwrap().to_owned();
        let backend = id.parse().unwrap();
        for status in [Status::Starting, Status::Ready, Status::Terminating] {
            drone.advance(&backend, status);
            let reason = status.is_ending().then_some("external");
            assert_eq!(readers(&harness, &id).await, vec![json!([status, true, reason]); 2]);
        }
        // It knows no more than that it has ended.
        drone.bury(&backend);
        assert_eq!(readers(&harness, &id).await, vec![json!(["terminated", true, "external"]); 2]);
    }

    #[tokio::test]
    async fn where_the_drone_is_silent_the_answer_says_so_in_time() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let id = harness.connect(&keyed("k")).await.json()["backend_id"].as_str().unwrap().to_owned();
        drone.advance(&id.parse().unwrap(), Status::Ready);
        for mode in [Mode::Silent, Mode::Mute, Mode::Forgetful] {
            drone.set_mode(mode);
            let begun = std::time::Instant::now();
            assert_eq!(readers(&harness, &id).await, vec![json!(["scheduled", false, null]); 2], "{mode:?}");
            assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        drone.set_mode(Mode::Usual);
        drone.advance(&id.parse().unwrap(), Status::Terminated);
        harness.report(&drone).await;
        assert_eq!(readers(&harness, &id).await[1], json!(["terminated", null, "external"]));
    }
}
