//! Starts that fail or differ: what is said of them, and that nothing stays.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Options, Stack, engine, with_stack};

const SOON: Duration = Duration::from_secs(20);

/// Connects with `wait: ready` to a start that must fail, and checks what is said.
async fn fails(
    stack: &Stack,
    key: &str,
    env: Value,
    spawn: Value,
    end_reason: &str,
) -> anyhow::Result<Value> {
    let mut request = stack.request(key, &env, &spawn);
    request["wait"] = json!("ready");
    let (status, answer) = stack.post("/ctrl/connect", &request).await?;
    ensure!(
        status == 502 && answer["code"] == "start_failed" && answer["kind"] == "Other",
        "{key}: {status} {answer}"
    );
    ensure!(answer["end_reason"] == end_reason, "{key}: {answer}");
    stack.no_containers(SOON).await?;
    Ok(answer)
}

#[test]
fn a_container_that_exits_at_once_shows_its_last_output() {
    with_stack(Options::default(), async |stack| {
        let answer =
            fails(stack, "exit", json!({ "MODE": "exit" }), json!({}), "exited_before_ready").await?;
        ensure!(answer["output"].as_str().is_some_and(|output| output.contains("boom")), "{answer}");
        ensure!(answer["message"].as_str().is_some_and(|message| message.contains('3')), "{answer}");
        Ok(())
    });
}

#[test]
fn a_container_that_never_listens_times_out() {
    with_stack(Options::default(), async |stack| {
        let spawn = json!({ "start_timeout_seconds": 2 });
        fails(stack, "never", json!({ "MODE": "never" }), spawn, "start_timeout").await?;
        Ok(())
    });
}

#[test]
fn listening_where_nobody_can_reach_it_is_named() {
    with_stack(Options::default(), async |stack| {
        let spawn = json!({ "start_timeout_seconds": 2 });
        let local = json!({ "LISTEN": "127.0.0.1" });
        let answer = fails(stack, "local", local, spawn.clone(), "listening_elsewhere").await?;
        ensure!(
            answer["message"].as_str().is_some_and(|message| message.contains("127.0.0.1:8080")),
            "{answer}"
        );
        let port = json!({ "LISTEN_PORT": "9999" });
        let answer = fails(stack, "port", port, spawn, "listening_elsewhere").await?;
        ensure!(answer["message"].as_str().is_some_and(|message| message.contains("9999")), "{answer}");
        Ok(())
    });
}

#[test]
fn an_image_that_does_not_exist_is_named() {
    with_stack(Options::default(), async |stack| {
        // A registry on loopback that is not there: the pull fails at once, and nothing leaves this machine.
        let image = json!({ "executable": { "image": "127.0.0.1:9/no/such:image" } });
        let answer = fails(stack, "image", json!({}), image, "pull_failed").await?;
        ensure!(
            answer["message"].as_str().is_some_and(|message| message.contains("no/such:image")),
            "{answer}"
        );
        let command = json!({ "executable": { "entrypoint": ["/no-such-program"] } });
        let answer = fails(stack, "program", json!({}), command, "exited_before_ready").await?;
        ensure!(
            answer["message"].as_str().is_some_and(|message| message.contains("/no-such-program")),
            "{answer}"
        );
        Ok(())
    });
}

#[test]
fn a_non_root_image_runs_on_a_read_only_root_without_capabilities() {
    with_stack(Options::default(), async |stack| {
        let spawn = json!({ "max_idle_seconds": 1, "executable": { "read_only": true } });
        let answer = stack.connect(&stack.request("frozen", &json!({}), &spawn)).await?;
        let url = answer["url"].as_str().context("url")?;
        let identity: Value = stack.http.get(format!("{url}identity")).send().await?.json().await?;
        ensure!(identity["uid"] == 65534 && identity["can_write_root"] == false, "{identity}");
        let name = stack.containers().await?.remove(0);
        let inspected = stack.docker.inspect_container(name.trim_start_matches('/'), None).await?;
        let host = inspected.host_config.context("host config")?;
        ensure!(host.cap_drop == Some(vec!["ALL".to_owned()]) && host.cap_add.unwrap_or_default().is_empty());
        ensure!(
            host.security_opt
                .unwrap_or_default()
                .iter()
                .any(|option| option.starts_with("no-new-privileges"))
        );
        ensure!(
            host.pids_limit == Some(512) && host.memory == Some(512 << 20) && host.memory_swap == host.memory
        );
        ensure!(host.port_bindings.unwrap_or_default().is_empty() && host.init != Some(true));
        let log = host.log_config.and_then(|log| log.config).context("log config")?;
        ensure!(
            log.get("mode").map(String::as_str) == Some("non-blocking") && log.contains_key("max-size"),
            "{log:?}"
        );
        Ok(())
    });
}

