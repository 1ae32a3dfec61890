//! An application that listens on a wrong port, as a newcomer's does: within two seconds everything
//! that waits for it says so. `JETWAY_TEST_SCREENSHOTS=DIRECTORY` keeps a picture of the page.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::processes::executable;
use crate::harness::{Options, Stack, eventually, with_stack};

const SOON: Duration = Duration::from_secs(20);
/// From the application's start to the word that it listens elsewhere.
const TOLD_MAX_MS: f64 = 2000.0;

/// Milliseconds from `waiting`, when the application was executed, to now.
async fn since_its_start(stack: &Stack, id: &str) -> anyhow::Result<f64> {
    let backend = stack.get(&format!("/ctrl/backends/{id}")).await?;
    let history = backend["history"].as_array().context("history")?;
    let waiting = history.iter().find(|entry| entry["status"] == "waiting").context("waiting")?;
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs_f64() * 1000.0;
    Ok(now - waiting["time"].as_f64().context("time")?)
}

async fn told(stack: &Stack, id: &str, by: &str) -> anyhow::Result<()> {
    let took = since_its_start(stack, id).await?;
    println!("figure: a wrong port is named {took:.0} ms after the application's start by {by}");
    ensure!(took < TOLD_MAX_MS, "{by}: {took} ms");
    Ok(())
}

fn is_right(hint: &Value) -> bool {
    let message = hint["message"].as_str().unwrap_or_default();
    hint["code"] == "listens_elsewhere"
        && ["0.0.0.0:3000", "on 0.0.0.0:8080", "\"port\": 3000"].iter().all(|part| message.contains(part))
}

#[test]
fn a_wrong_port_is_named_within_two_seconds_everywhere() {
    with_stack(Options::default(), async |stack| {
        let wrong = json!({ "LISTEN_PORT": "3000" });
        let mut browser = Browser::start(&stack.directory).await?;
        let answer = stack.connect(&stack.request("page", &wrong, &json!({}))).await?;
        let text = |name: &str| answer[name].as_str().map(str::to_owned).context(name.to_owned());
        let (id, url) = (text("backend_id")?, text("url")?);
        let window = browser.open(&url).await?;
        browser.until(&window, "!document.querySelector('#hint').hidden").await?;
        told(stack, &id, "the page").await?;
        let shown = browser.evaluate(&window, "document.querySelector('#hint').innerText").await?;
        ensure!(shown.as_str().is_some_and(|shown| shown.contains("\"port\": 3000")), "{shown}");
        if let Some(directory) = std::env::var_os("JETWAY_TEST_SCREENSHOTS") {
            let picture = browser.screenshot(&window).await?;
            std::fs::write(std::path::Path::new(&directory).join("hint.png"), picture)?;
        }
        browser.end().await?;

        let answer = stack.connect(&stack.request("api", &wrong, &json!({}))).await?;
        let id = answer["backend_id"].as_str().context("id")?.to_owned();
        eventually("the status has it", SOON, async || {
            let status = stack.status(&id).await?;
            ensure!(status["hint"].is_object(), "{status}");
            anyhow::Ok(())
        })
        .await?;
        told(stack, &id, "the status").await?;
        ensure!(is_right(&stack.status(&id).await?["hint"]));
        ensure!(is_right(&stack.get(&format!("/ctrl/backends/{id}")).await?["hint"]));
        let mut waits = stack.request("api", &wrong, &json!({}));
        waits["wait"] = json!("ready");
        waits["wait_timeout_seconds"] = json!(1);
        let answer = stack.connect(&waits).await?;
        ensure!(answer["status"] == "waiting" && is_right(&answer["hint"]), "{answer}");
        Ok(())
    });
}

#[test]
fn a_command_that_waits_says_at_once_what_is_wrong() {
    with_stack(Options::default(), async |stack| {
        let mut command = Command::new(executable("jetway")?);
        command.args(["connect", "desk", "--image", &stack.image, "--env", "LISTEN_PORT=3000", "--wait"]);
        command.env("JETWAY_API_URL", &stack.api).stderr(Stdio::piped()).stdout(Stdio::null());
        let begun = Instant::now();
        let mut waiting = command.spawn()?;
        let lines = BufReader::new(waiting.stderr.take().context("stderr")?).lines();
        let hint = tokio::task::spawn_blocking(move || lines.map_while(Result::ok).next());
        let hint = tokio::time::timeout(SOON, hint).await??.context("a line")?;
        let list = stack.get("/ctrl/backends?key=desk").await?;
        let id = list["backends"][0]["backend_id"].as_str().context("id")?.to_owned();
        told(stack, &id, "jetway connect --wait").await?;
        println!("figure: that is {} ms after the command's start", begun.elapsed().as_millis());
        ensure!(hint.starts_with("hint: ") && hint.contains("\"port\": 3000"), "{hint}");
        waiting.kill()?;
        waiting.wait()?;

        let output =
            Command::new(executable("jetway")?).args(["status", "desk", "--api-url", &stack.api]).output()?;
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(status.contains("\nhint         the application listens on 0.0.0.0:3000"), "{status}");
        Ok(())
    });
}
