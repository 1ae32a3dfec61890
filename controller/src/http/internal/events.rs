//! `POST /internal/drones/{id}/events`: what became of backends. The 2xx says that all of it is stored
//! that ever can be; it waits for the next batch, not for a connection.

use axum::Json;
use axum::extract::State;
use jetway_protocol::controller_api::{Events, StaleCode};
use jetway_protocol::error::Code;
use jetway_protocol::ids::DroneId;
use tokio::time::timeout;

use super::message::{ANSWER_MAX, Message, No, RETRY_MS};
use crate::app::App;
use crate::db::events::Report;
use crate::error::ApiError;
use crate::events::Answer;
use crate::http::extract::ApiPath;

/// Without an answer in time the report may be stored all the same; sending it again changes
/// nothing.
pub async fn events(
    State(app): State<App>,
    ApiPath(id): ApiPath<DroneId>,
    Message(Events { term, events }): Message<Events>,
) -> Result<Json<()>, No> {
    let answer = app.events.store(Report { drone: id, term, events }).ok_or_else(not_now)?;
    match timeout(ANSWER_MAX, answer).await {
        Ok(Ok(Answer::Stored)) => Ok(Json(())),
        Ok(Ok(Answer::TermOver)) => Err(No::stale(StaleCode::Term, "this term is over; register again")),
        Ok(Ok(Answer::NotNow) | Err(_)) | Err(_) => Err(not_now().into()),
    }
}

fn not_now() -> ApiError {
    ApiError::new(Code::Busy, "the events were not stored; send them again").retry_after_ms(RETRY_MS)
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::FencingToken;
    use jetway_protocol::secret::Purpose;
    use jetway_protocol::status::{End, EndReason, Status};
    use serde_json::json;

    use crate::testing::{Harness, Mode, end, keyed};

    #[tokio::test]
    async fn a_status_only_rises_and_only_under_its_own_token() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let answer = harness.connect(&keyed("k")).await;
        let id = answer.json()["backend_id"].as_str().unwrap().parse().unwrap();
        let path = format!("/pub/b/{id}/status");
        // What is read is what Postgres has.
        drone.set_mode(Mode::Mute);
        let status = async || harness.get(&path).await.json()["status"].clone();
        for step in [Status::Loading, Status::Starting, Status::Ready] {
            drone.advance(&id, step);
        }
        let send = async |events: serde_json::Value| {
            let (drone, term) = drone.identity();
            let body = json!({ "term": term, "events": events });
            harness.internal(&format!("/internal/drones/{drone}/events"), &body).await.status
        };
        let events = drone.events();
        let mut foreign = events.clone();
        foreign.iter_mut().for_each(|event| event.fencing_token = FencingToken(999));
        assert_eq!(send(json!(foreign)).await, 200);
        assert_eq!(status().await, "scheduled");

        let reversed: Vec<_> = events.iter().rev().collect();
        for event in &reversed {
            assert_eq!(send(json!([event])).await, 200);
            assert_eq!(status().await, "ready", "whatever comes late");
        }
        assert_eq!(send(json!(events)).await, 200);
        drone.advance(&id, Status::Terminated);
        assert_eq!(send(json!(drone.events())).await, 200);
        assert_eq!(send(json!(events)).await, 200);
        assert_eq!(status().await, "terminated");
        let details = harness.get(&format!("/ctrl/backends/{id}")).await.json();
        let steps: Vec<_> =
            details["history"].as_array().unwrap().iter().map(|e| e["status"].clone()).collect();
        assert_eq!(steps, ["scheduled", "loading", "starting", "ready", "terminated"]);
        assert_eq!(details["end_reason"], "external");
    }

    #[tokio::test]
    async fn an_output_with_u_0000_and_an_event_that_postgres_refuses_hold_up_nothing() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let id_of = async |key: &str| -> jetway_protocol::ids::BackendId {
            harness.connect(&keyed(key)).await.json()["backend_id"].as_str().unwrap().parse().unwrap()
        };
        let (nul, bad, good) = (id_of("nul").await, id_of("bad").await, id_of("good").await);
        let ended = |output: &str| End { output: output.into(), ..end(EndReason::ExitedBeforeReady) };
        drone.advance_with(&nul, Status::Terminated, Some(ended("a\0b")));
        drone.advance_with(&bad, Status::Terminated, Some(ended("refused")));
        drone.advance_with(&good, Status::Terminated, Some(ended("fine")));
        harness
            .execute(
                "alter table backend_events add constraint no_such_output
                 check (end_json is null or end_json ->> 'output' <> 'refused')",
            )
            .await;
        harness.report(&drone).await;
        drone.set_mode(Mode::Mute);
        let output = async |id: &jetway_protocol::ids::BackendId| {
            let shown = harness.get(&format!("/ctrl/backends/{id}")).await.json();
            (shown["ended_at"].is_number(), shown["output"].clone())
        };
        assert_eq!(output(&nul).await, (true, json!("a\u{fffd}b")));
        assert_eq!(output(&good).await, (true, json!("fine")));
        assert!(!output(&bad).await.0, "it was left out alone");
    }

    #[tokio::test]
    async fn an_old_term_and_another_role_are_refused() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let (id, term) = drone.identity();
        let path = format!("/internal/drones/{id}/events");
        let old = json!({ "term": term.0 - 1, "events": [] });
        let answer = harness.internal(&path, &old).await;
        assert_eq!(answer.outcome(), (409, "term".into()));
        let body = json!({ "term": term, "events": [] });
        let proxy = harness.as_role(Purpose::ProxyToController, "POST", &path, &body).await;
        assert_eq!(proxy.outcome(), (401, "unauthorized".into()));
    }
}
