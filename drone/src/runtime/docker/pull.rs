//! One pull: its progress, its stall, and what its failure means. Not its business: who shares it.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::errors::Error as DockerError;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use tokio::sync::watch;

use super::engine::{chain, is_unreachable};
use super::reference::Reference;
use crate::runtime::ImageError;

/// Layers that one pull is followed in; an image may have 127.
const LAYERS_MAX: usize = 1024;

/// How far a pull is. Both grow as layers become known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    pub bytes: u64,
    pub bytes_total: u64,
}

/// Pulls, and returns the bytes that came over the network.
pub async fn pull(
    docker: &Docker,
    reference: &Reference,
    login: Option<DockerCredentials>,
    stall: Duration,
    progress: &watch::Sender<PullProgress>,
) -> Result<u64, ImageError> {
    let options =
        CreateImageOptionsBuilder::default().from_image(&reference.name).tag(reference.pulled_tag()).build();
    // The head comes with the first progress, so it has the same deadline.
    let patient = docker.clone().with_timeout(stall);
    let mut lines = Box::pin(patient.create_image(Some(options), None, login));
    let mut layers = Layers::default();
    loop {
        match tokio::time::timeout(stall, lines.next()).await {
            Err(_) => return Err(stalled(reference, stall)),
            Ok(Some(Err(DockerError::RequestTimeoutError))) => return Err(stalled(reference, stall)),
            Ok(Some(Err(error))) => return Err(failure(reference, &error)),
            Ok(Some(Ok(line))) => {
                layers.note(&line);
                progress.send_replace(layers.progress());
            }
            Ok(None) => return Ok(layers.progress().bytes),
        }
    }
}

fn stalled(reference: &Reference, stall: Duration) -> ImageError {
    ImageError::PullFailed {
        image: reference.to_string(),
        reason: format!("nothing moved for {} s", stall.as_secs()),
    }
}

fn failure(reference: &Reference, error: &DockerError) -> ImageError {
    let (status, reason) = match error {
        DockerError::DockerResponseServerError { status_code, message } => {
            (Some(*status_code), message.clone())
        }
        DockerError::DockerStreamError { error } => (None, error.clone()),
        other => (None, chain(other)),
    };
    let image = reference.to_string();
    if is_unreachable(error) {
        ImageError::Unreachable { image, reason }
    } else if is_not_found(status, &reason) {
        ImageError::NotFound { image, reason }
    } else {
        ImageError::PullFailed { image, reason }
    }
}

/// Docker says it in a status, or in the words of the registry.
fn is_not_found(status: Option<u16>, reason: &str) -> bool {
    let words = reason.to_ascii_lowercase();
    let says_so = ["manifest unknown", "not found", "does not exist", "name unknown", "no such image"]
        .iter()
        .any(|sign| words.contains(sign));
    // A login that was refused is not "not found", though Docker answers 404 to some.
    let is_refused = words.contains("unauthorized") || words.contains("incorrect username");
    !is_refused && (says_so || status == Some(404))
}

/// Bytes by layer, as the engine's lines tell them.
#[derive(Default)]
struct Layers(HashMap<String, PullProgress>);

impl Layers {
    fn note(&mut self, line: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&line.id, line.status.as_deref()) else { return };
        if self.0.len() >= LAYERS_MAX && !self.0.contains_key(id) {
            return;
        }
        let number = |value: Option<i64>| value.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        match status {
            "Downloading" => {
                let detail = line.progress_detail.as_ref();
                let bytes = number(detail.and_then(|detail| detail.current));
                let total = number(detail.and_then(|detail| detail.total));
                let layer = self.0.entry(id.clone()).or_default();
                layer.bytes = layer.bytes.max(bytes);
                layer.bytes_total = layer.bytes_total.max(total);
            }
            // A small layer is done without a line in between; its size is in the lines of its extraction.
            "Extracting" => {
                let total = number(line.progress_detail.as_ref().and_then(|detail| detail.total));
                let layer = self.0.entry(id.clone()).or_default();
                *layer = PullProgress {
                    bytes: layer.bytes_total.max(total),
                    bytes_total: layer.bytes_total.max(total),
                };
            }
            "Download complete" | "Pull complete" => {
                if let Some(layer) = self.0.get_mut(id) {
                    layer.bytes = layer.bytes_total;
                }
            }
            _ => {}
        }
    }

    fn progress(&self) -> PullProgress {
        self.0.values().fold(PullProgress::default(), |sum, layer| PullProgress {
            bytes: sum.bytes + layer.bytes,
            bytes_total: sum.bytes_total + layer.bytes_total,
        })
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
    fn not_found_is_told_from_other_failures() {
        for (status, reason, expect) in [
            (Some(404), "manifest for x:1 not found: manifest unknown: manifest unknown", true),
            (None, "manifest for x:1 not found: manifest unknown", true),
            (
                Some(404),
                "pull access denied for x, repository does not exist or may require 'docker login'",
                true,
            ),
            (Some(500), "name unknown: repository name not known to registry", true),
            (Some(500), "Get \"http://1.2.3.4/v2/\": dial tcp: connect: connection refused", false),
            (Some(500), "Head ...: unauthorized: authentication required", false),
            (Some(404), "unauthorized: incorrect username or password", false),
            (None, "unexpected EOF", false),
        ] {
            assert_eq!(is_not_found(status, reason), expect, "{reason}");
        }
    }
}
