//! `POST /ctrl/c/{cluster}/d/{drone}/forget`: an operator knows that a drone's host is dead, and frees its keys at once.
//! Whoever says so of one that lives may have two processes for one key; so it must be said in so many words.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use jetway_api::ErrorBody;
use jetway_api::drones::{ForgetRequest, Forgotten};
use jetway_api::object::Object;
use jetway_protocol::error::Code;
use jetway_protocol::ids::{ClusterName, DroneName};

use super::extract::{ApiPath, PUBLIC_BODY_BYTES_MAX, is_json, parse_json, read_body};
use crate::app::App;
use crate::db::leases;
use crate::error::{ApiError, ApiResult, shown};

const MEANING: &str = "forget gives the keys of every session of this drone away at once: power its host off, or make \
                       sure that none of its containers runs, and then send {\"confirmed_dead\": true}";

/// Free the keys of a drone whose host is dead, at once.
#[utoipa::path(
    post, path = "/c/{cluster}/d/{drone}/forget", tag = "operating",
    params(
        ("cluster" = String, Path, description = "The drone's cluster"),
        ("drone" = String, Path, description = "The drone's name"),
    ),
    request_body = ForgetRequest,
    responses(
        (status = 200, description = "Its keys are free within 2 s", body = Forgotten),
        (status = 400, description = "`invalid_json`; `invalid_cluster`", body = ErrorBody),
        (status = 404, description = "`drone_not_found`: the cluster has no drone of this name", body = ErrorBody),
    ),
)]
pub async fn forget(
    State(app): State<App>,
    ApiPath((cluster, name)): ApiPath<(String, String)>,
    request: Request,
) -> ApiResult<Json<Forgotten>> {
    let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| is_json(kind.as_bytes()));
    let body = read_body(request.into_body(), PUBLIC_BODY_BYTES_MAX).await?;
    if body.is_empty() {
        return Err(ApiError::invalid(MEANING));
    }
    if !is_json {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "the body must be JSON, with the header Content-Type: application/json",
        ));
    }
    let Object(asked): Object<ForgetRequest> = parse_json(&body)?;
    if !asked.confirmed_dead {
        return Err(ApiError::invalid(MEANING));
    }
    let cluster: ClusterName =
        cluster.parse().map_err(|error| ApiError::new(Code::InvalidCluster, format!("{error}")))?;
    let unknown =
        || ApiError::new(Code::DroneNotFound, format!("the cluster {cluster} has no drone {}", shown(&name)));
    let drone: DroneName = name.parse().map_err(|_| unknown())?;
    let mut connection = app.pools.requests.acquire().await?;
    let found = leases::forget(&mut connection, &cluster, &drone).await?;
    drop(connection);
    let (id, term) = found.ok_or_else(unknown)?;
    tracing::warn!(drone = %drone, %id, %term, "an operator says that this drone is dead; its keys are free");
    app.leases.release_nudge.notify_one();
    Ok(Json(Forgotten { forgotten: true }))
}
