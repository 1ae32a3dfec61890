//! Images on the engine: made sure of by pull policy, remembered, and listed for placement. Not its business: how a
//! pull goes ([`super::pull`]) or where a login comes from ([`super::credentials`]).
//!
//! What was learned about an image is kept until the engine's event stream says that some image changed, or until
//! that stream was broken; so a start on a known image asks the engine nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use jetway_protocol::image::Reference;
use jetway_protocol::spec::{Credentials, Executable, PullPolicy};
use jetway_service::lifecycle::Lifecycle;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::answer::text;
use super::engine::Engine;
use super::pull::{PullProgress, pull};
use super::pulled::Pulled;
use super::{credentials, stop_signal};
use crate::runtime::{Image, ImageError, RuntimeError};

/// Names that a heartbeat may carry; beyond it, placement only loses a preference.
const NAMES_MAX: usize = 2000;
const REMEMBERED_MAX: usize = 1000;

type Pull = Shared<BoxFuture<'static, Result<Image, ImageError>>>;
/// Two callers share a pull if image and login are the same.
type PullKey = (String, Option<(String, String)>);

#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    lifecycle: Lifecycle,
    stall: Duration,
    state: Mutex<State>,
    changed: Notify,
    /// As [`State::generation`], for those who wait for a new one.
    generations: watch::Sender<u64>,
    pulled: Pulled,
}

#[derive(Default)]
struct State {
    names: Vec<String>,
    /// By normalized name.
    remembered: HashMap<String, Image>,
    /// Rises when everything remembered is forgotten: what was asked before must not be remembered after.
    generation: u64,
    pulls: HashMap<PullKey, (Pull, watch::Receiver<PullProgress>)>,
}

impl Images {
    pub fn new(engine: Engine, lifecycle: Lifecycle, stall: Duration, pulled: Pulled) -> Self {
        let (state, changed, generations) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
        Self { inner: Arc::new(Inner { engine, lifecycle, stall, state, changed, generations, pulled }) }
    }

    pub async fn ensure(&self, executable: &Executable) -> Result<Image, ImageError> {
        let image = self.make_sure(executable).await?;
        self.inner.pulled.note_use(&image.id);
        Ok(image)
    }

    /// What this drone has pulled.
    pub fn pulled(&self) -> &Pulled {
        &self.inner.pulled
    }

    /// Whether a pull of that name is under way.
    pub fn is_pulling(&self, name: &str) -> bool {
        self.state().pulls.keys().any(|(image, _)| image == name)
    }

    async fn make_sure(&self, executable: &Executable) -> Result<Image, ImageError> {
        let reference = Reference::parse(&executable.image).map_err(|error| ImageError::NotFound {
            image: executable.image.chars().take(200).collect(),
            reason: error.to_string(),
        })?;
        if executable.pull_policy == PullPolicy::Always && !reference.is_id() {
            return self.pull(&reference, executable.credentials.as_ref()).await;
        }
        match self.present(&reference).await {
            Ok(Some(image)) => Ok(image),
            Ok(None) if reference.is_id() => Err(ImageError::NotFound {
                image: reference.to_string(),
                reason: "no image of this id is on the drone, and an id cannot be pulled".to_owned(),
            }),
            Ok(None) if executable.pull_policy == PullPolicy::Never => {
                Err(ImageError::AbsentAndNever { image: reference.to_string() })
            }
            Ok(None) => self.pull(&reference, executable.credentials.as_ref()).await,
            Err(error) => Err(failed(&reference, error)),
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.clone()
    }

    /// What a name meant when it was last asked for, if nothing has changed since then.
    pub fn remembered_id(&self, name: &str) -> Option<String> {
        let name = Reference::parse(name).ok()?.to_string();
        self.state().remembered.get(&name).map(|image| image.id.clone())
    }

    /// Rises with each [`Images::forget`].
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.inner.generations.subscribe()
    }

    /// Pulls under way: image and progress.
    pub fn pulls(&self) -> Vec<(String, PullProgress)> {
        self.state()
            .pulls
            .iter()
            .map(|((image, _), (_, progress))| (image.clone(), *progress.borrow()))
            .collect()
    }

    /// Some image changed, or may have: nothing that was learned before counts any more.
    pub fn forget(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.remembered.clear();
        drop(state);
        self.inner.generations.send_modify(|generation| *generation += 1);
        self.inner.changed.notify_one();
    }

    /// Returns when [`Images::forget`] was called since the last time.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    /// Reads the names anew.
    pub async fn refresh(&self) -> Result<(), RuntimeError> {
        let list = self.inner.engine.get("/images/json", &[]).await?;
        let names = names_in(&list);
        self.state().names = names;
        self.inner.pulled.save();
        Ok(())
    }