#[test]
fn a_root_image_may_step_down_with_gosu() {
    with_stack(Options::default(), async |stack| {
        let gosu =
            std::fs::read("/usr/sbin/gosu").context("gosu is missing: scripts/setup --test installs it")?;
        let app = std::fs::read(crate::harness::processes::executable("jetway-test-app")?)?;
        let passwd = b"root:x:0:0::/:/bin/false\nguest:x:1234:1234::/:/bin/false\n";
        let group = b"root:x:0:\nguest:x:1234:\n";
        let files: [(&str, &[u8]); 4] =
            [("app", &app), ("gosu", &gosu), ("etc/passwd", passwd), ("etc/group", group)];
        let changes = [r#"ENTRYPOINT ["/gosu","guest","/app"]"#];
        let image = engine::image_of(&stack.docker, "gosu", &files, &changes).await?;
        let spawn = json!({ "max_idle_seconds": 1, "executable": { "image": image } });
        let answer = stack.connect(&stack.request("gosu", &json!({}), &spawn)).await?;
        let url = answer["url"].as_str().context("url")?;
        let identity: Value = stack.http.get(format!("{url}identity")).send().await?.json().await?;
        ensure!(identity["uid"] == 1234 && identity["gid"] == 1234, "{identity}");
        let backend = answer["backend_id"].as_str().context("id")?;
        stack.post(&format!("/ctrl/b/{backend}/soft-terminate"), &Value::Null).await?;
        let view = stack.ended(backend, SOON).await?;
        ensure!(view["exit_code"] == 0, "the signal reached the application: {view}");
        Ok(())
    });
}

#[test]
fn sessions_reach_neither_each_other_nor_the_host() {
    with_stack(Options::default(), async |stack| {
        let mut addresses = Vec::new();
        let mut urls = Vec::new();
        for key in ["left", "right"] {
            let answer =
                stack.connect(&stack.request(key, &json!({}), &json!({ "max_idle_seconds": 1 }))).await?;
            let url = answer["url"].as_str().context("url")?.to_owned();
            ensure!(stack.http.get(&url).send().await?.status() == 200);
            let backend = answer["backend_id"].as_str().context("id")?;
            let view = stack.get(&format!("/ctrl/backends/{backend}")).await?;
            addresses.push(view["address"].as_str().context("address")?.to_owned());
            urls.push(url);
        }
        let host: std::net::SocketAddr = addresses[0].parse()?;
        let std::net::IpAddr::V4(host) = host.ip() else { anyhow::bail!("IPv4") };
        // The gateway is the host's own address on the sessions' network; the controller here listens on loopback only,
        // so listen on every address for the time of the test.
        let listener = std::net::TcpListener::bind("0.0.0.0:0")?;
        let gateway = std::net::Ipv4Addr::from((u32::from(host) & 0xffff_c000) + 1);
        for to in [addresses[1].clone(), format!("{gateway}:{}", listener.local_addr()?.port())] {
            let answer: Value =
                stack.http.get(format!("{}reach?to={to}", urls[0])).send().await?.json().await?;
            ensure!(answer["reached"] == false, "{to} was reached from a session");
        }
        let own: Value =
            stack.http.get(format!("{}reach?to={}", urls[0], addresses[0])).send().await?.json().await?;
        ensure!(own["reached"] == true, "the probe itself works");
        Ok(())
    });
}
