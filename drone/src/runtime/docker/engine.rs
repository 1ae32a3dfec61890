//! The connection to the engine. Not its business: what is asked of it, and what its errors mean
//! ([`super::answer`]).
//!
//! Two clients on one socket. bollard makes the calls that change something. What is read from the engine comes
//! through [`Engine::get`] and [`Engine::open`] as plain JSON, because bollard's closed enums fail a whole list for
//! one word that they do not know, and because its streams cannot tell that they are open before the first item.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use http::HeaderValue;
use serde_json::Value;

use super::answer::{CALL_DEADLINE, bounded, broken, meaning, meaning_of_status, no_answer, text};
use super::errors::ConnectError;
use super::facts::EngineFacts;
use crate::runtime::RuntimeError;

/// A liveness check is answered at once or counts as failed.
pub const PING_DEADLINE: Duration = Duration::from_secs(5);
const SOCKET_DEFAULT: &str = "/var/run/docker.sock";
/// Docker 19.03, the first with everything that a container of ours is given.
const API_MINIMUM: (u32, u32) = (1, 40);
const API_MINIMUM_TEXT: &str = "1.40";
/// Bytes of one answer that is read whole.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    reads: reqwest::Client,
    /// Of the paths that are read: the API's version, once it is negotiated. Without one, a newer
    /// engine answers as it likes best.
    prefix: String,
}

impl Engine {
    /// By `DOCKER_HOST`, as Docker's own client.
    pub fn from_environment() -> Result<Self, ConnectError> {
        Self::at(&socket_from_environment()?)
    }

    pub fn at(socket: &Path) -> Result<Self, ConnectError> {
        let shown = socket.display().to_string();
        let docker = Docker::connect_with_unix(&shown, CALL_DEADLINE.as_secs(), bollard::API_DEFAULT_VERSION)
            .map_err(|_| ConnectError::NotRunning(shown.clone()))?
            .with_request_modifier(url_safe_login);
        let reads = jetway_service::client::builder()
            .unix_socket(socket.to_owned())
            .no_proxy()
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|error| ConnectError::Engine(RuntimeError::Engine(error.to_string())))?;
        Ok(Self { docker, reads, prefix: String::new() })
    }

    /// Whether it answers, and is new enough.
    pub async fn check(&mut self) -> Result<EngineFacts, ConnectError> {
        let version = self.get("/version", &[]).await.map_err(ConnectError::Engine)?;
        let api = text(&version["ApiVersion"]);
        if !is_new_enough(&api) {
            return Err(ConnectError::TooOld {
                version: text(&version["Version"]),
                api,
                minimum: API_MINIMUM_TEXT,
            });
        }
        let negotiated = self.docker.clone().negotiate_version();
        self.docker = bounded(negotiated).await.map_err(ConnectError::Engine)?;
        let negotiated = self.docker.client_version();
        self.prefix = format!("/v{}.{}", negotiated.major_version, negotiated.minor_version);
        let info = self.get("/info", &[]).await.map_err(ConnectError::Engine)?;
        Ok(EngineFacts::read(&version, &info))
    }

    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    /// One answer as JSON. 404 about a container is [`RuntimeError::Absent`].
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, RuntimeError> {
        let body = self.get_bytes(path, query, ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&body)
            .map_err(|error| RuntimeError::Engine(format!("the answer to {path} is not JSON: {error}")))
    }

    /// One answer, whole.
    pub async fn get_bytes(
        &self,
        path: &str,
        query: &[(&str, &str)],
        bytes_max: usize,
    ) -> Result<Vec<u8>, RuntimeError> {
        let read = async {
            let mut response = self.send(path, query).await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
                if body.len() + chunk.len() > bytes_max {
                    return Err(RuntimeError::Engine(format!("the answer to {path} is too large")));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        };
        match tokio::time::timeout(CALL_DEADLINE, read).await {
            Ok(outcome) => outcome,
            Err(_) => Err(no_answer(CALL_DEADLINE)),
        }
    }

    /// A stream: returns when its head is here, so that what happens from now on is on it.
    pub async fn open(&self, path: &str, query: &[(&str, &str)]) -> Result<reqwest::Response, RuntimeError> {
        match tokio::time::timeout(CALL_DEADLINE, self.send(path, query)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(no_answer(CALL_DEADLINE)),
        }
    }

    pub async fn ping(&self) -> Result<(), RuntimeError> {
        match tokio::time::timeout(PING_DEADLINE, self.docker.ping()).await {
            Ok(answer) => answer.map(|_| ()).map_err(|error| meaning(&error)),
            Err(_) => Err(no_answer(PING_DEADLINE)),
        }
    }

    async fn send(&self, path: &str, query: &[(&str, &str)]) -> Result<reqwest::Response, RuntimeError> {
        let mut url =
            reqwest::Url::parse("http://engine").map_err(|error| RuntimeError::Engine(error.to_string()))?;
        url.set_path(&format!("{}{path}", self.prefix));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let response = self.reads.get(url).send().await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        if response.status().is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let message = serde_json::from_slice::<Value>(&body)
            .map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |body| text(&body["message"]));
        Err(meaning_of_status(status, &message))
    }
}

