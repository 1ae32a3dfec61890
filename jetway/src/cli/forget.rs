//! `jetway forget DRONE --confirmed-dead`: the drone's host is gone for good, so the keys of its sessions are free at once.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
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
    let drones = api.get("/ctrl/drones").await?;
    let named =
        drones["drones"].as_array().into_iter().flatten().find(|drone| drone["name"] == name.as_str());
    let Some(drone) = named else {
        bail!("no drone is called {name:?} (jetway status lists them)");
    };
    let cluster = drone["cluster"].as_str().unwrap_or_default();
    let path = format!("/ctrl/c/{}/d/{}/forget", encode(cluster), encode(name));
    let answer = api.post(&path, &json!({ "confirmed_dead": true })).await?;
    if api.json {
        output::json(&answer);
    } else {
        output::line(&format!("{name} counts as dead; the keys of its sessions are free"));
    }
    Ok(ExitCode::SUCCESS)
}
