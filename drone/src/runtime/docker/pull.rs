//! One pull: its progress, its stall, and what its failure means. Not its business: who shares it.
//!
//! An engine with the containerd image store repeats its last line ten times a second, whether
//! anything comes or not, and tells a layer's size only where it takes longer than that. So only a
//! line that says something new is progress, and the bytes of a pull are known only where each
//! layer's are.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error as DockerError;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use jetway_protocol::image::Reference;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::{chain, is_unreachable};
use crate::runtime::ImageError;

/// Layers that one pull is followed in; an image may have 127.
const LAYERS_MAX: usize = 1024;

/// How far a pull is. Both grow as layers become known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    pub bytes: u64,
    pub bytes_total: u64,
}

/// Pulls, and returns the bytes that came over the network; 0 where the engine does not say.
pub async fn pull(
    docker: &Docker,
    reference: &Reference,
    login: Option<DockerCredentials>,
    stall: Duration,
    progress: &watch::Sender<PullProgress>,
) -> Result<u64, ImageError> {
    let options =
        CreateImageOptionsBuilder::default().from_image(reference.name()).tag(reference.version()).build();
    // The head comes with the first progress, so it has the same deadline.
    let patient = docker.clone().with_timeout(stall);
    let has_login = login.is_some();
    let mut lines = Box::pin(patient.create_image(Some(options), None, login));
    let mut layers = Layers::default();
    let mut give_up = Instant::now() + stall;
    loop {
        match tokio::time::timeout_at(give_up, lines.next()).await {
            Err(_) => return Err(stalled(reference, stall)),
            Ok(Some(Err(DockerError::RequestTimeoutError))) => return Err(stalled(reference, stall)),
            Ok(Some(Err(error))) => return Err(failure(reference, &error, has_login)),
            Ok(Some(Ok(line))) => {
                if layers.note(&line) {
                    give_up = Instant::now() + stall;
                    progress.send_replace(layers.progress());
                }
            }
            Ok(None) => return Ok(layers.bytes_pulled()),
        }
    }
}

fn stalled(reference: &Reference, stall: Duration) -> ImageError {
    ImageError::PullFailed {
        image: reference.to_string(),
        reason: format!("nothing moved for {} s", stall.as_secs()),
    }
}

