//! The main job: one call, one URL, one process, gone when the last connection closes.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Options, Session, SseStream, eventually, with_stack};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn connect_echo_close_and_the_container_is_gone() {
    with_stack(Options::default(), async |stack| {
        let request =
            stack.request("room", &json!({ "GREETING": "hello" }), &json!({ "max_idle_seconds": 0 }));
        let answer = stack.connect(&request).await?;
        ensure!(answer["spawned"] == true, "{answer}");
        let backend = answer["backend_id"].as_str().context("backend_id")?.to_owned();

        let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
        session.echo("ping").await?;
        ensure!(stack.containers().await?.len() == 1);
        stack.until_status(&backend, "ready", SOON).await?;
        session.close().await?;

        let view = stack.ended(&backend, SOON).await?;
        ensure!(view["end_reason"] == "idle" && view["exit_code"] == 0, "{view}");
        stack.no_containers(SOON).await
    });
}

#[test]
fn two_connects_one_backend() {
    with_stack(Options::default(), async |stack| {
        let request = stack.request("room", &json!({}), &json!({ "max_idle_seconds": 1 }));
        let (one, two) = (stack.connect(&request).await?, stack.connect(&request).await?);
        ensure!(one["backend_id"] == two["backend_id"] && one["url"] != two["url"], "{one} {two}");
        ensure!(one["spawned"] == true && two["spawned"] == false);
        ensure!(two["drone"].is_null(), "only a spawn names its drone: {two}");
        let mut first = Session::open(one["url"].as_str().context("url")?).await?;
        let mut second = Session::open(two["url"].as_str().context("url")?).await?;
        first.echo("one").await?;
        second.echo("two").await?;
        let backend = one["backend_id"].as_str().context("id")?.to_owned();
        eventually("both are counted", SOON, async || {
            let view =
                stack.get(&format!("/ctrl/backends/{backend}")).await.map_err(|error| error.to_string())?;
            if view["connections"] == 2 { Ok(()) } else { Err(view["connections"].to_string()) }
        })
        .await?;
        first.close().await?;
        second.echo("still here").await?;
        second.close().await?;
        stack.ended(&backend, SOON).await?;
        Ok(())
    });
}

#[test]
fn fifty_connects_at_once_for_one_new_key_make_one_container() {
    with_stack(Options::default(), async |stack| {
        let request = stack.request("crowd", &json!({}), &json!({ "max_idle_seconds": 1 }));
        let calls: Vec<_> = (0..50).map(|_| stack.connect(&request)).collect();
        let answers = futures_util::future::try_join_all(calls).await?;
        let ids: HashSet<_> = answers.iter().map(|answer| answer["backend_id"].to_string()).collect();
        ensure!(ids.len() == 1, "{ids:?}");
        ensure!(answers.iter().filter(|answer| answer["spawned"] == true).count() == 1);
        let urls: HashSet<_> = answers.iter().filter_map(|answer| answer["url"].as_str()).collect();
        ensure!(urls.len() == 50, "each caller has a URL of its own");
        let mut sessions = Vec::new();
        for url in urls {
            sessions.push(Session::open(url).await?);
        }
        for session in &mut sessions {
            session.echo("all in one room").await?;
        }
        ensure!(stack.containers().await?.len() == 1);
        Ok(())
    });
}

#[test]
fn connect_while_stopping_waits_and_starts_the_next_one() {
    with_stack(Options::default(), async |stack| {
        // Deaf to SIGTERM: the stop takes its whole grace.
        let spawn = json!({ "max_idle_seconds": 0, "stop_grace_seconds": 2 });
        let request = stack.request("again", &json!({ "MODE": "deaf" }), &spawn);
        let first = stack.connect(&request).await?;
        let session = Session::open(first["url"].as_str().context("url")?).await?;
        let backend = first["backend_id"].as_str().context("id")?.to_owned();
        session.close().await?;
        stack.until_status(&backend, "terminating", SOON).await?;

        let second = stack.connect(&request).await?;
        ensure!(second["backend_id"] != first["backend_id"] && second["spawned"] == true, "{second}");
        ensure!(stack.status(&backend).await?["status"] == "terminated", "the first had ended before");
        let mut session = Session::open(second["url"].as_str().context("url")?).await?;
        session.echo("the next one").await
    });
}

