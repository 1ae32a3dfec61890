//! What the fake drone tells while a backend lives: its states line by line, and its output.

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use jetway_protocol::drone_api::Followed;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;

use super::{Fake, called};

pub async fn follow(State(drone): State<Fake>, Path(id): Path<BackendId>) -> Response {
    called(&drone, format!("FOLLOW {id}")).await;
    if let Err(refusal) = drone.lock().kept(&id) {
        return refusal;
    }
    let changed = drone.changed.subscribe();
    let lines = futures_util::stream::unfold(
        (drone, id, changed, 0, false),
        |(drone, id, mut changed, mut sent, mut hinted)| async move {
            loop {
                let next = {
                    let inside = drone.lock();
                    let history =
                        inside.backends.get(&id).map(|kept| kept.history.clone()).unwrap_or_default();
                    let over = history.len() == sent
                        && history.last().is_some_and(|l| l.status == Status::Terminated);
                    if over {
                        return None;
                    }
                    match history.get(sent).cloned() {
                        Some(entry) => Some(Followed { entry, hint: None }),
                        None if hinted => None,
                        None => inside.hint.clone().and_then(|hint| {
                            hinted = true;
                            Some(Followed { entry: history.last().cloned()?, hint: Some(hint) })
                        }),
                    }
                };
                if let Some(followed) = next {
                    sent += usize::from(followed.hint.is_none());
                    let line = format!("{}\n", serde_json::to_string(&followed).unwrap());
                    return Some((
                        Ok::<_, std::convert::Infallible>(Bytes::from(line)),
                        (drone, id, changed, sent, hinted),
                    ));
                }
                changed.changed().await.ok()?;
            }
        },
    );
    Body::from_stream(lines).into_response()
}

pub async fn logs(State(drone): State<Fake>, Path(id): Path<BackendId>) -> Response {
    called(&drone, format!("LOGS {id}")).await;
    let mut inside = drone.lock();
    if let Some(output) = inside.kept_output.clone().filter(|_| inside.tombstones.contains(&id)) {
        return output.into_response();
    }
    match inside.kept(&id) {
        Ok(_) => "hello from the container\n".into_response(),
        Err(refusal) => refusal,
    }
}
