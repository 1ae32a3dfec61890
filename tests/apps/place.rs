//! Where an application is: in a session of a whole `jetway dev`, in one of the forms of its URL, or in a container without
//! Jetway, which tells whose fault a failed walk is.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::dev::Dev;
use crate::harness::eventually;
use crate::walk::{Form, Walk};
use crate::webapp::{WebApp, with_path};

/// From a connect to a process that listens, on a busy machine, and from its signal to its end.
const START_SECONDS: u32 = 120;
const END: Duration = Duration::from_secs(60);
const LISTENS: Duration = Duration::from_secs(60);

pub enum Place<'a> {
    Session(Session<'a>),
    Container(Container),
}

pub struct Session<'a> {
    pub dev: &'a Dev,
    pub webapp: &'a WebApp,
    pub form: Form,
    request: Value,
    at: String,
}

/// A person's way in.
pub struct Way {
    pub url: String,
    pub backend: Option<String>,
    /// Nothing of this may be seen where the application or a reader of the screen could.
    pub secrets: Vec<String>,
}

impl<'a> Session<'a> {
    pub fn of(walk: &Walk, form: Form, dev: &'a Dev, webapp: &'a WebApp) -> anyhow::Result<Self> {
        let executable = json!({
            "image": format!("jetway-app-{}:latest", walk.name),
            "resource_limits": { "memory_limit_bytes": walk.memory_mebibytes << 20 },
        });
        let mut request = json!({
            "key": { "name": walk.name },
            "spawn_config": {
                "executable": executable,
                "max_idle_seconds": walk.idle_seconds,
                "linger_seconds": 2,
                "start_timeout_seconds": START_SECONDS,
            },
        });
        let spawn = &mut request["spawn_config"];
        if walk.mount {
            spawn["executable"]["mount"] = json!(true);
        }
        match form {
            Form::Host => {
                request["url_form"] = json!("host");
                request["return_url"] = json!(webapp.return_url());
            }
            Form::Path => {}
            Form::StaticToken => spawn["use_static_token"] = json!(true),
        }
        let at = if form == Form::Host { walk.at.clone() } else { String::new() };
        webapp.connects_with(&request);
        Ok(Self { dev, webapp, form, request, at })
    }

    /// Pages of the web app may hold it in frames.
    pub fn framed(mut self) -> Self {
        self.request["allowed_origins"] = json!([self.webapp.origin()]);
        self.webapp.connects_with(&self.request);
        self
    }

    pub async fn connect(&self, user: &str) -> anyhow::Result<Way> {
        let mut request = self.request.clone();
        if self.form != Form::StaticToken {
            request["user"] = json!(user);
        }
        request["wait"] = json!("ready");
        request["wait_timeout_seconds"] = json!(START_SECONDS);
        let answer = self.dev.connect(&request).await?;
        ensure!(answer["status"] == "ready", "{answer}");
        let text = |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| answer.to_string());
        let (url, mut secrets) = (text("url")?, Vec::new());
        if self.form == Form::Host {
            let query = reqwest::Url::parse(&url)?;
            let token = query.query_pairs().find(|(name, _)| name == "token");
            secrets = vec![text("token")?, token.context("a token in the URL")?.1.into_owned()];
        }
        let path = if self.at == "/" { "" } else { &self.at };
        Ok(Way { url: with_path(&url, path), backend: Some(text("backend_id")?), secrets })
    }

    /// With a static token all people are one.
    pub fn tells_names(&self) -> bool {
        self.form != Form::StaticToken
    }

    pub async fn until_ended(&self, backend: &str) -> anyhow::Result<()> {
        let url = format!("{}/pub/b/{backend}/status", self.dev.api);
        eventually("the session ends", END, async || {
            let status: Value =
                reqwest::get(&url).await.map_err(|error| error.to_string())?.json().await.unwrap_or_default();
            if status["status"] == "terminated" { Ok(()) } else { Err(status.to_string()) }
        })
        .await
    }
}

impl Place<'_> {
    pub fn session(&self) -> Option<&Session<'_>> {
        match self {
            Self::Session(session) => Some(session),
            Self::Container(_) => None,
        }
    }

    pub async fn way(&self, user: &str) -> anyhow::Result<Way> {
        match self {
            Self::Session(session) => session.connect(user).await,
            Self::Container(container) => {
                Ok(Way { url: container.url.clone(), backend: None, secrets: Vec::new() })
            }
        }
    }

    /// A shell's command in the application's container.
    pub async fn inside(&self, backend: Option<&str>, command: &str) -> anyhow::Result<()> {
        let id = match self {
            Self::Container(container) => container.id.clone(),
            Self::Session(_) => {
                let label = format!("label=jetway.backend={}", backend.context("a session")?);
                docker(&["ps", "--quiet", "--no-trunc", "--filter", &label])?
            }
        };
        docker(&["exec", &id, "sh", "-c", command]).map(drop)
    }
}

pub struct Container {
    id: String,
    url: String,
}

impl Container {
    pub async fn start(walk: &Walk) -> anyhow::Result<Self> {
        let image = format!("jetway-app-{}", walk.name);
        let id = docker(&["run", "--detach", "--env", "PORT=8080", "--publish", "127.0.0.1::8080", &image])?;
        let mut container = Self { id, url: String::new() };
        let address = docker(&["port", &container.id, "8080"])?;
        let port = address.rsplit(':').next().context("a port")?;
        // A name below localhost, as sessions have.
        container.url = format!("http://app.localhost:{port}{}", walk.at);
        let asked = format!("http://127.0.0.1:{port}{}", walk.at);
        let answers = eventually("the application listens", LISTENS, async || {
            reqwest::get(&asked).await.map(drop).map_err(|error| error.to_string())
        });
        answers.await.with_context(|| docker(&["logs", &container.id]).unwrap_or_default())?;
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _removed = docker(&["rm", "--force", &self.id]);
    }
}

fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    let made = Command::new("docker").args(arguments).output()?;
    let errors = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "docker {}: {errors}", arguments.join(" "));
    Ok(String::from_utf8(made.stdout)?.trim().to_owned() + if arguments[0] == "logs" { &errors } else { "" })
}
