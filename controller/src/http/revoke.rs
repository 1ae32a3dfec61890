//! `POST /ctrl/revoke` and `/ctrl/b/revoke`: what a user may do with a backend ends. Grants live with the drone, so it
//! must hear of it; where it does not, the caller is told, because somebody may still be inside.

use axum::Json;
use axum::extract::State;
use jetway_api::revoke::RevokeRequest;
use jetway_api::{ErrorBody, Null};
use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::error::Code;
use jetway_protocol::ids::BackendId;

use super::extract::ApiJson;
use crate::app::App;
use crate::connect::validate::check_user;
use crate::db::list;
use crate::drone::Failure;
use crate::error::{ApiError, ApiResult};

const RETRY_MS: u64 = 1000;

/// The path that Plane's server has, and its answer: a string.
#[utoipa::path(
    post, path = "/b/revoke", tag = "sessions",
    operation_id = "revoke_as_plane_s_server",
    request_body = RevokeRequest,
    responses(
        (status = 200, description = "A sentence, as of Plane's server", body = String),
        (status = 404, description = "`backend_not_found`: unknown, or ended more than a day ago", body = ErrorBody),
        (status = 502, description = "`drone_unreachable`: its drone did not confirm it; try again", body = ErrorBody),
    ),
)]
pub async fn plane_server_form(
    State(app): State<App>,
    ApiJson(request): ApiJson<RevokeRequest>,
) -> ApiResult<Json<&'static str>> {
    revoke(app, request).await?;
    Ok(Json("Token revoked successfully"))
}

/// The path that Plane's client uses, and the answer that it can read.
#[utoipa::path(
    post, path = "/revoke", tag = "sessions",
    operation_id = "revoke",
    request_body = RevokeRequest,
    responses(
        (status = 200, description = "`null`: every grant of the user there is deleted, and what was open is closed", body = Null),
        (status = 404, description = "`backend_not_found`: unknown, or ended more than a day ago", body = ErrorBody),
        (status = 502, description = "`drone_unreachable`: its drone did not confirm it; try again", body = ErrorBody),
    ),
)]
pub async fn plane_client_form(
    State(app): State<App>,
    ApiJson(request): ApiJson<RevokeRequest>,
) -> ApiResult<Json<()>> {
    revoke(app, request).await?;
    Ok(Json(()))
}

async fn revoke(app: App, request: RevokeRequest) -> ApiResult<()> {
    let RevokeRequest { backend_id, user } = request;
    if user.is_empty() {
        return Err(ApiError::invalid("user must not be empty"));
    }
    check_user(&user)?;
    let id: BackendId = backend_id.parse().map_err(|_| ApiError::unknown_backend(&backend_id))?;
    let mut connection = app.pools.requests.acquire().await?;
    let details = list::details(&mut connection, &id).await?;
    drop(connection);
    let details = details.ok_or_else(|| ApiError::unknown_backend(&backend_id))?;
    if details.summary.ended_at.is_some() {
        return Ok(());
    }
    let drone = details.drone;
    let task = app.lifecycle.spawn({
        let (app, drone, id) = (app.clone(), drone.clone(), id.clone());
        async move {
            // First: what is on its way to the drone must not come after the revocation.
            app.connects.grants.deliveries.give_up(&id, &user);
            app.drones.revoke(&drone, &id, &user).await
        }
    });
    let failure = match task.await {
        Ok(Ok(_revoked)) => return Ok(()),
        Ok(Err(error)) => Failure::from(error),
        Err(_) => Failure::Unclear("the call was cut off".into()),
    };
    // Ended there: nobody is inside any more.
    if matches!(failure, Failure::Refused(RefusalCode::Ended, _)) {
        return Ok(());
    }
    tracing::warn!(backend = %id, drone = %drone.name, %failure, "a revocation did not reach its drone");
    Err(ApiError::new(
        Code::DroneUnreachable,
        format!("the drone {} did not confirm the revocation; try again", drone.name),
    )
    .retry_after_ms(RETRY_MS)
    .about(&id))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Harness, Mode, keyed, request};

    #[tokio::test]
    async fn both_paths_revoke_and_answer_as_plane_s_server_and_client_expect() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let mut body = keyed("k");
        body["user"] = json!("ann");
        let id = harness.connect(&body).await.json()["backend_id"].as_str().unwrap().to_owned();
        let revoke = async |path: &str, user: &str| {
            let body = json!({ "backend_id": id, "user": user });
            let answer = harness.send(request("POST", path, &body.to_string())).await;
            (answer.status, answer.text())
        };
        assert_eq!(revoke("/ctrl/revoke", "ann").await, (200, "null".into()));
        assert!(drone.grants(&id.parse().unwrap()).is_empty());
        assert_eq!(revoke("/ctrl/b/revoke", "ann").await, (200, "\"Token revoked successfully\"".into()));
        assert_eq!(revoke("/ctrl/revoke", "").await.0, 422);
        let array = harness.send(request("POST", "/ctrl/revoke", &json!([id, "ann"]).to_string())).await;
        assert_eq!(array.outcome(), (422, "invalid_request".into()));
        drone.set_mode(Mode::Forgetful);
        assert_eq!(revoke("/ctrl/revoke", "ann").await.0, 502, "nobody has confirmed it");
    }
}
