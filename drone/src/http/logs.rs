//! `GET /b/{id}/logs`: what the container printed, as plain bytes; of a session that has ended,
//! what is kept of it.

use axum::body::Body;
use axum::extract::Query;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::ids::{BackendId, SlotId};
use serde::Deserialize;

use super::refusal::{Id, No, Serving, no, not_live};
use crate::agent::Agent;
use crate::runtime::{LogQuery, RuntimeError};
use crate::store::last_output;

#[derive(Debug, Deserialize)]
pub struct Which {
    #[serde(default)]
    follow: bool,
    /// Lines from the end; all if absent.
    tail: Option<u32>,
    #[serde(default)]
    timestamps: bool,
}

pub async fn logs(
    Serving(agent): Serving,
    Id(id): Id,
    which: Result<Query<Which>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, No> {
    let Query(Which { follow, tail, timestamps }) =
        which.map_err(|error| no(RefusalCode::Invalid, error.body_text()))?;
    let slot = agent.holders.slots.iter().find(|entry| *entry.value() == id).map(|entry| *entry.key());
    let has_ended = agent.tombstones().get(&id).is_some();
    let Some(slot) = slot.filter(|_| !has_ended) else {
        return of_ended(&agent, &id, slot, tail, timestamps).await;
    };
    let output = match agent.engine.runtime.logs(slot, LogQuery { tail, follow, timestamps }).await {
        Ok(output) => output,
        Err(RuntimeError::Absent) => return of_ended(&agent, &id, None, tail, timestamps).await,
        Err(error) => return Err(no(RefusalCode::Unavailable, error.to_string())),
    };
    let stopping = agent.lifecycle.token().clone().cancelled_owned();
    Ok(answer(Body::from_stream(output.take_until(Box::pin(stopping)))))
}

/// The container of an ended session is removed as soon as its output is kept, also while it is
/// read here: what is read of it is read whole before the answer begins.
async fn of_ended(
    agent: &Agent,
    id: &BackendId,
    slot: Option<SlotId>,
    tail: Option<u32>,
    timestamps: bool,
) -> Result<Response, No> {
    let mut output = agent.store.last_outputs.read(id).await;
    if let Some(slot) = slot.filter(|_| output.is_none()) {
        output = match last_output::last_of(&agent.engine, slot).await {
            Ok(output) if !output.is_empty() => Some(output),
            Ok(_) | Err(_) => agent.store.last_outputs.read(id).await,
        };
    }
    match output {
        Some(output) => Ok(answer(last_output::shown(&output, tail, timestamps).into())),
        None if agent.backend(id).is_some() => {
            Err(no(RefusalCode::Unavailable, format!("{id} has no container yet")))
        }
        None => Err(not_live(agent, id)),
    }
}

fn answer(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
}
