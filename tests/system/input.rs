//! Bad input over the real wire: a clear error, and nothing left of it.

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::options::merge;
use crate::harness::{Options, Stack, with_stack};

/// What is laid over a good request, the status, and the code.
fn bad_requests() -> Vec<(&'static str, Value, u16, &'static str)> {
    let env = |value: Value| json!({ "spawn_config": { "executable": { "env": value } } });
    let spawn = |value: Value| json!({ "spawn_config": value });
    let executable = |value: Value| json!({ "spawn_config": { "executable": value } });
    vec![
        ("unknown field", json!({ "keey": {} }), 422, "invalid_request"),
        ("wrong type", json!({ "key": 5 }), 422, "invalid_request"),
        ("empty key", json!({ "key": { "name": "" } }), 422, "invalid_request"),
        ("key of 10 kB", json!({ "key": { "name": "k".repeat(10_000) } }), 422, "invalid_request"),
        ("negative lifetime", spawn(json!({ "lifetime_limit_seconds": -1 })), 422, "invalid_request"),
        ("absurd lifetime", spawn(json!({ "lifetime_limit_seconds": 1_u64 << 40 })), 422, "invalid_request"),
        ("id with a slash", spawn(json!({ "id": "a/b" })), 422, "invalid_request"),
        ("subdomain with an underscore", spawn(json!({ "subdomain": "a_b/evil" })), 422, "invalid_request"),
        ("env name with =", env(json!({ "A=B": "x" })), 422, "invalid_request"),
        ("env of 1 MB", env(json!({ "A": "x".repeat(900_000) })), 422, "invalid_request"),
        ("mount with ..", executable(json!({ "mount": "../x" })), 422, "invalid_request"),
        ("absolute mount", executable(json!({ "mount": "/etc" })), 422, "invalid_request"),
        ("mount without a base", executable(json!({ "mount": "data" })), 422, "not_offered"),
        ("host network", executable(json!({ "network_name": "host" })), 422, "invalid_request"),
        ("no network", executable(json!({ "network_name": "none" })), 422, "invalid_request"),
        ("another's network", executable(json!({ "network_name": "container:x" })), 422, "invalid_request"),
        (
            "a network that is not allowed",
            executable(json!({ "network_name": "bridge" })),
            422,
            "not_offered",
        ),
        ("user with a newline", json!({ "user": "a\nb" }), 422, "invalid_request"),
        ("user with an outer space", json!({ "user": " ada" }), 422, "invalid_request"),
        ("auth of 100 kB", json!({ "auth": { "a": "x".repeat(100_000) } }), 422, "auth_too_large"),
        ("image that is no reference", executable(json!({ "image": "UPPER CASE!" })), 422, "invalid_request"),
    ]
}

#[test]
fn bad_connects_are_refused_and_leave_nothing() {
    with_stack(Options::default(), async |stack| {
        let good = stack.request("bad", &json!({}), &json!({}));
        for (what, over, status, code) in bad_requests() {
            let mut request = good.clone();
            merge(&mut request, &over);
            let (got, answer) = stack.post("/ctrl/connect", &request).await?;
            ensure!(got == status && answer["code"] == code, "{what}: {got} {answer}");
            ensure!(
                answer["id"].is_string() && answer["kind"].is_string() && answer["message"].is_string(),
                "{answer}"
            );
        }
        let text =
            stack.http.post(format!("{}/ctrl/connect", stack.api)).header("content-type", "application/json");
        let answer = text.body("{not json").send().await?;
        ensure!(answer.status() == 400, "{}", answer.status());
        nothing_is_left(stack).await
    });
}

async fn nothing_is_left(stack: &Stack) -> anyhow::Result<()> {
    let rows = stack.get("/ctrl/backends?limit=10").await?;
    ensure!(rows["backends"].as_array().is_some_and(Vec::is_empty), "{rows}");
    ensure!(stack.containers().await?.is_empty());
    let journals = std::fs::read_dir(stack.directory.join("drone").join("backends"))?.count();
    ensure!(journals == 0, "{journals} journals");
    Ok(())
}

/// Writes bytes to the proxy and reads what comes until it closes.
async fn raw(port: u16, bytes: &[u8]) -> anyhow::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    // The proxy may answer and close before it has read everything.
    let _written = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _closed = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn bad_tokens_and_bad_http_get_a_4xx_from_the_proxy() {
    with_stack(Options::default(), async |stack| {
        let answer = stack.connect(&stack.request("good", &json!({}), &json!({}))).await?;
        let token = answer["token"].as_str().unwrap_or_default().to_owned();
        let middle = token.len() / 2;
        let flipped = if token.as_bytes()[middle] == b'A' { "B" } else { "A" };
        let forged = format!("{}{flipped}{}", &token[..middle], &token[middle + 1..]);
        for bad in [&token[..middle], forged.as_str(), "x", "favicon.ico", "s.x", &format!("s.{token}")] {
            let response =
                stack.http.get(format!("http://127.0.0.1:{}/{bad}/", stack.proxy_port)).send().await?;
            ensure!(response.status().is_client_error(), "{bad}: {}", response.status());
            ensure!(
                response.headers().contains_key("proxy-status"),
                "{bad}: the proxy says that it was its own answer"
            );
            let body: Value = response.json().await?;
            ensure!(body["code"].is_string() && body["message"].is_string(), "{body}");
        }
        let page =
            stack.http.get(format!("http://127.0.0.1:{}/x/", stack.proxy_port)).header("accept", "text/html");
        let page = page.send().await?.text().await?;
        ensure!(page.contains("<html") && !page.contains("{\""), "a person gets a page: {page}");

        let big = "x".repeat(64 * 1024);
        let cases = [
            ("no Host", format!("GET /{token}/ HTTP/1.1\r\nConnection: close\r\n\r\n"), "HTTP/1.1 400"),
            (
                "two Hosts",
                format!("GET /{token}/ HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"),
                "HTTP/1.1 400",
            ),
            (
                "64 kB of headers",
                format!("GET /{token}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Big: {big}\r\n\r\n"),
                "HTTP/1.1 431",
            ),
        ];
        for (what, bytes, expect) in cases {
            let answer = raw(stack.proxy_port, bytes.as_bytes()).await?;
            ensure!(answer.starts_with(expect), "{what}: {}", answer.lines().next().unwrap_or("nothing"));
        }
        Ok(())
    });
}
