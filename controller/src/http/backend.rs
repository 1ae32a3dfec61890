//! `GET /ctrl/backends/{id}`: one backend with its spec (no login, of the environment only names), who may enter, what is
//! open, and its timeline. From its drone while it lives, else from Postgres.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::timeline::Stage;
use serde_json::{Value, json};

use super::backends::shown_summary;
use super::extract::ApiPath;
use super::status::{PublicEntry, history};
use crate::app::App;
use crate::error::ApiResult;

/// What only the drone knows is left out where it does not answer by then.
const VIEW_DEADLINE: Duration = Duration::from_millis(1000);

pub async fn show(State(app): State<App>, ApiPath(text): ApiPath<String>) -> ApiResult<Json<Value>> {
    let (history, details) = history(&app, &text).await?;
    let summary = &details.summary;
    let view = match summary.ended_at {
        Some(_) => None,
        None => app.drones.view(&details.drone, &summary.id, VIEW_DEADLINE).await.ok(),
    };
    // The drone may know more than its events have told so far, and never less.
    let entries = view.as_ref().map(|view| &view.history).filter(|live| live.len() >= history.len());
    let entries: Vec<PublicEntry> = entries.unwrap_or(&history).iter().map(PublicEntry::from).collect();
    let timeline = view.as_ref().map_or(&details.timeline, |view| &view.timeline);

    let mut shown = shown_summary(summary);
    shown["status"] = json!(view.as_ref().map_or(summary.status, |view| view.status.max(summary.status)));
    shown["history"] = json!(entries);
    shown["spec"] = json!(details.spec.as_ref().map(shown_spec));
    shown["timeline"] = json!(timeline.iter().map(shown_stage).collect::<Vec<_>>());
    shown["drone_answered"] = json!(view.is_some());
    shown["connections"] = json!(view.as_ref().map(|view| view.connections));
    shown["address"] = json!(view.as_ref().and_then(|view| view.address.as_ref()));
    shown["listening_elsewhere"] = json!(view.as_ref().map(|view| &view.listening_elsewhere));
    shown["grants"] = json!(view.as_ref().map(|view| {
        let grants = view.grants.iter();
        grants
            .map(|grant| json!({ "user": grant.user, "added": grant.added.millis(), "used": grant.used }))
            .collect::<Vec<_>>()
    }));
    shown["output"] = json!(summary.end.as_ref().map(|end| &end.output).filter(|output| !output.is_empty()));
    Ok(Json(shown))
}

fn shown_spec(spec: &BackendSpec) -> Value {
    let mut shown = json!(spec);
    let executable = &spec.executable;
    shown["executable"]["env"] = json!(executable.env.keys().collect::<Vec<_>>());
    if let Some(fields) = shown["executable"].as_object_mut() {
        fields.remove("credentials");
    }
    shown
}

fn shown_stage(stage: &Stage) -> Value {
    let (ms, us) = (stage.length_us / 1000, stage.length_us % 1000);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a start are far below 2^52")]
    let length_ms = ms as f64 + us as f64 / 1000.0;
    json!({
        "stage": stage.stage,
        "start": stage.start.millis(),
        "start_us": stage.start.0,
        "length_ms": length_ms,
        "note": stage.note,
    })
}