#[test]
fn wait_ready_answers_when_the_session_is_ready_and_says_how_long_each_stage_took() {
    with_stack(Options::default(), async |stack| {
        let mut request = stack.request("waited", &json!({}), &json!({ "max_idle_seconds": 1 }));
        request["wait"] = json!("ready");
        let response = stack.http.post(format!("{}/ctrl/connect", stack.api)).json(&request).send().await?;
        let timing = response.headers().get("server-timing").context("Server-Timing")?.to_str()?.to_owned();
        let answer: serde_json::Value = response.json().await?;
        ensure!(answer["status"] == "ready", "{answer}");
        for stage in ["asked", "placed", "dispatched", "created", "started", "claimed", "ready"] {
            ensure!(timing.contains(stage), "{stage} is missing in {timing}");
        }
        let backend = answer["backend_id"].as_str().context("id")?.to_owned();
        let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
        session.echo("first byte").await?;
        eventually("the first byte is in the timeline", SOON, async || {
            let view =
                stack.get(&format!("/ctrl/backends/{backend}")).await.map_err(|error| error.to_string())?;
            let mut stages = view["timeline"].as_array().into_iter().flatten();
            if stages.any(|stage| stage["stage"] == "first_byte") { Ok(()) } else { Err(view.to_string()) }
        })
        .await
    });
}

