//! What a controller asks of one backend: all of it, or how far it is.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use jetway_protocol::drone_api::{BackendView, RefusalCode, StatusView};
use jetway_protocol::ids::GrantId;
use jetway_protocol::status::{Status, StatusEntry};
use serde::Deserialize;

use super::refusal::{Id, No, Serving, ended, live, no, not_live};
use crate::backend::Snapshot;
use crate::store::journal::Tombstone;

#[derive(Default, Deserialize)]
pub struct ViewQuery {
    grant: Option<GrantId>,
}

pub async fn view(
    Serving(agent): Serving,
    Id(id): Id,
    query: Result<Query<ViewQuery>, QueryRejection>,
) -> Result<Json<BackendView>, No> {
    let Query(query) = query.map_err(|error| no(RefusalCode::Invalid, error.body_text()))?;
    live(&agent, &id)?.view(query.grant).await.map(Json).map_err(ended(&agent, &id))
}

/// From what its followers are told, so that neither of the two is older than the other was.
pub async fn status(Serving(agent): Serving, Id(id): Id) -> Result<Json<StatusView>, No> {
    if let Some(backend) = agent.backend(&id) {
        let Snapshot { history, hint, .. } = backend.snapshot();
        return Ok(Json(StatusView { history, hint }));
    }
    let tombstone = agent.tombstones().get(&id).cloned();
    let Some(Tombstone { end, at, .. }) = tombstone else { return Err(not_live(&agent, &id)) };
    let history = vec![StatusEntry { status: Status::Terminated, at, end: Some(end) }];
    Ok(Json(StatusView { history, hint: None }))
}
