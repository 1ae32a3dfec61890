//! A start on a drone by what was ready for it: from the PUT's arrival to init's line, to the application's start, to ready. As the
//! drone's own clock has it; what a controller and a proxy add is in the other figures.

use anyhow::Context;
use jetway_protocol::ids::BackendId;
use jetway_protocol::spec::{Executable, Hot};
use jetway_protocol::warm::SlotTier;
use jetway_testkit::eventually::SOON;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::harness::drone::Drone;
use crate::harness::{Stack, eventually};
use crate::{TURNS, median};

pub async fn starts(stack: &Stack) -> anyhow::Result<()> {
    let drone = Drone::of(stack).await?;
    let parked = Executable::of_image(&stack.image);
    let with_hot = json!({ "executable": { "hot": { "claim_path": "/claim", "claim_timeout_seconds": 5 } } });
    let mut hot = parked.clone();
    hot.hot = Some(Hot { claim_path: Some("/claim".to_owned()), claim_timeout_seconds: 5 });
    println!("\na start on the drone, ms from the PUT's arrival; medians of {TURNS}");
    for (tier, executable) in [
        (Some((SlotTier::Hot, with_hot)), hot),
        (Some((SlotTier::Parked, json!({}))), parked.clone()),
        (None, parked),
    ] {
        let (mut begun, mut executed, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        let mut note = String::new();
        stack.no_pools().await?;
        drone.has_ready(0).await?;
        if let Some((tier, spawn)) = &tier {
            stack.pool("figures", *tier, 1, spawn).await?;
        }
        for _ in 0..TURNS {
            drone.has_ready(u64::from(tier.is_some())).await?;
            let (id, before) = (BackendId::random(), claims(stack).await?);
            let view = drone.put(&id, executable.clone()).await?;
            let stage = |name: &str| -> anyhow::Result<(u64, u64)> {
                let stages = view["timeline"].as_array().context("timeline")?;
                let stage = stages.iter().find(|stage| stage["stage"] == name).context("stage")?;
                let start = stage["start"].as_u64().context("start")?;
                Ok((start, start + stage["length_us"].as_u64().context("length")?))
            };
            let (arrived, _) = stage("dispatched")?;
            let since = |at: u64| (at - arrived) as f64 / 1e3;
            begun.push(since(stage("claimed")?.0));
            executed.push(since(stage("claimed")?.1));
            ready.push(since(stage("ready")?.1));
            note = claimed(&view).unwrap_or_default();
            drone.delete(&id).await?;
            if tier.is_some() {
                // What a heartbeat from before the claim says is ready is gone.
                eventually("a heartbeat shows the claim", SOON, async || match claims(stack).await {
                    Ok(claims) if claims > before => Ok(()),
                    seen => Err(format!("{before} claims, and then {seen:?}")),
                })
                .await?;
            }
        }
        println!(
            "  {note:40} claim begun {:7.2}  application started {:7.2}  ready {:7.2}",
            median(&mut begun),
            median(&mut executed),
            median(&mut ready)
        );
    }
    stack.no_pools().await
}

/// Slots that served, as the drone's last heartbeat has it.
async fn claims(stack: &Stack) -> anyhow::Result<u64> {
    let mut connection = PgConnection::connect(&stack.database).await?;
    let kinds: Value =
        sqlx::query_scalar("select load->'warm'->'kinds' from drones").fetch_one(&mut connection).await?;
    Ok(kinds.as_array().into_iter().flatten().filter_map(|kind| kind["claimed"].as_u64()).sum())
}

fn claimed(view: &Value) -> Option<String> {
    let stages = view["timeline"].as_array()?;
    stages.iter().find(|stage| stage["stage"] == "claimed")?["note"].as_str().map(str::to_owned)
}
