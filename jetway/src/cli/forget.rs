//! `jetway forget DRONE --confirmed-dead`: the drone's host is gone for good, so the keys of its sessions are free at once.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use jetway_api::drones::Forgotten;
use serde_json::json;

use super::api::{ApiArguments, encode};
use super::output;

#[derive(Debug, Args)]
pub struct ForgetArguments {
    /// The drone's name
    drone: String,
    /// None of its containers runs any more: the host is powered off, or you have looked
    #[arg(long)]
    confirmed_dead: bool,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: ForgetArguments) -> anyhow::Result<ExitCode> {
    let (api, name) = (&arguments.api, &arguments.drone);
    if !arguments.confirmed_dead {
        bail!(
            "this gives the keys of every session of {name} away at once, so none of its containers may run: power its host \
             off, and say --confirmed-dead"
        );
    }
    let drone = api.drone(name).await?;
    let path = format!("/ctrl/c/{}/d/{}/forget", encode(drone.cluster.as_str()), encode(name));
    let answer = api.post::<Forgotten>(&path, &json!({ "confirmed_dead": true })).await?;
    if api.json {
        output::json(&answer.whole);
    } else {
        output::line(&format!("{name} counts as dead; the keys of its sessions are free"));
    }
    Ok(ExitCode::SUCCESS)
}
