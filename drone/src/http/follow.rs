//! `GET /b/{id}/follow`: the statuses of a backend as they come, one a line, each flushed at once.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jetway_protocol::status::Status;

use super::refusal::{Id, No, Serving, live};

pub async fn follow(Serving(agent): Serving, Id(id): Id) -> Result<Response, No> {
    let backend = live(&agent, &id)?;
    let stopping = agent.lifecycle.token().clone();
    let lines = stream::unfold((backend.follow(), 0), move |(mut outward, mut said)| {
        let stopping = stopping.clone();
        async move {
            loop {
                let fresh = outward.borrow_and_update().history.get(said..).unwrap_or_default().to_vec();
                if let Some(first) = fresh.first() {
                    said += 1;
                    let mut line = serde_json::to_vec(first).unwrap_or_default();
                    line.push(b'\n');
                    return Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (outward, said)));
                }
                if outward.borrow().state.status() == Status::Terminated {
                    return None;
                }
                let changed = stopping.run_until_cancelled(outward.changed()).await;
                if !matches!(changed, Some(Ok(()))) && outward.borrow().history.len() == said {
                    return None;
                }
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
