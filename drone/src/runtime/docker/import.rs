//! An image made from a few files of ours, without a registry: the demo, the helper, the tests. Not its business:
//! images that others made.

use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::TryStreamExt;
use jetway_service::tar;

use super::answer::meaning;
use super::engine::Engine;
use crate::runtime::RuntimeError;

/// One file of the image; its directories are made.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// Relative to the image's root, at most 100 bytes.
    pub path: String,
    pub bytes: Bytes,
    pub mode: u32,
}

/// Makes `name:tag` anew. `changes` are Dockerfile lines, as `ENTRYPOINT ["/app"]` or `USER 65534`.
pub async fn import(
    engine: &Engine,
    name: &str,
    tag: &str,
    files: &[ImageFile],
    changes: &[String],
) -> Result<(), RuntimeError> {
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(name)
        .tag(tag)
        .changes(changes.to_vec())
        .build();
    let plain = files.iter().map(|file| tar::File { path: &file.path, mode: file.mode, bytes: &file.bytes });
    let body = bollard::body_full(Bytes::from(tar::archive(&plain.collect::<Vec<_>>())));
    let lines = engine.docker().create_image(Some(options), Some(body), None);
    lines.try_for_each(|_| async { Ok(()) }).await.map_err(|error| meaning(&error))
}
