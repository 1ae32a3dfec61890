//! `POST /ctrl/b/{id}/soft-terminate` and `hard-terminate`: ask for a backend's end. The wish is committed, then told to
//! the drone; where the drone does not hear it, a task repeats it. Answers `null`, as Plane's client needs it.

use axum::Json;
use axum::extract::State;
use jetway_api::{ErrorBody, Null};
use jetway_protocol::drone_api::Stop;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::{EndReason, TerminationKind};

use super::extract::ApiPath;
use crate::app::App;
use crate::db::backends;
use crate::error::{ApiError, ApiResult};

/// Ask for a backend's end: the stop signal, and its grace. Also of one that has ended.
#[utoipa::path(
    post, path = "/b/{id}/soft-terminate", tag = "sessions",
    operation_id = "soft_terminate",
    params(("id" = String, Path, description = "A backend's id")),
    responses(
        (status = 200, description = "`null`: the wish is kept, and repeated until its drone has heard it", body = Null),
        (status = 404, description = "`backend_not_found`: unknown, or ended more than a day ago", body = ErrorBody),
    ),
)]
pub async fn soft(State(app): State<App>, ApiPath(id): ApiPath<String>) -> ApiResult<Json<()>> {
    terminate(app, id, TerminationKind::Soft).await
}

/// Ask for a backend's end: SIGKILL. Also of one that has ended.
#[utoipa::path(
    post, path = "/b/{id}/hard-terminate", tag = "sessions",
    operation_id = "hard_terminate",
    params(("id" = String, Path, description = "A backend's id")),
    responses(
        (status = 200, description = "`null`: the wish is kept, and repeated until its drone has heard it", body = Null),
        (status = 404, description = "`backend_not_found`: unknown, or ended more than a day ago", body = ErrorBody),
    ),
)]
pub async fn hard(State(app): State<App>, ApiPath(id): ApiPath<String>) -> ApiResult<Json<()>> {
    terminate(app, id, TerminationKind::Hard).await
}

async fn terminate(app: App, text: String, kind: TerminationKind) -> ApiResult<Json<()>> {
    let id: BackendId = text.parse().map_err(|_| ApiError::unknown_backend(&text))?;
    let mut connection = app.pools.requests.acquire().await?;
    let wish = backends::request_stop(&mut connection, &id, kind).await?;
    drop(connection);
    let wish = wish.ok_or_else(|| ApiError::unknown_backend(&text))?;
    if wish.ended {
        return Ok(Json(()));
    }
    let task = app.lifecycle.spawn({
        let app = app.clone();
        async move {
            let stop = Stop { term: Some(wish.drone.term), kind, reason: EndReason::External, leave: false };
            if let Err(error) = app.drones.stop(&wish.drone, &id, &stop).await {
                // Who asks for its key is not to get into what is about to stop.
                app.connects.keys.recent.forget_backend(&id);
                tracing::info!(backend = %id, drone = %wish.drone.name, %error, "a stop will be repeated");
            }
        }
    });
    // The wish is committed: whether the drone has heard it already changes nothing about the answer.
    let _told_or_repeated_later = task.await;
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use jetway_protocol::status::Status;

    use crate::testing::{Harness, Mode, keyed, request};

    #[tokio::test]
    async fn it_answers_null_tells_the_drone_and_is_repeated_by_the_task() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let id = harness.connect(&keyed("k")).await.json()["backend_id"].as_str().unwrap().parse().unwrap();
        let terminate = async |kind: &str, body: &str| {
            let answer = harness.send(request("POST", &format!("/ctrl/b/{id}/{kind}-terminate"), body)).await;
            (answer.status, answer.text())
        };
        harness.report(&drone).await;
        drone.set_mode(Mode::Forgetful);
        assert_eq!(terminate("soft", "").await, (200, "null".into()));
        drone.set_mode(Mode::Usual);
        crate::tasks::stops_now(&harness.app).await;
        assert_eq!(drone.calls("STOP"), 2, "the wish was committed and repeated");
        assert_eq!(terminate("hard", "null").await, (200, "null".into()));
        drone.advance(&id, Status::Terminated);
        harness.report(&drone).await;
        assert_eq!(terminate("soft", "").await, (200, "null".into()), "of an ended backend, too");
        assert_eq!(drone.calls("STOP"), 3);
        let unknown = harness.send(request("POST", "/ctrl/b/nobody/soft-terminate", "")).await;
        assert_eq!(unknown.outcome(), (404, "backend_not_found".into()));
    }
}
