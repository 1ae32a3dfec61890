//! The figures of a connect: stage by stage through Jetway, beside bare Docker in turn; last close to stop signal;
//! statements a connect. `make figures` runs it by hand; it is no test and asserts only that it measured something.

#[path = "../system/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the harness serves the tests; the figures need half of it")]
mod harness;

mod bare;
mod statements;
mod warm;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use harness::{Options, Session, Stack, eventually, with_stack};

/// Turns of each measurement; the figures are medians.
const TURNS: usize = 20;
const SOON: Duration = Duration::from_secs(20);
/// Stages that Jetway owns; the others are the engine's and the application's.
const OWN: [&str; 4] = ["asked", "placed", "dispatched", "claimed"];

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    with_stack(Options::default(), async |stack| {
        starts(stack).await?;
        ends(stack).await?;
        warm::starts(stack).await?;
        statements::count(stack).await
    });
}

async fn starts(stack: &Stack) -> anyhow::Result<()> {
    let (mut whole, mut bare, mut own) = (Vec::new(), Vec::new(), Vec::new());
    let mut stages: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for turn in 0..TURNS {
        bare.push(bare::first_byte(&stack.docker, &stack.image).await?);
        let start = Instant::now();
        let answer = stack.connect(&stack.request(&format!("start-{turn}"), &json!({}), &json!({}))).await?;
        let url = answer["url"].as_str().context("url")?;
        ensure!(stack.http.get(url).send().await?.text().await? == "hello");
        whole.push(start.elapsed().as_secs_f64() * 1e3);
        let backend = answer["backend_id"].as_str().context("id")?;
        let view = eventually("the first byte is in the timeline", SOON, async || {
            let view =
                stack.get(&format!("/ctrl/backends/{backend}")).await.map_err(|error| error.to_string())?;
            let has = view["timeline"]
                .as_array()
                .is_some_and(|stages| stages.iter().any(|s| s["stage"] == "first_byte"));
            if has { Ok(view) } else { Err(view.to_string()) }
        })
        .await?;
        let mut sum = 0.0;
        for stage in view["timeline"].as_array().into_iter().flatten() {
            let (name, length) =
                (stage["stage"].as_str().unwrap_or("?"), stage["length_ms"].as_f64().unwrap_or(0.0));
            stages.entry(name.to_owned()).or_default().push(length);
            if OWN.contains(&name) {
                sum += length;
            }
        }
        own.push(sum);
        stop(stack, backend).await?;
    }
    println!("connect to first byte, new key, image present; medians of {TURNS}");
    println!("  through Jetway   {:8.1} ms", median(&mut whole));
    println!("  bare Docker      {:8.1} ms", median(&mut bare));
    for (name, lengths) in &mut stages {
        println!("    {name:<14} {:8.2} ms", median(lengths));
    }
    println!("  Jetway's own stages ({}) {:.2} ms", OWN.join(" + "), median(&mut own));
    Ok(())
}

async fn stop(stack: &Stack, backend: &str) -> anyhow::Result<()> {
    stack.post(&format!("/ctrl/b/{backend}/hard-terminate"), &Value::Null).await?;
    stack.ended(backend, SOON).await.map(|_| ())
}

/// Last close to stop signal, on the application's clock and from outside.
async fn ends(stack: &Stack) -> anyhow::Result<()> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let spawn = json!({ "max_idle_seconds": 0, "stop_grace_seconds": 5 });
        let request = stack.request(&format!("end-{turn}"), &json!({ "MODE": "deaf" }), &spawn);
        let answer = stack.connect(&request).await?;
        let backend = answer["backend_id"].as_str().context("id")?;
        let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
        session.echo("x").await?;
        let mut log =
            stack.http.get(format!("{}/ctrl/backends/{backend}/logs?follow=true", stack.api)).send().await?;
        let closed = Instant::now();
        session.close().await?;
        let mut text = String::new();
        while !text.contains("SIGTERM") || !text.ends_with('\n') {
            let chunk = tokio::time::timeout(SOON, log.chunk()).await.context("the signal in time")??;
            text.push_str(std::str::from_utf8(&chunk.context("the log goes on")?)?);
        }
        outside.push(closed.elapsed().as_secs_f64() * 1e3);
        let line = text.lines().find(|line| line.contains("SIGTERM")).context("the line")?;
        let said: Value = serde_json::from_str(line)?;
        inside.push(said["since_last_close_us"].as_f64().context("a length")? / 1e3);
        stop(stack, backend).await?;
    }
    println!("last close to stop signal, idle 0; medians of {TURNS}");
    println!("  on the application's clock        {:8.2} ms", median(&mut inside));
    println!("  from outside, by the followed log {:8.2} ms", median(&mut outside));
    Ok(())
}
