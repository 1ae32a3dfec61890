//! What idle sessions cost: nothing but a liveness check of the engine, seen in the system calls themselves.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Options, Role, Session, with_stack};

/// Requests to the engine that an idle drone has no reason to make.
const ENGINE_WORK: [&str; 5] = ["/containers/", "/images/", "/networks/", "/exec/", "/events"];

#[test]
fn ten_idle_sessions_cause_no_engine_call_but_a_liveness_check() {
    // What is kept ready after sessions came is not what idle ones cost.
    let variables = [("JETWAY_SANDBOXES", "0"), ("JETWAY_WARM_LEARN", "false")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    with_stack(Options { variables, ..Options::default() }, async |stack| {
        let mut open = Vec::new();
        for turn in 0..10 {
            let request =
                stack.request(&format!("idle-{turn}"), &json!({}), &json!({ "max_idle_seconds": 60 }));
            let answer = stack.connect(&request).await?;
            let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
            session.echo("then silence").await?;
            open.push(session);
        }
        let drone = trace(stack.pid(Role::Drone));
        let proxy = trace(stack.pid(Role::Proxy));
        let (drone, proxy) = tokio::try_join!(drone, proxy)?;
        for (who, calls) in [("drone", &drone), ("proxy", &proxy)] {
            let work: Vec<_> =
                calls.lines().filter(|line| ENGINE_WORK.iter().any(|work| line.contains(work))).collect();
            ensure!(work.is_empty(), "{who}: {work:?}");
        }
        let connects = drone.lines().filter(|line| line.contains("docker.sock")).count();
        // The drone asks whether the engine lives, and the event stream's keeper does.
        ensure!(connects <= 2, "the drone called the engine {connects} times in five seconds:\n{drone}");
        ensure!(!proxy.contains("docker.sock"), "the proxy has no business with the engine");
        ensure!(drone.contains("epoll") || drone.lines().count() > 3, "strace saw nothing at all:\n{drone}");
        Ok(())
    });
}

/// Five seconds of the calls by which a process can ask anybody for anything.
async fn trace(pid: u32) -> anyhow::Result<String> {
    let mut command = Command::new("timeout");
    command
        .args(["--signal=INT", "5", "strace", "-f", "-qq", "-s", "120", "-e"])
        .arg("trace=connect,write,writev,sendto,sendmsg,epoll_wait,epoll_pwait,epoll_pwait2")
        .args(["-p", &pid.to_string()]);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await?.context("strace is installed")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!text.contains("ptrace") || !text.contains("not permitted"), "strace may not look: {text}");
    Ok(text)
}