    async fn present(&self, reference: &Reference) -> Result<Option<Image>, RuntimeError> {
        let name = reference.to_string();
        let generation = {
            let state = self.state();
            if let Some(image) = state.remembered.get(&name) {
                return Ok(Some(image.clone()));
            }
            state.generation
        };
        let image = match self.inner.engine.get(&format!("/images/{name}/json"), &[]).await {
            Ok(found) => read_image(&found),
            Err(RuntimeError::Refused(_) | RuntimeError::Absent) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut state = self.state();
        if state.generation == generation && state.remembered.len() < REMEMBERED_MAX {
            state.remembered.insert(name, image.clone());
        }
        Ok(Some(image))
    }

    /// Joins the pull that is under way, or begins one. It goes on when those who wait for it go away.
    async fn pull(&self, reference: &Reference, given: Option<&Credentials>) -> Result<Image, ImageError> {
        let login = given.map(|login| (login.username.clone(), login.password.clone()));
        let key = (reference.to_string(), login);
        let pull = {
            let mut state = self.state();
            match state.pulls.get(&key) {
                Some((pull, _)) => pull.clone(),
                None => {
                    let (sender, receiver) = watch::channel(PullProgress::default());
                    let pull = self.begin(reference.clone(), given.cloned(), key.clone(), sender);
                    state.pulls.insert(key, (pull.clone(), receiver));
                    pull
                }
            }
        };
        pull.await
    }

    fn begin(
        &self,
        reference: Reference,
        given: Option<Credentials>,
        key: PullKey,
        progress: watch::Sender<PullProgress>,
    ) -> Pull {
        let images = self.clone();
        let interrupted = ImageError::PullFailed {
            image: reference.to_string(),
            reason: "the drone is stopping".to_owned(),
        };
        let stopped = interrupted.clone();
        let task = self.inner.lifecycle.spawn(async move {
            let outcome = tokio::select! {
                outcome = images.pull_now(&reference, given.as_ref(), &progress) => outcome,
                () = images.inner.lifecycle.stopping() => Err(stopped),
            };
            images.state().pulls.remove(&key);
            outcome
        });
        task.map(move |joined| joined.unwrap_or(Err(interrupted))).boxed().shared()
    }

    async fn pull_now(
        &self,
        reference: &Reference,
        given: Option<&Credentials>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Image, ImageError> {
        let started = Instant::now();
        tracing::info!(image = %reference, "pull begins");
        // An image that was there already is not this drone's, though it pulls it again. If that cannot be told, it is not either.
        let before = self.present(reference).await;
        let login = credentials::login(reference, given).await;
        let outcome = pull(self.inner.engine.docker(), reference, login, self.inner.stall, progress).await;
        let bytes = outcome.inspect_err(|error| tracing::warn!(image = %reference, %error, "pull failed"))?;
        self.forget();
        let took = started.elapsed();
        tracing::info!(image = %reference, bytes, ms = took.as_millis(), "pull done");
        match self.present(reference).await {
            Ok(Some(image)) => {
                let is_new = before.is_ok_and(|before| before.is_none_or(|before| before.id != image.id));
                if is_new {
                    self.inner.pulled.note_pull(&image.id, &reference.to_string());
                }
                Ok(Image { pulled: Some((bytes, took)), ..image })
            }
            Ok(None) => {
                let reason = "it was pulled, and is gone again".to_owned();
                Err(ImageError::PullFailed { image: reference.to_string(), reason })
            }
            Err(error) => Err(failed(reference, error)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }
}

/// A call about an image that the engine did not answer, or not well.
fn failed(reference: &Reference, error: RuntimeError) -> ImageError {
    let image = reference.to_string();
    match error {
        RuntimeError::Unreachable(reason) => ImageError::Unreachable { image, reason },
        other => ImageError::PullFailed { image, reason: other.to_string() },
    }
}

fn read_image(found: &Value) -> Image {
    let config = &found["Config"];
    let words =
        |value: &Value| value.as_array().map(|words| words.iter().map(text).collect()).unwrap_or_default();
    Image {
        id: text(&found["Id"]),
        entrypoint: words(&config["Entrypoint"]),
        cmd: words(&config["Cmd"]),
        user: text(&config["User"]),
        stop_signal: stop_signal::number(config["StopSignal"].as_str()),
        pulled: None,
    }
}

/// The names of all images in the one spelling that placement compares ([`Reference::canonical`]).
fn names_in(list: &Value) -> Vec<String> {
    let mut names = Vec::new();
    for image in list.as_array().into_iter().flatten() {
        for list in ["RepoTags", "RepoDigests"] {
            for name in image[list].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if name.contains("<none>") {
                    continue;
                }
                names.push(Reference::canonical(name));
            }
        }
    }
    names.sort();
    names.dedup();
    names.truncate(NAMES_MAX);
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_listed_in_one_spelling() {
        let list = json!([
            {"RepoTags": ["alpine:latest", "alpine:3"], "RepoDigests": ["alpine@sha256:1"]},
            // As podman's socket lists it.
            {"RepoTags": ["docker.io/library/alpine:3"]},
            {"RepoTags": ["<none>:<none>"], "RepoDigests": null},
            {"RepoTags": null},
            {"RepoTags": ["localhost:5000/a:latest"]},
        ]);
        assert_eq!(
            names_in(&list),
            ["alpine:3", "alpine:latest", "alpine@sha256:1", "localhost:5000/a:latest"]
        );
        assert_eq!(names_in(&json!({"message": "no"})), Vec::<String>::new());
    }

    #[test]
    fn an_image_is_read_whatever_it_leaves_out() {
        let image = read_image(&json!({"Id": "sha256:1", "Config": {"Cmd": ["a"], "StopSignal": "SIGINT"}}));
        assert_eq!(
            (image.cmd.as_slice(), image.stop_signal, image.user.as_str()),
            (&["a".to_owned()][..], 2, "")
        );
        assert_eq!(read_image(&json!({"Id": "x", "Config": null})).stop_signal, 15);
    }
}
