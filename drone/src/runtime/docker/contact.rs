//! The first contact with the engine: waits for one that is still starting, and says at once what waiting cannot mend.
//! Not its business: anything on the engine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jetway_service::backoff::Backoff;
use jetway_service::silence::Silence;
use tokio::time::Instant;

use super::engine::{self, Engine};
use super::errors::ConnectError;
use super::facts::EngineFacts;
use super::host_paths::{self, Needed};

/// How long a drone waits for its engine: longer than a host takes from the one's start to the other's.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// An engine that takes a connection and says nothing (systemd holds its socket while it starts) is asked again.
const TRY_MAX: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// An engine that answers, may be used and is new enough.
pub struct Contact {
    pub(super) engine: Engine,
    pub(super) facts: EngineFacts,
}

impl Contact {
    /// With the engine that `DOCKER_HOST` names, or the default one.
    pub async fn make(patience: Duration) -> Result<Self, ConnectError> {
        Self::at(&engine::socket_from_environment()?, patience).await
    }

    pub async fn at(socket: &Path, patience: Duration) -> Result<Self, ConnectError> {
        let until = Instant::now() + patience;
        let (mut backoff, mut silence) = (Backoff::new(RETRY_FIRST, RETRY_MAX), Silence::default());
        loop {
            let error = match tokio::time::timeout(TRY_MAX, Self::once(socket)).await {
                Ok(Ok(contact)) => return Ok(contact),
                Ok(Err(error)) if !error.may_pass() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => ConnectError::NotRunning(socket.display().to_string()),
            };
            let now = Instant::now();
            if now >= until {
                return Err(error);
            }
            if silence.is_to_be_told(now) {
                tracing::warn!("{error}; waiting for it, {} s at most", (until - now).as_secs_f64().ceil());
            }
            let wait = backoff.next_wait().min(until - now);
            tokio::time::sleep(wait).await;
        }
    }

    async fn once(socket: &Path) -> Result<Self, ConnectError> {
        engine::look_at(socket).await?;
        let mut engine = Engine::at(socket)?;
        let facts = engine.check().await?;
        Ok(Self { engine, facts })
    }

    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// See [`host_paths::find`].
    pub async fn host_paths(
        &self,
        given: &[(PathBuf, PathBuf)],
        needed: &[Needed<'_>],
    ) -> Result<Vec<(PathBuf, PathBuf)>, ConnectError> {
        host_paths::find(&self.engine, given, needed).await
    }
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::routing::get;
    use jetway_service::lifecycle::Lifecycle;
    use serde_json::json;
    use tokio::net::UnixListener;

    use super::*;
    use crate::store::data_dir::tests::TestDir;

    const LONG: Duration = Duration::from_secs(30);

    /// An engine that says its version and is healthy.
    fn engine(socket: &Path, api: &'static str, lifecycle: &Lifecycle) {
        let version = move || async move { Json(json!({ "Version": "x", "ApiVersion": api })) };
        let info = || async { Json(json!({ "NCPU": 3 })) };
        let router = axum::Router::new()
            .route("/version", get(version))
            .route("/{version}/version", get(version))
            // Only so: what is read comes by the version that was agreed on.
            .route("/v1.41/info", get(info));
        let listener = UnixListener::bind(socket).unwrap();
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
    }

    async fn refusal(socket: &Path, patience: Duration) -> ConnectError {
        let tried = tokio::time::timeout(LONG / 3, Contact::at(socket, patience)).await;
        tried.expect("at once").err().expect("a refusal")
    }

    #[tokio::test]
    async fn what_waiting_cannot_mend_is_said_at_once() {
        let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
        let error = refusal(dir.path(), LONG).await;
        assert!(matches!(error, ConnectError::SocketIsDirectory(_)), "{error}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = refusal(&file, LONG).await;
        assert!(matches!(error, ConnectError::NotASocket(_)), "{error}");
        let old = dir.path().join("old");
        engine(&old, "1.30", &lifecycle);
        let error = refusal(&old, LONG).await;
        assert!(matches!(error, ConnectError::TooOld { .. }), "{error}");
        lifecycle.stop().await;
    }

    #[tokio::test]
    async fn an_engine_that_is_starting_is_waited_for_and_no_longer_than_was_said() {
        let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
        let socket = dir.path().join("docker.sock");
        let error = refusal(&socket, Duration::from_millis(100)).await;
        assert!(matches!(error, ConnectError::NotRunning(_)), "{error}");
        let (mut waiting, late) = (Box::pin(Contact::at(&socket, LONG)), RETRY_FIRST * 2);
        assert!(tokio::time::timeout(late, &mut waiting).await.is_err(), "it waits");
        engine(&socket, "1.41", &lifecycle);
        assert_eq!(waiting.await.unwrap().facts.cpus, 3);
        lifecycle.stop().await;
    }
}
