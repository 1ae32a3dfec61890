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
    /// Seconds to wait for that, at most
    #[arg(long, requires = "wait")]
    wait_timeout_seconds: Option<u32>,
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
    /// Another of its ports and the name that the URL asks for it by, as NAME=PORT; may be repeated
    #[arg(long = "named-port", value_name = "NAME=PORT")]
    ports: Vec<String>,
    /// An origin of its own: the session is reached under SUBDOMAIN.CLUSTER
    #[arg(long)]
    subdomain: Option<String>,
    /// An origin whose pages may open WebSockets, like https://app.example.com; may be repeated. Without it all may
    #[arg(long = "allowed-origin", value_name = "ORIGIN")]
    allowed_origins: Vec<String>,
    /// The cluster to start it in
    #[arg(long)]
    cluster: Option<String>,
    /// The pool of drones to start it on
    #[arg(long)]
    pool: Option<String>,
    /// What becomes of it when its host is cut off for longer than the lease
    #[arg(long, value_parser = ["stop", "keep"])]
    on_isolation: Option<String>,
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
        request["spawn_config"] = spawn_config(arguments, image)?;
    } else if says_what_to_run(arguments) {
        bail!(
            "what a session is started with needs --image: without it only a running session is looked for"
        );
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
    if !arguments.allowed_origins.is_empty() {
        request["allowed_origins"] = json!(arguments.allowed_origins);
    }
    if arguments.wait {
        request["wait"] = json!("ready");
        request["wait_timeout_seconds"] = json!(arguments.wait_timeout_seconds);
    }
    Ok(request)
}

fn says_what_to_run(arguments: &ConnectArguments) -> bool {
    let ConnectArguments { env, cmd, port, ports, subdomain, cluster, pool, on_isolation, .. } = arguments;
    let has_words = [env, cmd, ports].into_iter().any(|words| !words.is_empty());
    let has_word = [subdomain, cluster, pool, on_isolation].into_iter().any(Option::is_some);
    has_words || has_word || port.is_some()
}

fn spawn_config(arguments: &ConnectArguments, image: &str) -> anyhow::Result<Value> {
    let mut executable = json!({ "image": image, "env": environment(&arguments.env)? });
    if let Some(port) = arguments.port {
        executable["port"] = json!(port);
    }
    if !arguments.ports.is_empty() {
        executable["ports"] = Value::Object(named_ports(&arguments.ports)?);
    }
    if !arguments.cmd.is_empty() {
        executable["cmd"] = json!(arguments.cmd);
    }
    let mut config = json!({
        "executable": executable,
        "max_idle_seconds": arguments.max_idle_seconds,
        "lifetime_limit_seconds": arguments.lifetime_limit_seconds,
    });
    let ConnectArguments { subdomain, cluster, pool, on_isolation, .. } = arguments;
    let words =
        [("subdomain", subdomain), ("cluster", cluster), ("pool", pool), ("on_isolation", on_isolation)];
    for (name, word) in words {
        if let Some(word) = word {
            config[name] = json!(word);
        }
    }
    Ok(config)
}

fn named_ports(pairs: &[String]) -> anyhow::Result<Map<String, Value>> {
    let port = |pair: &String| {
        let (name, port) = pair.split_once('=')?;
        Some((name.to_owned(), json!(port.parse::<u16>().ok()?)))
    };
    let port = |pair| port(pair).with_context(|| format!("--named-port {pair:?} must be NAME=PORT"));
    pairs.iter().map(port).collect()
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connect: ConnectArguments,
    }

    fn said(words: &[&str]) -> anyhow::Result<Value> {
        let words = ["connect", "k"].iter().chain(words);
        request(&Line::try_parse_from(words)?.connect)
    }

    #[test]
    fn every_flag_is_a_field_of_the_request() {
        let request = said(&[
            "--image",
            "i",
            "--port",
            "80",
            "--named-port",
            "debug=9229",
            "--subdomain",
            "s",
            "--cluster",
            "c",
            "--pool",
            "p",
            "--on-isolation",
            "keep",
            "--allowed-origin",
            "https://a",
            "--allowed-origin",
            "null",
            "--wait",
            "--wait-timeout-seconds",
            "9",
            "--",
            "run",
            "it",
        ])
        .unwrap();
        let config = &request["spawn_config"];
        assert_eq!(config["executable"]["ports"], json!({ "debug": 9229 }));
        assert_eq!(config["executable"]["cmd"], json!(["run", "it"]));
        for (name, word) in [("subdomain", "s"), ("cluster", "c"), ("pool", "p"), ("on_isolation", "keep")] {
            assert_eq!(config[name], word);
        }
        assert_eq!(request["allowed_origins"], json!(["https://a", "null"]));
        assert_eq!((&request["wait"], &request["wait_timeout_seconds"]), (&json!("ready"), &json!(9)));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for words in [
            &["--subdomain", "s"][..],
            &["--named-port", "a=1"],
            &["--image", "i", "--named-port", "a=x"],
            &["--image", "i", "--on-isolation", "perhaps"],
            &["--wait-timeout-seconds", "3"],
        ] {
            assert!(said(words).is_err(), "{words:?}");
        }
        assert_eq!(said(&[]).unwrap()["spawn_config"], Value::Null);
    }
}