fn failure(reference: &Reference, error: &DockerError, has_login: bool) -> ImageError {
    let (status, reason) = match error {
        DockerError::DockerResponseServerError { status_code, message } => {
            (Some(*status_code), message.clone())
        }
        DockerError::DockerStreamError { error } => (None, error.clone()),
        other => (None, chain(other)),
    };
    let image = reference.to_string();
    if is_unreachable(error) {
        return ImageError::Unreachable { image, reason };
    }
    match meaning(status, &reason, has_login) {
        Meaning::NotFound => ImageError::NotFound { image, reason },
        Meaning::Refused => ImageError::PullFailed {
            image,
            reason: format!(
                "the registry {} refused the login, or has no such image for it: {reason}",
                reference.registry()
            ),
        },
        Meaning::Failed => ImageError::PullFailed { image, reason },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    NotFound,
    /// The login, or that there is none.
    Refused,
    Failed,
}

/// Docker says it in a status, or in the words of the registry.
fn meaning(status: Option<u16>, reason: &str, has_login: bool) -> Meaning {
    let words = reason.to_ascii_lowercase();
    let says = |signs: &[&str]| signs.iter().any(|sign| words.contains(sign));
    // In the same breath as "does not exist", since registries do not tell strangers what they
    // have.
    let is_refused = says(&["unauthorized", "incorrect username", "no basic auth credentials"])
        || (has_login
            && says(&[
                "access denied",
                "access forbidden",
                "access to the resource is denied",
                "authorization failed",
            ]));
    let is_absent = status == Some(404)
        || says(&[
            "manifest unknown",
            "not found",
            "does not exist",
            "name unknown",
            "no such image",
            "invalid reference",
        ]);
    match (is_refused, is_absent) {
        (true, _) => Meaning::Refused,
        (false, true) => Meaning::NotFound,
        (false, false) => Meaning::Failed,
    }
}

/// Bytes by layer, as the engine's lines tell them.
#[derive(Default)]
struct Layers {
    layers: HashMap<String, Layer>,
    /// The last line that is about none.
    last: String,
}

#[derive(Default)]
struct Layer {
    progress: PullProgress,
    /// The last line: its status, and how far it says it is.
    last: (String, Option<i64>),
    /// It came, and was not there before.
    is_pulled: bool,
}

impl Layers {
    /// Whether the line says something new.
    fn note(&mut self, line: &CreateImageInfo) -> bool {
        let status = line.status.as_deref().unwrap_or_default();
        let Some(id) = &line.id else {
            let is_new = self.last != status;
            status.clone_into(&mut self.last);
            return is_new;
        };
        if self.layers.len() >= LAYERS_MAX && !self.layers.contains_key(id) {
            return false;
        }
        let detail = line.progress_detail.as_ref();
        let current = detail.and_then(|detail| detail.current);
        let layer = self.layers.entry(id.clone()).or_default();
        let is_new = layer.last.0 != status || layer.last.1 != current;
        layer.last = (status.to_owned(), current);
        layer.note(status, current, detail.and_then(|detail| detail.total));
        is_new
    }

    fn progress(&self) -> PullProgress {
        self.layers.values().fold(PullProgress::default(), |sum, layer| PullProgress {
            bytes: sum.bytes + layer.progress.bytes,
            bytes_total: sum.bytes_total + layer.progress.bytes_total,
        })
    }

    /// 0 where the size of a layer is not known: a part of the sum would be taken for the whole.
    fn bytes_pulled(&self) -> u64 {
        let is_unknown = |layer: &Layer| layer.is_pulled && layer.progress.bytes_total == 0;
        if self.layers.values().any(is_unknown) { 0 } else { self.progress().bytes }
    }
}

impl Layer {
    fn note(&mut self, status: &str, current: Option<i64>, total: Option<i64>) {
        let number = |value: Option<i64>| value.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let PullProgress { bytes, bytes_total } = &mut self.progress;
        match status {
            "Downloading" => {
                *bytes = (*bytes).max(number(current));
                *bytes_total = (*bytes_total).max(number(total));
            }
            // A small layer is done without a line in between; its size is in the lines of its extraction.
            "Extracting" => {
                *bytes_total = (*bytes_total).max(number(total));
                *bytes = *bytes_total;
            }
            "Download complete" | "Pull complete" => {
                *bytes = *bytes_total;
                self.is_pulled = true;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn line(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn bytes_are_summed_over_layers_and_never_shrink() {
        let mut layers = Layers::default();
        for (id, status, current, total, bytes) in [
            ("a", "Pulling fs layer", 0, 0, 0),
            ("a", "Downloading", 10, 100, 10),
            ("b", "Downloading", 5, 50, 15),
            ("a", "Downloading", 5, 100, 15),
            ("a", "Download complete", 0, 0, 105),
            ("b", "Extracting", 1, 50, 150),
            ("b", "Pull complete", 0, 0, 150),
            ("c", "Extracting", 1, 7, 157),
            ("d", "Already exists", 0, 0, 157),
            ("e", "Downloading", -5, -1, 157),
        ] {
            layers.note(&line(id, status, current, total));
            assert_eq!(layers.progress().bytes, bytes, "{id} {status}");
        }
    }

    #[test]
    fn only_a_line_that_says_something_new_is_progress() {
        let mut layers = Layers::default();
        let about_none =
            |status: &str| CreateImageInfo { status: Some(status.to_owned()), ..CreateImageInfo::default() };
        assert!(layers.note(&about_none("Pulling from team/app")));
        assert!(!layers.note(&about_none("Pulling from team/app")));
        for (id, status, current, is_new) in [
            ("a", "Pulling fs layer", 0, true),
            ("a", "Downloading", 10, true),
            // As the containerd store goes on saying while nothing comes.
            ("a", "Downloading", 10, false),
            ("b", "Downloading", 10, true),
            ("a", "Downloading", 10, false),
            ("a", "Downloading", 11, true),
            ("a", "Download complete", 0, true),
            ("a", "Download complete", 0, false),
        ] {
            assert_eq!(layers.note(&line(id, status, current, 100)), is_new, "{id} {status} {current}");
        }
    }

    #[test]
    fn bytes_are_told_only_where_every_layers_are_known() {
        let mut layers = Layers::default();
        layers.note(&line("a", "Downloading", 5, 50));
        layers.note(&line("a", "Download complete", 0, 0));
        layers.note(&line("there", "Already exists", 0, 0));
        assert_eq!(layers.bytes_pulled(), 50);
        // It came in less time than the containerd store has between two lines.
        layers.note(&line("b", "Pulling fs layer", 0, 0));
        layers.note(&line("b", "Download complete", 0, 0));
        assert_eq!(layers.bytes_pulled(), 0);
    }

    #[test]
    fn not_found_is_told_from_other_failures() {
        use Meaning::{Failed, NotFound, Refused};
        for (status, reason, has_login, expect) in [
            (Some(404), "manifest for x:1 not found: manifest unknown: manifest unknown", false, NotFound),
            (None, "manifest for x:1 not found: manifest unknown", true, NotFound),
            (
                Some(404),
                "pull access denied for x, repository does not exist or may require 'docker login'",
                false,
                NotFound,
            ),
            (
                Some(404),
                "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                true,
                Refused,
            ),
            (Some(500), "name unknown: repository name not known to registry", false, NotFound),
            (Some(400), "invalid reference format", false, NotFound),
            (Some(500), "Get \"http://1.2.3.4/v2/\": dial tcp: connect: connection refused", true, Failed),
            (Some(500), "Head ...: unauthorized: authentication required", false, Refused),
            (
                Some(500),
                "Head \"http://1.2.3.4/v2/x/manifests/1\": no basic auth credentials",
                false,
                Refused,
            ),
            (Some(404), "unauthorized: incorrect username or password", true, Refused),
            // As the containerd store says it.
            (
                Some(404),
                "failed to resolve reference \"1.2.3.4/x:1\": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
                false,
                Refused,
            ),
            (
                None,
                "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                false,
                NotFound,
            ),
            (
                None,
                "pull access denied, repository does not exist or may require authorization: authorization failed",
                true,
                Refused,
            ),
            (None, "unexpected EOF", true, Failed),
        ] {
            assert_eq!(meaning(status, reason, has_login), expect, "{reason}");
        }
    }
}
