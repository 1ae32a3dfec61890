//! Slots that are kept ready, on the real thing: a claim's session is as good as one that started cold, and much sooner there.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use jetway_protocol::ids::BackendId;
use jetway_protocol::spec::{Executable, Hot};
use jetway_protocol::warm::SlotTier;
use jetway_testkit::eventually::SOON;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::harness::drone::Drone;
use crate::harness::{Options, Role, Stack, eventually, with_stack};

fn claimed(view: &Value) -> anyhow::Result<&str> {
    let stages = view["timeline"].as_array().context("timeline")?;
    let claimed = stages.iter().find(|stage| stage["stage"] == "claimed").context("claimed")?;
    claimed["note"].as_str().context("note")
}

/// What a container is made of, without what names it.
async fn made_of(stack: &Stack, name: &str) -> anyhow::Result<Value> {
    let inspected = stack.docker.inspect_container(name.trim_start_matches('/'), None).await?;
    let mut host = serde_json::to_value(inspected.host_config.context("host config")?)?;
    let mut config = serde_json::to_value(inspected.config.context("config")?)?;
    for name in ["Mounts", "Binds", "NetworkMode"] {
        host[name] = Value::Null;
    }
    for name in ["Labels", "Hostname"] {
        config[name] = Value::Null;
    }
    let mut mounts: Vec<_> = serde_json::to_value(inspected.mounts)?
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| (mount["Destination"].to_string(), mount["RW"].to_string(), mount["Type"].to_string()))
        .collect();
    mounts.sort();
    Ok(json!({ "host": host, "config": config, "mounts": mounts }))
}

