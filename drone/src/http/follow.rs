//! `GET /b/{id}/follow`: the statuses of a backend as they come, one a line, each flushed at once.
//! A hint repeats the last of them.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jetway_protocol::drone_api::Followed;
use jetway_protocol::hint::Hint;
use jetway_protocol::status::Status;

use super::refusal::{Id, No, Serving, live};
use crate::backend::Snapshot;

/// What one follower has heard.
#[derive(Debug, Default)]
struct Heard {
    entries: usize,
    hint: Option<Hint>,
}

impl Heard {
    /// What comes next. A hint that is gone needs no word: the next status says so.
    fn next(&mut self, now: &Snapshot) -> Option<Followed> {
        if let Some(entry) = now.history.get(self.entries) {
            self.entries += 1;
            return Some(Followed { entry: entry.clone(), hint: None });
        }
        let is_news = now.hint.is_some() && now.hint != self.hint;
        let entry = now.history.last().filter(|_| is_news)?;
        self.hint.clone_from(&now.hint);
        Some(Followed { entry: entry.clone(), hint: now.hint.clone() })
    }
}

pub async fn follow(Serving(agent): Serving, Id(id): Id) -> Result<Response, No> {
    let backend = live(&agent, &id)?;
    let stopping = agent.lifecycle.token().clone();
    let lines = stream::unfold((backend.follow(), Heard::default()), move |(mut outward, mut heard)| {
        let stopping = stopping.clone();
        async move {
            loop {
                let next = heard.next(&outward.borrow_and_update());
                if let Some(next) = next {
                    let mut line = serde_json::to_vec(&next).unwrap_or_default();
                    line.push(b'\n');
                    return Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (outward, heard)));
                }
                if outward.borrow().state.status() == Status::Terminated {
                    return None;
                }
                let changed = stopping.run_until_cancelled(outward.changed()).await;
                if !matches!(changed, Some(Ok(()))) && outward.borrow().history.len() == heard.entries {
                    return None;
                }
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
