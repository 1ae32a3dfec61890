//! `jetway drain DRONE`: no new sessions there; those that run go on. `--undo` takes it back.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::api::{ApiArguments, encode};
use super::output;

#[derive(Debug, Args)]
pub struct DrainArguments {
    /// The drone's name
    drone: String,
    /// Let it take new sessions again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: DrainArguments) -> anyhow::Result<ExitCode> {
    let api = &arguments.api;
    let drones = api.get("/ctrl/drones").await?;
    let named = drones["drones"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|drone| drone["name"] == arguments.drone.as_str());
    let Some(drone) = named else {
        anyhow::bail!("no drone is called {:?} (jetway status lists them)", arguments.drone);
    };
    let cluster = drone["cluster"].as_str().unwrap_or_default();
    let verb = if arguments.undo { "undrain" } else { "drain" };
    let path = format!("/ctrl/c/{}/d/{}/{verb}", encode(cluster), encode(&arguments.drone));
    let answer = api.post(&path, &Value::Null).await?;
    if api.json {
        output::json(&answer);
    } else {
        let now =
            if arguments.undo { "takes new sessions" } else { "takes no new sessions; those that run go on" };
        let changed = if answer["updated"] == true { "" } else { " (as before)" };
        output::line(&format!("{} {now}{changed}", arguments.drone));
    }
    Ok(ExitCode::SUCCESS)
}
