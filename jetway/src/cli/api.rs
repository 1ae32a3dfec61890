//! How the operator's verbs reach the API: its URL, the key, and errors as people want to read them.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use jetway_api::ErrorBody;
use jetway_api::backends::Backends;
use jetway_api::drones::{Drone, Drones};
use jetway_service::client;
use jetway_service::secrets::Source;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where `jetway dev` serves it.
pub const DEFAULT_API_URL: &str = "http://127.0.0.1:8080";

#[derive(Debug, Clone, Args)]
pub struct ApiArguments {
    /// The controller's API
    #[arg(long, env = "JETWAY_API_URL", default_value = DEFAULT_API_URL, global = true)]
    pub api_url: String,
    /// The API's bearer key
    #[arg(long, env = "JETWAY_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// A file with the API's key
    #[arg(long, env = "JETWAY_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// Made with the first call.
    #[arg(skip)]
    client: OnceLock<Client>,
}

#[derive(Debug, Clone)]
struct Client {
    http: reqwest::Client,
    key: Option<String>,
}

/// What this version knows of an answer, and all that the controller said: `--json` prints that.
#[derive(Debug)]
pub struct Answer<T> {
    pub known: T,
    pub whole: Value,
}

/// Longer than any wait that the API itself allows.
const CALL_SECONDS_MAX: u64 = 330;

impl ApiArguments {
    /// The same at another controller.
    pub fn at(&self, url: &str) -> Self {
        Self { api_url: url.to_owned(), client: OnceLock::new(), ..self.clone() }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Answer<T>> {
        self.answer(self.client()?.get(&self.url(path))).await
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Answer<T>> {
        self.answer(self.client()?.post(&self.url(path)).json(body)).await
    }

    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Answer<T>> {
        self.answer(self.client()?.put(&self.url(path)).json(body)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Answer<T>> {
        self.answer(self.client()?.delete(&self.url(path))).await
    }

    /// An answer that is read as it comes.
    pub async fn stream(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        let response = self.send(self.client()?.get(&self.url(path))).await?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response).await) }
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> anyhow::Result<Answer<T>> {
        let response = self.send(request.timeout(Duration::from_secs(CALL_SECONDS_MAX))).await?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let whole: Value = response
            .json()
            .await
            .context("the API's answer is not JSON: is this URL a Jetway controller?")?;
        let known = T::deserialize(&whole).context("the API's answer is not one that this version knows")?;
        Ok(Answer { known, whole })
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        request.send().await.map_err(|error| {
            let (url, cause) = (&self.api_url, client::root_cause(&error));
            if !error.is_connect() {
                anyhow!("{url}: {cause}")
            } else if url.starts_with("https:") {
                anyhow!("no connection to {url}: {cause}")
            } else {
                anyhow!("no controller answers at {url} ({cause}); start one with: jetway dev")
            }
        })
    }

    fn client(&self) -> anyhow::Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let (text, file) = (self.api_key.as_deref(), self.api_key_file.as_deref());
        let key = Source { variable: "JETWAY_API_KEY", text, file }.read()?;
        let http = client::builder().build().context("cannot make an HTTP client")?;
        Ok(self.client.get_or_init(|| Client { http, key }))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.api_url.trim_end_matches('/'))
    }

    /// The drone of this name.
    pub async fn drone(&self, name: &str) -> anyhow::Result<Drone> {
        let drones: Drones = self.get("/ctrl/drones").await?.known;
        let named = drones.drones.into_iter().find(|drone| drone.name.as_str() == name);
        named.with_context(|| format!("no drone is called {name:?} (jetway status lists them)"))
    }

    /// The id of the session that `name` means: the key of one that lives, or an id itself.
    pub async fn backend_of(&self, name: &str, namespace: &str) -> anyhow::Result<String> {
        match self.find(name, namespace, "&state=live").await? {
            Some(id) => Ok(id),
            None => bail!(
                "no session runs for the key {name:?}{} (jetway ls shows those that do)",
                self.elsewhere(name, namespace, "&state=live").await
            ),
        }
    }

    /// The same, where the last one that has ended will do.
    pub async fn last_backend_of(&self, name: &str, namespace: &str) -> anyhow::Result<String> {
        match self.find(name, namespace, "").await? {
            Some(id) => Ok(id),
            None => bail!(
                "no session runs for the key {name:?}, and none has ended within the last day{} (jetway ls --all shows them)",
                self.elsewhere(name, namespace, "").await
            ),
        }
    }

    /// The newest, which is the one that lives if one does.
    async fn find(&self, name: &str, namespace: &str, state: &str) -> anyhow::Result<Option<String>> {
        let (key, namespace) = (encode(name), encode(namespace));
        let path = format!("/ctrl/backends?limit=1&key={key}&namespace={namespace}{state}");
        let list: Backends = self.get(&path).await?.known;
        if let Some(backend) = list.backends.first() {
            return Ok(Some(backend.backend_id.to_string()));
        }
        if name.parse::<jetway_protocol::ids::BackendId>().is_err() {
            return Ok(None);
        }
        let request = self.client()?.get(&self.url(&format!("/ctrl/backends/{key}")));
        let response = self.send(request.timeout(Duration::from_secs(CALL_SECONDS_MAX))).await?;
        match response.status() {
            status if status.is_success() => Ok(Some(name.to_owned())),
            reqwest::StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refused(response).await),
        }
    }

    /// For the message: other namespaces that have the key.
    async fn elsewhere(&self, name: &str, namespace: &str, state: &str) -> String {
        let path = format!("/ctrl/backends?limit=50&key={}{state}", encode(name));
        let list = self.get::<Backends>(&path).await.map(|answer| answer.known.backends);
        let list = list.unwrap_or_default();
        let found = list.iter().filter_map(|backend| backend.key.as_ref());
        let found = found.map(|key| key.namespace.as_str());
        let others: std::collections::BTreeSet<&str> = found.filter(|other| *other != namespace).collect();
        match others.first() {
            None => String::new(),
            Some(&"") => "; one of the same name has no namespace: leave --namespace out".to_owned(),
            Some(other) => {
                format!("; there is one in another namespace: --namespace {}", super::output::shown(other))
            }
        }
    }
}

impl Client {
    fn get(&self, url: &str) -> reqwest::RequestBuilder {
        self.with_key(self.http.get(url))
    }

    fn post(&self, url: &str) -> reqwest::RequestBuilder {
        self.with_key(self.http.post(url))
    }

    fn put(&self, url: &str) -> reqwest::RequestBuilder {
        self.with_key(self.http.put(url))
    }

    fn delete(&self, url: &str) -> reqwest::RequestBuilder {
        self.with_key(self.http.delete(url))
    }

    fn with_key(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

async fn refused(response: reqwest::Response) -> anyhow::Error {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let Ok(body) = serde_json::from_str::<ErrorBody>(&text) else {
        return anyhow!("the API answered {status}: {}", text.chars().take(300).collect::<String>());
    };
    let mut message = format!("{} ({})", body.message, body.code.as_str());
    for passed in &body.drones {
        message.push_str(&format!("\n  {}: {}", passed.drone, passed.reason));
    }
    if let Some(output) = body.output.filter(|output| !output.is_empty()) {
        message.push_str(&format!("\n--- its last output ---\n{}", output.trim_end()));
    }
    anyhow!(message)
}

/// Percent-encodes one query value or path segment (RFC 3986 §2.3: only unreserved characters stay).
pub fn encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _written = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(super::encode("a b/ü~"), "a%20b%2F%C3%BC~");
    }
}