#[test]
fn a_parked_slot_serves_any_key_with_an_environment_of_its_own() {
    with_stack(Options::default().with(Role::Drone, &["--sandboxes", "0"]), async |stack| {
        let drone = Drone::of(stack).await?;
        let cold = stack.connect(&stack.request("cold", &json!({ "COLOUR": "grey" }), &json!({}))).await?;
        let url = cold["url"].as_str().context("url")?;
        ensure!(stack.http.get(url).send().await?.text().await? == "hello");
        let of_cold = stack.containers().await?.remove(0);

        stack.pool("parked", SlotTier::Parked, 2, &json!({})).await?;
        drone.has_ready(2).await?;
        let mut firsts = Vec::new();
        for (key, colour) in [("one", "red"), ("two", "blue")] {
            let start = Instant::now();
            let request = stack.request(key, &json!({ "COLOUR": colour }), &json!({}));
            let answer = stack.connect(&request).await?;
            let url = answer["url"].as_str().context("url")?;
            ensure!(stack.http.get(url).send().await?.text().await? == "hello");
            firsts.push(start.elapsed().as_secs_f64() * 1e3);
            let env: BTreeMap<String, String> =
                stack.http.get(format!("{url}env")).send().await?.json().await?;
            ensure!(env["COLOUR"] == colour && env["SESSION_BACKEND_KEY"] == key, "{env:?}");
            let backend = answer["backend_id"].as_str().context("id")?;
            let view = stack.get(&format!("/ctrl/backends/{backend}")).await?;
            ensure!(claimed(&view)? == "parked", "{view}");
        }
        println!("figure: connect to first byte on a parked slot: {firsts:.1?} ms");
        drone.has_ready(2).await?;
        stack.no_pools().await?;
        eventually("unused slots go", SOON, async || {
            let left = stack.containers().await.map_err(|error| error.to_string())?;
            if left.len() == 3 { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await?;
        let expect = made_of(stack, &of_cold).await?;
        for name in stack.containers().await? {
            let found = made_of(stack, &name).await?;
            ensure!(found == expect, "{name} is made of\n{found}\nand not of\n{expect}");
        }
        Ok(())
    });
}

#[test]
fn a_container_that_starts_in_a_namespace_made_ahead_serves_as_well() {
    with_stack(Options::default().with(Role::Drone, &["--sandboxes", "1"]), async |stack| {
        let mut connection = PgConnection::connect(&stack.database).await?;
        eventually("a sandbox is ready", SOON, async || {
            let asked = sqlx::query_scalar("select load->'warm'->'sandboxes_ready' from drones");
            let ready: Value = asked.fetch_one(&mut connection).await.map_err(|error| error.to_string())?;
            if ready == json!(1) { Ok(()) } else { Err(ready.to_string()) }
        })
        .await?;
        let answer = stack.connect(&stack.request("joined", &json!({ "COLOUR": "red" }), &json!({}))).await?;
        let url = answer["url"].as_str().context("url")?;
        let env: BTreeMap<String, String> = stack.http.get(format!("{url}env")).send().await?.json().await?;
        ensure!(env["COLOUR"] == "red", "{env:?}");
        let backend = answer["backend_id"].as_str().context("id")?;
        let view = stack.get(&format!("/ctrl/backends/{backend}")).await?;
        ensure!(claimed(&view)? == "sandbox: no slot was ready", "{view}");
        Ok(())
    });
}

/// Straight to the drone: which keys there are is not asked here.
#[test]
fn a_hot_application_is_told_of_its_session() {
    with_stack(Options::default().with(Role::Drone, &["--sandboxes", "0"]), async |stack| {
        let drone = Drone::of(stack).await?;
        let mut executable = Executable::of_image(&stack.image);
        executable.hot = Some(Hot { claim_path: Some("/claim".to_owned()), claim_timeout_seconds: 5 });
        let hot = json!({ "executable": { "hot": { "claim_path": "/claim", "claim_timeout_seconds": 5 } } });
        stack.pool("hot", SlotTier::Hot, 1, &hot).await?;
        drone.has_ready(1).await?;
        executable.env.insert("COLOUR".to_owned(), "red".to_owned());
        let id = BackendId::random();
        let start = Instant::now();
        let view = drone.put(&id, executable).await?;
        println!("figure: PUT to ready on a hot slot: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        ensure!(claimed(&view)? == "hot", "{view}");
        let address = view["address"].as_str().context("address")?;
        let told: Value = stack.http.get(format!("http://{address}/claimed")).send().await?.json().await?;
        ensure!(told["backend_id"] == id.to_string() && told["env"]["COLOUR"] == "red", "{told}");
        let env: BTreeMap<String, String> =
            stack.http.get(format!("http://{address}/env")).send().await?.json().await?;
        ensure!(env["PORT"] == "8080" && !env.contains_key("COLOUR"), "{env:?}");
        stack.no_pools().await?;
        drone.delete(&id).await?;
        stack.no_containers(SOON).await
    });
}

#[test]
fn what_is_asked_for_again_is_kept_ready_without_being_declared() {
    let mut options = Options::default();
    options.variables.push(("JETWAY_WARM_LEARN".to_owned(), "true".to_owned()));
    with_stack(options, async |stack| {
        let learned = async |what: &str, is_so: fn(&Value) -> bool| {
            eventually(what, SOON, async || {
                let learned =
                    stack.get("/ctrl/pools").await.map_err(|error| error.to_string())?["learned"].take();
                if is_so(&learned[0]) { Ok(()) } else { Err(learned.to_string()) }
            })
            .await
        };
        stack.connect(&stack.request("one", &json!({}), &json!({}))).await?;
        learned("once is noted, and once is chance", |kind| kind["missed"] == 1 && kind["slots"] == 0)
            .await?;
        stack.connect(&stack.request("two", &json!({}), &json!({}))).await?;
        learned("a slot is ready", |kind| kind["ready"].as_u64() > Some(0)).await?;
        let request = stack.request("three", &json!({ "COLOUR": "red" }), &json!({}));
        let answer = stack.connect(&request).await?;
        let url = answer["url"].as_str().context("url")?;
        let env: BTreeMap<String, String> = stack.http.get(format!("{url}env")).send().await?.json().await?;
        ensure!(env["COLOUR"] == "red" && env["SESSION_BACKEND_KEY"] == "three", "{env:?}");
        let view =
            stack.get(&format!("/ctrl/backends/{}", answer["backend_id"].as_str().context("id")?)).await?;
        ensure!(claimed(&view)? == "parked", "{view}");
        Ok(())
    });
}
