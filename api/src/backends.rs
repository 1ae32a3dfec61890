//! `/ctrl/backends`: the list, and one backend with everything that is known of it.

use jetway_protocol::hint::Hint;
use jetway_protocol::ids::{BackendId, ClusterName, DroneName, FencingToken};
use jetway_protocol::key::Key;
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::status::{EndReason, Status, TerminationReason};
use jetway_protocol::timeline::{Stage, StageName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::status::BackendStatus;

/// Which backends a list asks for. Every field narrows it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// A key's name.
    pub key: Option<String>,
    pub namespace: Option<String>,
    /// One of the eight statuses, or `live` or `ended`.
    pub state: Option<String>,
    /// A drone's name.
    pub drone: Option<String>,
    /// 50 by default.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<i64>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Go on as more comes: `follow`, `follow=true`, `follow=1`.
    pub follow: Option<String>,
    /// Lines from the end; all by default.
    #[param(maximum = 100_000)]
    pub tail: Option<u32>,
    /// Put the time (RFC 3339) and a space before each line; as `follow`.
    pub timestamps: Option<String>,
}

/// A page of backends, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backends {
    pub backends: Vec<BackendSummary>,
    /// For the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// A backend in the list. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackendSummary {
    pub backend_id: BackendId,
    /// Null: it was started without one.
    pub key: Option<Key>,
    pub status: Status,
    pub drone: DroneName,
    pub cluster: ClusterName,
    pub subdomain: Option<String>,
    pub fencing_token: FencingToken,
    pub created_at: i64,
    pub ended_at: Option<i64>,
    /// Plane's word for the end; null also where it ended by itself.
    pub termination_reason: Option<TerminationReason>,
    pub end_reason: Option<EndReason>,
    pub exit_code: Option<i32>,
    pub oom_killed: Option<bool>,
    /// The end in one sentence.
    pub message: Option<String>,
}

/// One backend. The fields that only its drone knows are null where the drone did not answer, or
/// where the backend has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    #[serde(flatten)]
    pub summary: BackendSummary,
    /// Every status with its time.
    pub history: Vec<BackendStatus>,
    pub spec: Option<ShownSpec>,
    pub timeline: Vec<ShownStage>,
    /// False: the drone did not answer in time, or Postgres knows the end.
    pub drone_answered: bool,
    /// Open WebSockets and requests in flight.
    pub connections: Option<u32>,
    /// Where it listens.
    pub address: Option<String>,
    /// The reason why its start is held up.
    pub hint: Option<Hint>,
    /// When it is stopped for want of use, as things stand. Null: in use, not ready, or no idle
    /// end.
    pub idle_at: Option<i64>,
    /// When its lifetime is over.
    pub lifetime_at: Option<i64>,
    /// Where else it was seen to listen.
    pub listening_elsewhere: Option<Vec<String>>,
    /// The users that may enter: the newest 1000.
    pub grants: Option<Vec<ShownGrant>>,
    /// The last output of a start that failed.
    pub output: Option<String>,
}

/// A spec as it is kept: `spawn_config` with every default filled in. No login, and of the
/// environment only the names. Fields beside the ones named here are those of the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShownSpec {
    pub executable: ShownExecutable,
    pub max_idle_seconds: Option<u32>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShownExecutable {
    pub image: String,
    /// Names alone.
    pub env: Vec<String>,
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl ShownSpec {
    /// `None` only for a spec that is no JSON, which no spec is.
    pub fn of(spec: &BackendSpec) -> Option<Self> {
        Self::of_json(serde_json::to_value(spec).ok()?)
    }

    /// The same of a spec that is JSON already.
    pub fn of_json(mut spec: Value) -> Option<Self> {
        let executable = spec.get_mut("executable")?.as_object_mut()?;
        executable.remove("credentials");
        let env = executable.get("env").and_then(Value::as_object);
        let names: Vec<Value> = env.into_iter().flat_map(Map::keys).cloned().map(Value::String).collect();
        executable.insert("env".to_owned(), Value::Array(names));
        serde_json::from_value(spec).ok()
    }
}

/// One stage of a start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShownStage {
    pub stage: StageName,
    /// Milliseconds since the epoch.
    pub start: i64,
    /// Microseconds since the epoch.
    pub start_us: i64,
    pub length_ms: f64,
    /// A word for people: bytes pulled, the tier that served the start.
    #[serde(default)]
    pub note: String,
}

impl From<&Stage> for ShownStage {
    fn from(stage: &Stage) -> Self {
        let (ms, us) = (stage.length_us / 1000, stage.length_us % 1000);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a start are far below 2^52")]
        let length_ms = ms as f64 + us as f64 / 1000.0;
        Self {
            stage: stage.stage,
            start: stage.start.millis(),
            start_us: stage.start.0,
            length_ms,
            note: stage.note.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShownGrant {
    pub user: Option<String>,
    /// Milliseconds since the epoch.
    pub added: i64,
    /// Whether a connection was ever opened with it.
    pub used: bool,
}

#[cfg(test)]
mod tests {
    use jetway_protocol::spec::{Credentials, Executable};

    use super::*;

    #[test]
    fn a_shown_spec_has_no_secret_and_every_other_field() {
        let mut spec = BackendSpec::of(Executable::of_image("app"));
        spec.executable.env.insert("PASSWORD".into(), "hunter2".into());
        spec.executable.credentials = Some(Credentials { username: "u".into(), password: "hunter3".into() });
        let shown = serde_json::to_value(ShownSpec::of(&spec).unwrap()).unwrap();
        assert!(!shown.to_string().contains("hunter"), "{shown}");
        assert_eq!(shown["executable"]["env"], serde_json::json!(["PASSWORD"]));
        let mut whole = serde_json::to_value(&spec).unwrap();
        whole["executable"].as_object_mut().unwrap().remove("credentials");
        whole["executable"]["env"] = shown["executable"]["env"].clone();
        assert_eq!(shown, whole);
    }
}
