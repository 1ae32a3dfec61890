//! `GET /ctrl/backends/{id}`: one backend with its spec (no login, of the environment only names), who may enter, what is
//! open, and its timeline. From its drone while it lives, else from Postgres.

use axum::Json;
use axum::extract::State;
use jetway_api::ErrorBody;
use jetway_api::backends::{Backend, ShownGrant, ShownSpec, ShownStage};
use jetway_api::status::BackendStatus;
use jetway_protocol::drone_api::GrantView;
use jetway_protocol::status::Status;
use jetway_protocol::time::UnixMicros;

use super::backend_status::{history, together, told};
use super::backends::shown_summary;
use super::extract::ApiPath;
use crate::app::App;
use crate::drone::LOOK_DEADLINE;
use crate::error::ApiResult;

/// One backend: its spec, who may enter, what is open, and how its start went.
#[utoipa::path(
    get, path = "/backends/{id}", tag = "sessions",
    operation_id = "get_backend",
    params(("id" = String, Path, description = "A backend's id")),
    responses(
        (status = 200, description = "What its drone and Postgres know of it", body = Backend),
        (status = 404, description = "`backend_not_found`: unknown, or ended more than a day ago", body = ErrorBody),
    ),
)]
pub async fn show(State(app): State<App>, ApiPath(text): ApiPath<String>) -> ApiResult<Json<Backend>> {
    let (mut entries, details) = history(&app, &text).await?;
    let (mut summary, drone) = (details.summary.clone(), &details.drone);
    let (told, view) = match summary.ended_at {
        Some(_) => (None, None),
        None => {
            let view = app.drones.view(drone, &summary.id, None, LOOK_DEADLINE);
            let (told, view) = tokio::join!(told(&app, &details), view);
            (told, view.ok())
        }
    };
    let drone_answered = told.is_some();
    let seen = view.as_ref().map(|view| view.history.clone());
    for newer in [told.map(|told| told.history), seen].into_iter().flatten() {
        entries = together(entries, newer);
    }
    if let Some(last) = entries.last() {
        summary.status = last.status;
        summary.ended_at = summary.ended_at.or((last.status == Status::Terminated).then_some(last.at));
        summary.end = summary.end.or_else(|| last.end.clone());
    }
    let timeline = view.as_ref().map_or(&details.timeline, |view| &view.timeline);

    let seen = view.as_ref();
    let at = |left: u64| UnixMicros::now().millis().saturating_add(i64::try_from(left).unwrap_or(i64::MAX));
    Ok(Json(Backend {
        history: entries.iter().map(BackendStatus::from).collect(),
        spec: details.spec.as_ref().and_then(ShownSpec::of),
        timeline: timeline.iter().map(ShownStage::from).collect(),
        drone_answered,
        connections: seen.map(|view| view.connections),
        address: seen.and_then(|view| view.address.clone()),
        hint: seen.and_then(|view| view.hint.clone()),
        idle_at: seen.and_then(|view| view.idle_in_ms).map(at),
        lifetime_at: seen.and_then(|view| view.lifetime_in_ms).map(at),
        listening_elsewhere: seen.map(|view| view.listening_elsewhere.clone()),
        grants: seen.map(|view| view.grants.iter().map(shown_grant).collect()),
        output: summary.end.as_ref().map(|end| end.output.clone()).filter(|output| !output.is_empty()),
        summary: shown_summary(&summary),
    }))
}

fn shown_grant(grant: &GrantView) -> ShownGrant {
    ShownGrant { user: grant.user.clone(), added: grant.added.millis(), used: grant.used }
}
