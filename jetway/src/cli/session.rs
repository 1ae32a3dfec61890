//! One session, as `jetway status KEY` shows it: where it is, when it will end or how it has, and
//! how it started.

use jetway_api::Status;
use jetway_api::backends::{Backend, BackendSummary};
use jetway_protocol::time::UnixMicros;

use super::output::{self, age, word};

/// As wide as the longest label, and a space.
const LABEL_WIDTH: usize = 12;

pub fn lines(backend: &Backend, now: UnixMicros) -> Vec<String> {
    let line = |label: &str, text: String| format!("{label:<LABEL_WIDTH$} {text}");
    let since = |at: i64| (now.millis() - at) / 1000;
    let (summary, spec) = (&backend.summary, backend.spec.as_ref());
    let key = summary.key.as_ref();
    let mut lines =
        vec![line("id", summary.backend_id.to_string()), line("key", word(key.map(|key| key.name.as_str())))];
    let namespace = key.map(|key| key.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    lines.extend(namespace.map(|namespace| line("namespace", output::shown(namespace))));
    lines.push(line("status", summary.status.to_string()));
    lines.extend(end(summary, summary.ended_at.map(since)).map(|text| line("ended", text)));
    lines.extend(summary.exit_code.map(|code| line("exit code", code.to_string())));
    let hint = backend.hint.as_ref();
    lines.extend(hint.map(|hint| line("hint", output::shown(&hint.message))));
    lines.push(line("image", word(spec.map(|spec| spec.executable.image.as_str()))));
    lines.push(line("drone", summary.drone.to_string()));
    lines.push(line("age", age(since(summary.created_at))));
    if summary.ended_at.is_none() {
        let unknown = || "not known: its drone does not answer".to_owned();
        lines.push(line("connections", backend.connections.map_or_else(unknown, |count| count.to_string())));
        lines.extend(idle_end(backend, now).map(|text| line("idle end", text)));
        let lifetime = backend.lifetime_at.map(|at| left(at, now));
        lines.extend(lifetime.map(|left| line("lifetime", format!("ends in {left}"))));
    }
    let users = backend.grants.iter().flatten();
    let users: Vec<_> = users.filter_map(|grant| grant.user.as_deref().map(output::shown)).collect();
    if !users.is_empty() {
        lines.push(line("users", users.join(", ")));
    }
    lines.extend(
        backend
            .timeline
            .iter()
            .map(|stage| format!("  {:<LABEL_WIDTH$} {:>9.1} ms", stage.stage.as_str(), stage.length_ms)),
    );
    lines
}

/// Why, when, and in one sentence.
fn end(summary: &BackendSummary, seconds_ago: Option<i64>) -> Option<String> {
    let mut text = summary.end_reason?.as_str().to_owned();
    if let Some(seconds) = seconds_ago {
        text.push_str(&format!(", {} ago", age(seconds)));
    }
    if let Some(message) = &summary.message {
        text.push_str(&format!(": {}", output::shown(message)));
    }
    Some(text)
}

/// When it is stopped because nobody uses it.
fn idle_end(backend: &Backend, now: UnixMicros) -> Option<String> {
    if backend.summary.status != Status::Ready || !backend.drone_answered {
        return None;
    }
    let seconds = backend.spec.as_ref().and_then(|spec| spec.max_idle_seconds);
    Some(match (backend.idle_at, seconds) {
        (Some(at), _) => format!("in {}, unless somebody connects", left(at, now)),
        (None, Some(seconds)) => format!("{seconds} s after its last use; it is in use now"),
        (None, None) => "none: max_idle_seconds is not set".to_owned(),
    })
}

fn left(at: i64, now: UnixMicros) -> String {
    age((at - now.millis()).max(0) / 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: UnixMicros = UnixMicros(1_000_000_000_000);

    fn shown(change: impl FnOnce(&mut Value)) -> String {
        let mut backend = json!({
            "backend_id": "b", "key": { "name": "desk", "namespace": "" }, "status": "ready", "drone": "dev",
            "cluster": "localhost:9090", "fencing_token": 1, "created_at": NOW.millis() - 65_000,
            "history": [], "timeline": [], "drone_answered": true, "connections": 2,
            "spec": { "executable": { "image": "i", "env": [] }, "max_idle_seconds": 30 },
        });
        change(&mut backend);
        lines(&serde_json::from_value(backend).unwrap(), NOW).join("\n")
    }

    #[test]
    fn one_that_runs_shows_its_age_connections_and_clocks() {
        let text = shown(|_| {});
        assert!(
            text.contains("age          1m\nconnections  2\nidle end     30 s after its last use"),
            "{text}"
        );
        assert!(!text.contains("namespace") && !text.contains("ended"), "{text}");
        let text = shown(|b| b["idle_at"] = json!(NOW.millis() + 12_500));
        assert!(text.contains("idle end     in 12s, unless somebody connects"), "{text}");
        let text = shown(|b| b["spec"]["max_idle_seconds"] = Value::Null);
        assert!(text.contains("idle end     none: max_idle_seconds is not set"), "{text}");
        let text = shown(|b| {
            (b["lifetime_at"], b["key"]["namespace"]) = (json!(NOW.millis() + 7_200_000), json!("n"))
        });
        assert!(text.contains("lifetime     ends in 2h") && text.contains("namespace    n\n"), "{text}");
        let text = shown(|b| (b["drone_answered"], b["connections"]) = (json!(false), Value::Null));
        assert!(text.contains("connections  not known") && !text.contains("idle end"), "{text}");
    }

    #[test]
    fn one_that_has_ended_shows_why_when_and_its_exit_code() {
        let text = shown(|b| {
            (b["status"], b["ended_at"]) = (json!("terminated"), json!(NOW.millis() - 180_000));
            (b["end_reason"], b["exit_code"]) = (json!("exited"), json!(3));
            b["message"] = json!("it exited with status 3\u{1b}");
        });
        assert!(
            text.contains("ended        exited, 3m ago: it exited with status 3\u{fffd}\nexit code    3\n"),
            "{text}"
        );
        assert!(!text.contains("connections") && !text.contains("idle"), "{text}");
    }

    #[test]
    fn a_hint_is_shown() {
        let text = shown(|b| b["hint"] = json!({ "code": "listens_elsewhere", "message": "listen on 8080" }));
        assert!(text.contains("\nhint         listen on 8080\n"), "{text}");
    }
}