/// The engine's socket, by `DOCKER_HOST`, as Docker's own client.
pub fn socket_from_environment() -> Result<PathBuf, ConnectError> {
    let host = std::env::var("DOCKER_HOST").ok();
    socket_path(host.as_deref())
}

/// Whether somebody listens on the socket who lets us in.
pub async fn look_at(socket: &Path) -> Result<(), ConnectError> {
    let shown = socket.display().to_string();
    let Err(error) = tokio::net::UnixStream::connect(socket).await else { return Ok(()) };
    Err(match std::fs::metadata(socket) {
        Ok(found) if found.is_dir() => ConnectError::SocketIsDirectory(shown),
        Ok(found) if !found.file_type().is_socket() => ConnectError::NotASocket(shown),
        _ if error.kind() == std::io::ErrorKind::PermissionDenied => ConnectError::PermissionDenied(shown),
        _ => ConnectError::NotRunning(shown),
    })
}

fn socket_path(host: Option<&str>) -> Result<PathBuf, ConnectError> {
    match host {
        None | Some("") => Ok(PathBuf::from(SOCKET_DEFAULT)),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => Err(ConnectError::NotLocal(host.to_owned())),
        },
    }
}

fn is_new_enough(api: &str) -> bool {
    let mut numbers = api.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= API_MINIMUM,
        _ => false,
    }
}

/// The engine reads a login as URL-safe base64 and ignores what is not; bollard 0.21.1 writes the other alphabet.
fn url_safe_login(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    if let Some(login) = request.headers_mut().get_mut("x-registry-auth") {
        let safe = login.to_str().unwrap_or_default().replace('+', "-").replace('/', "_");
        if let Ok(mut value) = HeaderValue::from_str(&safe) {
            value.set_sensitive(true);
            *login = value;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_local_engine_will_do() {
        assert_eq!(socket_path(None).unwrap(), PathBuf::from("/var/run/docker.sock"));
        assert_eq!(socket_path(Some("")).unwrap(), PathBuf::from("/var/run/docker.sock"));
        assert_eq!(socket_path(Some("unix:///tmp/x.sock")).unwrap(), PathBuf::from("/tmp/x.sock"));
        for bad in ["tcp://1.2.3.4:2375", "ssh://me@host", "unix://relative", "nonsense"] {
            let error = socket_path(Some(bad)).unwrap_err();
            assert!(error.to_string().contains("unix:///"), "{error}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (api, good) in
            [("1.41", true), ("1.40", true), ("1.39", false), ("1.100", true), ("2.0", true), ("", false)]
        {
            assert_eq!(is_new_enough(api), good, "{api}");
        }
    }

    #[tokio::test]
    async fn nobody_on_the_socket_is_told_from_an_answer() {
        let dir = crate::store::data_dir::tests::TestDir::new();
        let socket = dir.path().join("engine.sock");
        let unreachable = |what: &str, engine: Engine| {
            let what = what.to_owned();
            async move {
                let asked = engine.get("/info", &[]).await.unwrap_err();
                let called = bounded(engine.docker().info()).await.unwrap_err();
                for error in [asked, called] {
                    assert!(matches!(error, RuntimeError::Unreachable(_)), "{what}: {error:?}");
                }
            }
        };
        // bollard looks for the socket's file at once.
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let engine = Engine::at(&socket).unwrap();
        let cutting = async {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut begun = [0; 16];
                let _a_request = tokio::io::AsyncReadExt::read(&mut connection, &mut begun).await;
            }
        };
        tokio::select! {
            () = cutting => {}
            () = unreachable("cut off", engine.clone()) => {}
        }
        drop(listener);
        unreachable("refused", engine.clone()).await;
        std::fs::remove_file(&socket).unwrap();
        unreachable("no socket", engine).await;
    }
}
