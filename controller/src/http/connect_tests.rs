//! Bodies that connect refuses, and what it says of each.

use serde_json::{Value, json};

use crate::testing::{Harness, keyed, request};

/// A connect in which one value of the executable is replaced.
fn executable(field: &str, value: Value) -> Value {
    let mut body = keyed("k");
    body["spawn_config"]["executable"][field] = value;
    body
}

fn config(field: &str, value: Value) -> Value {
    let mut body = keyed("k");
    body["spawn_config"][field] = value;
    body
}

fn top(field: &str, value: Value) -> Value {
    let mut body = keyed("k");
    body[field] = value;
    body
}

fn with_hot_and_init_exec() -> Value {
    let mut body = executable("hot", json!({}));
    body["spawn_config"]["executable"]["init"] = json!("exec");
    body
}

const INVALID: &str = "invalid_request";

#[expect(clippy::too_many_lines, reason = "a table: a row a mistake")]
fn bad_requests() -> Vec<(Value, &'static str)> {
    let long = |n: usize| Value::from("x".repeat(n));
    let key = |name: &str| json!({ "name": name });
    let mount_by_key = |name: &str| {
        let mut body = executable("mount", json!(true));
        body["key"] = key(name);
        body
    };
    vec![
        (json!([]), INVALID),
        (json!([{ "name": "k" }, { "executable": { "image": "app" } }]), INVALID),
        (config("executable", json!(["app"])), INVALID),
        (json!({}), INVALID),
        (top("surprise", json!(1)), INVALID),
        (top("key", json!("k")), INVALID),
        (top("key", json!(["k"])), INVALID),
        (top("key", json!({ "name": "k", "namespace": "a\u{0}b" })), INVALID),
        (top("key", json!({ "name": "" })), INVALID),
        (top("key", json!({ "name": "x".repeat(10 * 1024) })), INVALID),
        (top("key", json!({ "name": "a\u{0}b" })), INVALID),
        (top("key", json!({ "name": "k", "namespace": "x".repeat(257) })), INVALID),
        (top("key", json!({ "name": "k", "tag": "x".repeat(257) })), INVALID),
        (top("key", json!({ "name": "k", "colour": "red" })), INVALID),
        (top("user", json!(7)), INVALID),
        (top("user", long(257)), INVALID),
        (top("user", json!("a\nb")), INVALID),
        (top("user", json!("a\u{7f}b")), INVALID),
        (top("user", json!(" ann")), INVALID),
        (top("user", json!("ann ")), INVALID),
        (top("auth", Value::Null), INVALID),
        (top("auth", json!([1])), INVALID),
        (top("auth", json!({ "a": "x".repeat(100 * 1024) })), "auth_too_large"),
        (top("auth", json!({ "a": "ü".repeat(2000) })), "auth_too_large"),
        (top("allowed_origins", json!("https://a")), INVALID),
        (top("allowed_origins", json!(["https://a/"])), INVALID),
        (top("allowed_origins", json!(["*"])), INVALID),
        (top("wait", json!("done")), INVALID),
        (top("wait_timeout_seconds", json!(301)), INVALID),
        (top("wait_timeout_seconds", json!(-1)), INVALID),
        (top("warm_pool", json!("big")), INVALID),
        (top("spawn_config", json!({})), INVALID),
        (top("spawn_config", json!([])), INVALID),
        (config("id", json!("No_Way")), INVALID),
        (config("id", long(46)), INVALID),
        (config("cluster", json!("a_b/evil")), "invalid_cluster"),
        (config("cluster", json!("")), "invalid_cluster"),
        (config("pool", json!("a b")), INVALID),
        (config("subdomain", json!("a_b/evil")), INVALID),
        (config("subdomain", json!("-a")), INVALID),
        (config("lifetime_limit_seconds", json!(-1)), INVALID),
        (config("lifetime_limit_seconds", json!(0)), INVALID),
        (config("lifetime_limit_seconds", json!(1e30)), INVALID),
        (config("lifetime_limit_seconds", json!(10_000_000_000_i64)), INVALID),
        (config("lifetime_limit_seconds", json!("10")), INVALID),
        (config("max_idle_seconds", json!(-1)), INVALID),
        (config("max_idle_seconds", json!(1.5)), INVALID),
        (config("first_connection_seconds", json!(0)), INVALID),
        (config("linger_seconds", json!(-1)), INVALID),
        (config("stop_grace_seconds", json!(3601)), INVALID),
        (config("start_timeout_seconds", json!(0)), INVALID),
        (config("on_isolation", json!("panic")), INVALID),
        (config("colour", json!("red")), INVALID),
        (executable("image", json!("")), INVALID),
        (executable("image", json!("App")), INVALID),
        (executable("image", json!("a b")), INVALID),
        (executable("image", json!("../app")), INVALID),
        (executable("image", json!("app:")), INVALID),
        (executable("image", json!("app@sha256:xyz")), INVALID),
        (executable("image", json!("a._b")), INVALID),
        (executable("image", json!("sha256:abc")), INVALID),
        (executable("image", Value::Null), INVALID),
        (executable("pull_policy", json!("Sometimes")), INVALID),
        (executable("credentials", json!({ "username": "u" })), INVALID),
        (executable("credentials", json!(["u", "p"])), INVALID),
        (executable("credentials", json!({ "username": "u\u{0}", "password": "p" })), INVALID),
        (executable("credentials", json!({ "username": "u", "password": "\u{0}" })), INVALID),
        (executable("env", json!({ "A=B": "1" })), INVALID),
        (executable("env", json!({ "": "1" })), INVALID),
        (executable("env", json!({ "1A": "1" })), INVALID),
        (executable("env", json!({ "A": "a\u{0}b" })), INVALID),
        (executable("env", json!({ "A": 1 })), INVALID),
        (executable("env", json!({ "A": "x".repeat(300 * 1024) })), INVALID),
        (executable("mount", json!("../up")), INVALID),
        (executable("mount", json!("a/../b")), INVALID),
        (executable("mount", json!("/etc")), INVALID),
        (executable("mount", json!("")), INVALID),
        (executable("mount", json!("a//b")), INVALID),
        (executable("mount", json!("a\u{0}b")), INVALID),
        (executable("mount", json!(7)), INVALID),
        (mount_by_key("../x"), INVALID),
        (mount_by_key("/etc"), INVALID),
        (executable("network_name", json!("host")), INVALID),
        (executable("network_name", json!("none")), INVALID),
        (executable("network_name", json!("container:abc")), INVALID),
        (executable("network_name", json!("a b")), INVALID),
        (executable("port", json!(0)), INVALID),
        (executable("port", json!(65536)), INVALID),
        (executable("port", json!(-8080)), INVALID),
        (executable("protocol", json!("h3")), INVALID),
        (executable("ports", json!({ "debug": 0 })), INVALID),
        (executable("ports", json!({ "De": 1 })), INVALID),
        (executable("ports", json!({ "debug": { "port": 1, "tls": true } })), INVALID),
        (executable("ports", json!([9229])), INVALID),
        (executable("user", json!("a b")), INVALID),
        (executable("working_dir", json!("relative")), INVALID),
        (executable("working_dir", json!("/a/../b")), INVALID),
        (executable("entrypoint", json!(["a\u{0}"])), INVALID),
        (executable("cmd", json!("sh")), INVALID),
        (executable("cmd", json!(["x".repeat(200 * 1024)])), INVALID),
        (executable("hot", json!(true)), INVALID),
        (executable("hot", json!({ "path": "/claim" })), INVALID),
        (executable("hot", json!({ "claim_path": "claim" })), INVALID),
        (executable("hot", json!({ "claim_path": "/a\nb" })), INVALID),
        (executable("hot", json!({ "claim_path": format!("/{}", "x".repeat(2000)) })), INVALID),
        (executable("hot", json!({ "claim_timeout_seconds": 0 })), INVALID),
        (executable("hot", json!({ "claim_timeout_seconds": 61 })), INVALID),
        (with_hot_and_init_exec(), INVALID),
        (executable("tmpfs", json!({ "tmp": "" })), INVALID),
        (executable("tmpfs", json!({ "/": "" })), INVALID),
        (executable("tmpfs", json!({ "/a:b": "" })), INVALID),
        (executable("tmpfs", json!({ "/a//b": "" })), INVALID),
        (executable("tmpfs", json!({ "/a/./b": "" })), INVALID),
        (executable("tmpfs", json!({ "/a/": "" })), INVALID),
        (executable("tmpfs", json!({ "/.": "" })), INVALID),
        (executable("tmpfs", json!({ "/a": "size=1;rm" })), INVALID),
        (executable("ready", json!({ "http_path": "healthz" })), INVALID),
        (executable("ready", json!([])), INVALID),
        (executable("ready", json!({ "http_path": "/a b" })), INVALID),
        (executable("init", json!("systemd")), INVALID),
        (executable("cpu_reserve", json!(-0.5)), INVALID),
        (executable("cpu_reserve", json!(1e9)), INVALID),
        (executable("memory_reserve_bytes", json!(-1)), INVALID),
        (executable("memory_reserve_bytes", json!(1_i64 << 40)), INVALID),
        (executable("shm_size_bytes", json!(-1)), INVALID),
        (executable("resource_limits", json!({ "memory_limit_bytes": 1 })), INVALID),
        (executable("resource_limits", json!({ "cpu_period": 1 })), INVALID),
        (executable("resource_limits", json!({ "cpu_period_percent": 0 })), INVALID),
        (executable("resource_limits", json!({ "cpu_period": 1000, "cpu_period_percent": 50 })), INVALID),
        (executable("resource_limits", json!({ "disk_limit_bytes": -1 })), INVALID),
        (executable("resource_limits", json!({ "gpus": 1 })), INVALID),
        (executable("resource_limits", json!([])), INVALID),
        (executable("privileged", json!(true)), INVALID),
    ]
}

