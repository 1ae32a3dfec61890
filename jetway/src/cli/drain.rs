//! `jetway drain DRONE`: no new sessions there; those that run go on, or until `--deadline-seconds`. `--undo` takes it back.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::api::{ApiArguments, encode};
use super::output;

#[derive(Debug, Args)]
pub struct DrainArguments {
    /// The drone's name
    drone: String,
    /// Stop what still runs there after so long; clients are told to come back, and find their session elsewhere
    #[arg(long, value_name = "SECONDS", conflicts_with = "undo")]
    deadline_seconds: Option<u32>,
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
    let body = arguments.deadline_seconds.map_or(Value::Null, |seconds| json!({"deadline_seconds": seconds}));
    let answer = api.post(&path, &body).await?;
    if api.json {
        output::json(&answer);
    } else {
        let now = match arguments.deadline_seconds {
            _ if arguments.undo => "takes new sessions".to_owned(),
            None => "takes no new sessions; those that run go on".to_owned(),
            Some(seconds) => {
                format!("takes no new sessions; those that still run in {seconds} s are stopped")
            }
        };
        let changed = if answer["updated"] == true { "" } else { " (as before)" };
        output::line(&format!("{} {now}{changed}", arguments.drone));
    }
    Ok(ExitCode::SUCCESS)
}
