//! `jetway connect KEY --image IMG`: the URL on stdout, what happened on stderr. What is asked for
//! is made in [`request`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jetway_api::connect::ConnectResponse;

use super::api::ApiArguments;
use super::output;

mod browser;
mod request;
mod size;
mod watch;

pub use request::environment;

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
    /// A JSON file with a spawn_config, or with a whole connect request; - reads it from standard
    /// input. Flags outrank it
    #[arg(long, short, value_name = "FILE", conflicts_with = "warm_pool")]
    file: Option<PathBuf>,
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
    /// Ready means a 2xx or 3xx to GET of this path, not just an open port
    #[arg(long, value_name = "PATH")]
    ready_path: Option<String>,
    /// Memory that it may use at most: 512m, 2g, or bytes
    #[arg(long, value_name = "SIZE", value_parser = size::bytes)]
    memory: Option<i64>,
    /// Keep /plane-data on the drone's host, in a directory named after the key, or in this one
    #[arg(long, value_name = "DIRECTORY", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    mount: Option<String>,
    /// When the image is pulled
    #[arg(long, value_parser = ["IfNotPresent", "Always", "Never"])]
    pull_policy: Option<String>,
    /// One URL for all who connect, that stays the same as long as the session runs
    #[arg(long)]
    static_token: bool,
    /// Another of its ports and the name that the URL asks for it by, as NAME=PORT; may be repeated
    #[arg(long = "named-port", value_name = "NAME=PORT")]
    ports: Vec<String>,
    /// An origin of its own: the session is reached under SUBDOMAIN.CLUSTER
    #[arg(long)]
    subdomain: Option<String>,
    /// An origin whose pages may open WebSockets, like https://app.example.com; may be repeated.
    /// Without it all may
    #[arg(long = "allowed-origin", value_name = "ORIGIN")]
    allowed_origins: Vec<String>,
    /// The URL of an unmodified application: the session is the root of a host of its own
    #[arg(long)]
    host: bool,
    /// Where a browser goes that may not enter, or whose session has ended
    #[arg(long, value_name = "URL", requires = "host")]
    return_url: Option<String>,
    /// The cluster to start it in
    #[arg(long)]
    cluster: Option<String>,
    /// The pool of drones to start it on
    #[arg(long)]
    pool: Option<String>,
    /// What becomes of it when its host is cut off for longer than the lease
    #[arg(long, value_parser = ["stop", "keep"])]
    on_isolation: Option<String>,
    /// Open the URL in this machine's browser
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    api: ApiArguments,
    /// The command to run instead of the image's, after --
    #[arg(last = true)]
    cmd: Vec<String>,
}

pub async fn run(arguments: ConnectArguments) -> anyhow::Result<ExitCode> {
    let request = request::of(&arguments)?;
    let api = &arguments.api;
    let asking = api.post::<ConnectResponse>("/ctrl/connect", &request);
    let answer = match arguments.wait {
        true => watch::hints(api, &request["key"], asking).await?,
        false => asking.await?,
    };
    let connected = &answer.known;
    if api.json {
        output::json(&answer.whole);
    } else {
        let spawned = if connected.spawned { "started" } else { "found" };
        eprintln!("{spawned} session {} ({})", connected.backend_id, connected.status);
        if let Some(hint) = connected.hint.as_ref().filter(|_| !arguments.wait) {
            eprintln!("hint: {}", output::shown(&hint.message));
        }
        output::line(&connected.url);
        for (host, url) in connected.urls.iter().flatten() {
            eprintln!("{}: {}", output::shown(host), output::shown(url));
        }
    }
    if arguments.open {
        browser::open(&connected.url)?;
    }
    Ok(ExitCode::SUCCESS)
}