#[tokio::test]
async fn bad_input_gets_a_clear_error_and_changes_nothing() {
    let harness = Harness::new().await;
    let drone = harness.drone("one").await;
    for (body, code) in bad_requests() {
        let answer = harness.connect(&body).await;
        let shown: String = body.to_string().chars().take(200).collect();
        assert_eq!(answer.json()["code"], code, "{shown}: {}", answer.text());
        assert!((400..500).contains(&answer.status), "{shown}");
        assert!(answer.json()["message"].as_str().is_some_and(|message| message.len() > 10), "{shown}");
    }
    assert_eq!(harness.rows().await, 0);
    assert_eq!(drone.calls("PUT"), 0);
}

#[tokio::test]
async fn static_tokens_and_mounts_need_what_they_need() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    let mut with_user = config("use_static_token", json!(true));
    with_user["user"] = json!("ann");
    assert_eq!(harness.connect(&with_user).await.outcome(), (422, INVALID.into()));
    let mut without_key = executable("mount", json!(true));
    without_key["key"] = Value::Null;
    assert_eq!(harness.connect(&without_key).await.outcome(), (422, INVALID.into()));
    assert_eq!(harness.rows().await, 0);
}

#[tokio::test]
async fn what_is_no_request_at_all_is_refused_in_our_shape() {
    let harness = Harness::new().await;
    let send = async |content_type: Option<&str>, body: String| {
        let mut request = request("POST", "/ctrl/connect", &body);
        request.headers_mut().remove("content-type");
        if let Some(content_type) = content_type {
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        harness.send(request).await.outcome()
    };
    let json = Some("application/json");
    let body = keyed("k").to_string();
    assert_eq!(send(None, body.clone()).await, (415, "unsupported_media_type".into()));
    assert_eq!(send(Some("text/plain"), body.clone()).await, (415, "unsupported_media_type".into()));
    assert_eq!(send(json, "{".into()).await, (400, "invalid_json".into()));
    assert_eq!(send(json, "hello".into()).await, (400, "invalid_json".into()));
    assert_eq!(send(json, String::new()).await, (400, "invalid_json".into()));
    assert_eq!(send(json, format!("{body}{{}}")).await, (400, "invalid_json".into()));
    assert_eq!(
        send(json, format!("{{\"auth\":{{\"a\":{}", "[".repeat(100_000))).await,
        (400, "invalid_json".into())
    );
    assert_eq!(send(json, format!("\"{}\"", "x".repeat(1024 * 1024))).await, (413, "body_too_large".into()));
    let huge = executable("env", json!({ "A": "x".repeat(1024 * 1024) })).to_string();
    assert_eq!(send(json, huge).await, (413, "body_too_large".into()));
    assert_eq!(harness.rows().await, 0);
}

#[tokio::test]
async fn an_unknown_field_is_named_with_its_place() {
    let harness = Harness::new().await;
    let answer = harness.connect(&executable("privileged", json!(true))).await;
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("spawn_config.executable") && message.contains("privileged"), "{message}");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "mostly the snapshots of whole answers")]
async fn answers_and_refusals_have_plane_s_shape() {
    let harness = Harness::new().await;
    harness.drone("dr-1").await;
    // As Plane's client sends it: every option as an explicit null.
    let body = json!({
        "key": { "name": "k", "namespace": "", "tag": "a" },
        "spawn_config": {
            "id": "chosen", "cluster": null, "pool": "", "executable": { "image": "app" },
            "lifetime_limit_seconds": null, "max_idle_seconds": null, "use_static_token": false,
            "subdomain": null,
        },
        "user": null,
        "auth": {},
    });
    let answer = harness.connect(&body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let timing = answer.header("server-timing").unwrap().to_owned();
    for stage in ["asked;dur=", "placed;dur=", "dispatched;dur="] {
        assert!(timing.contains(stage), "{timing}");
    }
    insta::assert_json_snapshot!(answer.json(), {
        ".token" => "[token]", ".secret_token" => "[secret]", ".fencing_token" => "[number]",
        ".url" => insta::dynamic_redaction(|url, _| {
            let url = url.as_str().unwrap().to_owned();
            assert!(url.starts_with("http://localhost:9090/") && url.ends_with('/'), "{url}");
            "[url]"
        }),
    }, @r#"
    {
      "backend_id": "chosen",
      "drone": "dr-1",
      "drone_answered": true,
      "fencing_token": "[number]",
      "secret_token": "[secret]",
      "spawned": true,
      "status": "scheduled",
      "status_url": "http://127.0.0.1:8080/pub/b/chosen/status",
      "subdomain": null,
      "token": "[token]",
      "url": "[url]"
    }
    "#);
    let again = harness.connect(&body).await;
    insta::assert_json_snapshot!(again.json(), {
        ".token" => "[token]", ".secret_token" => "[secret]", ".url" => "[url]", ".fencing_token" => "[number]",
    }, @r#"
    {
      "backend_id": "chosen",
      "drone": null,
      "drone_answered": true,
      "fencing_token": "[number]",
      "secret_token": "[secret]",
      "spawned": false,
      "status": "scheduled",
      "status_url": "http://127.0.0.1:8080/pub/b/chosen/status",
      "subdomain": null,
      "token": "[token]",
      "url": "[url]"
    }
    "#);
    let mut other_tag = body.clone();
    other_tag["key"]["tag"] = json!("b");
    let held = harness.connect(&other_tag).await;
    assert_eq!(held.status, 409);
    insta::assert_json_snapshot!(held.json(), { ".id" => "[id]" }, @r#"
    {
      "backend_id": "chosen",
      "code": "key_held",
      "id": "[id]",
      "kind": "KeyHeld",
      "message": "the key is held by a backend with another tag"
    }
    "#);
}
