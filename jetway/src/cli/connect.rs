//! `jetway connect KEY --image IMG`: the URL on stdout, what happened on stderr.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::api::ApiArguments;
use super::output;

#[derive(Debug, Args)]
pub struct ConnectArguments {
    /// The session's key: a document, a notebook, a room
    key: String,
    /// The image to run if no session of this key runs
    #[arg(long)]
    image: Option<String>,
    /// The warm pool that says what to run, in the place of --image
    #[arg(long, conflicts_with = "image")]
    warm_pool: Option<String>,
    /// An environment variable of the application, as NAME=VALUE; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Wait until the session is ready
    #[arg(long)]
    wait: bool,
    /// The key's namespace
    #[arg(long, default_value = "")]
    namespace: String,
    /// The key's tag
    #[arg(long, default_value = "")]
    tag: String,
    /// Who connects; the application sees it as x-verified-username
    #[arg(long)]
    user: Option<String>,
    /// What the application is told of the user: a JSON object
    #[arg(long)]
    auth: Option<String>,
    /// Seconds from the last close to the stop; without it a session has no idle end
    #[arg(long)]
    max_idle_seconds: Option<u32>,
    /// Seconds that the session may run at most
    #[arg(long)]
    lifetime_limit_seconds: Option<u32>,
    /// The port that the application listens on
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    api: ApiArguments,
    /// The command to run instead of the image's, after --
    #[arg(last = true)]
    cmd: Vec<String>,
}

pub async fn run(arguments: ConnectArguments) -> anyhow::Result<ExitCode> {
    let answer = arguments.api.post("/ctrl/connect", &request(&arguments)?).await?;
    if arguments.api.json {
        output::json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let spawned = if answer["spawned"] == true { "started" } else { "found" };
    let text = |name: &str| answer[name].as_str().unwrap_or("?").to_owned();
    eprintln!("{spawned} session {} ({})", text("backend_id"), text("status"));
    output::line(&text("url"));
    Ok(ExitCode::SUCCESS)
}

fn request(arguments: &ConnectArguments) -> anyhow::Result<Value> {
    let mut request = json!({
        "key": { "name": arguments.key, "namespace": arguments.namespace, "tag": arguments.tag },
    });
    if let Some(image) = &arguments.image {
        let mut executable = json!({ "image": image, "env": environment(&arguments.env)? });
        if let Some(port) = arguments.port {
            executable["port"] = json!(port);
        }
        if !arguments.cmd.is_empty() {
            executable["cmd"] = json!(arguments.cmd);
        }
        request["spawn_config"] = json!({
            "executable": executable,
            "max_idle_seconds": arguments.max_idle_seconds,
            "lifetime_limit_seconds": arguments.lifetime_limit_seconds,
        });
    } else if !arguments.env.is_empty() || !arguments.cmd.is_empty() {
        bail!("--env and a command need --image: without it only a running session is looked for");
    }
    if let Some(pool) = &arguments.warm_pool {
        request["warm_pool"] = json!(pool);
    }
    if let Some(user) = &arguments.user {
        request["user"] = json!(user);
    }
    if let Some(auth) = &arguments.auth {
        request["auth"] = serde_json::from_str(auth).context("--auth must be a JSON object")?;
    }
    if arguments.wait {
        request["wait"] = json!("ready");
    }
    Ok(request)
}

pub fn environment(pairs: &[String]) -> anyhow::Result<Map<String, Value>> {
    pairs
        .iter()
        .map(|pair| {
            let (name, value) =
                pair.split_once('=').with_context(|| format!("--env {pair:?} must be NAME=VALUE"))?;
            Ok((name.to_owned(), json!(value)))
        })
        .collect()
}
