//! `jetway drain DRONE`: no new sessions there; those that run go on, or until `--deadline-seconds`. `--undo` takes it back.

use std::process::ExitCode;

use clap::Args;
use jetway_api::drones::Updated;
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
    let drone = api.drone(&arguments.drone).await?;
    let verb = if arguments.undo { "undrain" } else { "drain" };
    let path = format!("/ctrl/c/{}/d/{}/{verb}", encode(drone.cluster.as_str()), encode(&arguments.drone));
    let body = arguments.deadline_seconds.map_or(Value::Null, |seconds| json!({"deadline_seconds": seconds}));
    let answer = api.post::<Updated>(&path, &body).await?;
    if api.json {
        output::json(&answer.whole);
    } else {
        let now = match arguments.deadline_seconds {
            _ if arguments.undo => "takes new sessions".to_owned(),
            None => "takes no new sessions; those that run go on".to_owned(),
            Some(seconds) => {
                format!("takes no new sessions; those that still run in {seconds} s are stopped")
            }
        };
        let changed = if answer.known.updated { "" } else { " (as before)" };
        output::line(&format!("{} {now}{changed}", arguments.drone));
    }
    Ok(ExitCode::SUCCESS)
}