#[test]
fn the_application_is_told_who_came_and_forged_headers_are_removed() {
    with_stack(Options::default(), async |stack| {
        let mut request = stack.request("headers", &json!({}), &json!({ "max_idle_seconds": 1 }));
        request["user"] = json!("ada");
        request["auth"] = json!({ "role": "éditeur" });
        let answer = stack.connect(&request).await?;
        let url = answer["url"].as_str().context("url")?;
        let seen: serde_json::Value = stack
            .http
            .get(format!("{url}headers?a=1&b=%20"))
            .header("x-verified-username", "mallory")
            .header("X_Verified_User-Data", "{}")
            .header("x-verified_secret", "guess")
            .header("connection", "x-verified-backend")
            .send()
            .await?
            .json()
            .await?;
        let value = |name: &str| -> Vec<String> {
            seen["headers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|pair| pair[0] == name)
                .filter_map(|pair| pair[1].as_str().map(str::to_owned))
                .collect()
        };
        ensure!(value("x-verified-username") == ["ada"], "{seen}");
        let data: serde_json::Value = serde_json::from_str(&value("x-verified-user-data")[0])?;
        ensure!(data["role"] == "éditeur", "{seen}");
        ensure!(value("x-verified-backend") == [answer["backend_id"].as_str().context("id")?]);
        ensure!(value("x-verified-secret") == [answer["secret_token"].as_str().context("secret")?]);
        ensure!(value("x_verified_user-data").is_empty() && value("x-verified_secret").is_empty(), "{seen}");
        ensure!(seen["path"] == "/headers" && seen["query"] == "a=1&b=%20", "{seen}");
        Ok(())
    });
}

#[test]
fn the_session_gets_its_environment_and_nothing_of_the_hosts() {
    with_stack(Options::default(), async |stack| {
        let request =
            stack.request("env", &json!({ "GREETING": "hello" }), &json!({ "max_idle_seconds": 1 }));
        let answer = stack.connect(&request).await?;
        let url = answer["url"].as_str().context("url")?;
        let env: serde_json::Value = stack.http.get(format!("{url}env")).send().await?.json().await?;
        ensure!(
            env["GREETING"] == "hello" && env["PORT"] == "8080" && env["SESSION_BACKEND_KEY"] == "env",
            "{env}"
        );
        ensure!(env["SESSION_BACKEND_ID"] == answer["backend_id"], "{env}");
        ensure!(
            env["SESSION_BACKEND_FENCING_TOKEN"].as_str().is_some_and(|token| token.parse::<u64>().is_ok())
        );
        ensure!(env["JETWAY_SECRET"].is_null(), "{env}");
        let identity: serde_json::Value =
            stack.http.get(format!("{url}identity")).send().await?.json().await?;
        ensure!(identity["uid"] == 65534 && identity["pid"] != 1, "{identity}");
        Ok(())
    });
}

#[test]
fn a_status_stream_replays_resumes_and_stays_open_after_the_end() {
    with_stack(Options::default(), async |stack| {
        let request = stack.request("stream", &json!({}), &json!({ "max_idle_seconds": 0 }));
        let answer = stack.connect(&request).await?;
        let backend = answer["backend_id"].as_str().context("id")?.to_owned();
        let url = format!("{}/pub/b/{backend}/status-stream", stack.api);
        let mut stream = SseStream::open(&stack.http, &url, None).await?;
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("ready") {
            let (data, id) = stream.next(SOON).await?;
            ensure!(data["status"] == id.as_str() && data["time"].is_i64(), "{data}");
            seen.push(id);
        }
        ensure!(seen == ["scheduled", "loading", "starting", "waiting", "ready"], "{seen:?}");

        let session = Session::open(answer["url"].as_str().context("url")?).await?;
        session.close().await?;
        let mut resumed = SseStream::open(&stack.http, &url, Some("ready")).await?;
        let mut rest = Vec::new();
        while rest.last().map(String::as_str) != Some("terminated") {
            rest.push(resumed.next(SOON).await?.1);
        }
        ensure!(rest[0] == "terminating", "{rest:?}");
        ensure!(resumed.next(Duration::from_millis(500)).await.is_err(), "nothing more comes");
        let unknown = stack.http.get(format!("{}/pub/b/unknown/status-stream", stack.api)).send().await?;
        ensure!(unknown.status() == 404);
        Ok(())
    });
}

#[test]
fn a_static_token_serves_everybody_and_keeps_the_path() {
    with_stack(Options::default(), async |stack| {
        let request =
            stack.request("static", &json!({}), &json!({ "max_idle_seconds": 1, "use_static_token": true }));
        let (one, two) = (stack.connect(&request).await?, stack.connect(&request).await?);
        ensure!(one["token"] == two["token"] && one["secret_token"].is_null(), "{one} {two}");
        let token = one["token"].as_str().context("token")?;
        ensure!(token.starts_with("s."));
        // The path is kept, so the application answers 404 for it; its environment has the token.
        let url = one["url"].as_str().context("url")?;
        let answer = stack.http.get(format!("{url}headers")).send().await?;
        ensure!(answer.status() == 404, "{}", answer.status());
        ensure!(answer.headers().get("proxy-status").is_none(), "the application answered, not the proxy");
        Ok(())
    });
}

#[test]
fn a_refused_upgrade_keeps_its_status_headers_and_body() {
    with_stack(Options::default(), async |stack| {
        let answer =
            stack.connect(&stack.request("refuse", &json!({}), &json!({ "max_idle_seconds": 1 }))).await?;
        let url = answer["url"].as_str().context("url")?;
        let response = stack
            .http
            .get(format!("{url}refuse"))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .send()
            .await?;
        ensure!(response.status() == 403 && response.headers()["x-reason"] == "because");
        ensure!(response.text().await? == "not for you");
        Ok(())
    });
}

#[test]
fn a_spec_much_larger_than_a_notification_reaches_its_session() {
    with_stack(Options::default(), async |stack| {
        let large = |number: usize| (format!("LARGE_{number}"), json!("x".repeat(16_000)));
        let env: serde_json::Map<_, _> = (0..12).map(large).collect();
        let answer = stack.connect(&stack.request("large", &json!(env), &json!({}))).await?;
        let url = answer["url"].as_str().context("url")?;
        let seen: Value = stack.http.get(format!("{url}env")).send().await?.json().await?;
        for (name, value) in &env {
            ensure!(seen[name] == *value, "{name} did not arrive whole");
        }
        Ok(())
    });
}
