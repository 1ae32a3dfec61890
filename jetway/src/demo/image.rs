//! The demo's image: our own static executable and nothing else, given to the engine as a file. No registry, no
//! Dockerfile, no command-line client.

use std::io::Read;
use std::path::Path;

use bollard::Docker;
use bollard::errors::Error as EngineError;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use jetway_service::tar;
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

const REPOSITORY: &str = "jetway-demo";
/// Hexadecimal digits of the executable's SHA-256 that make the tag.
const TAG_CHARS: usize = 12;
/// Bytes of the executable that are in memory at a time.
const CHUNK: usize = 256 * 1024;
/// The newest stay: another `jetway dev` of this machine may be using one whose room is empty just now.
const IMAGES_KEPT: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot read {path}")]
    Executable { path: String, source: std::io::Error },
    #[error("the Docker engine refused: {doing}")]
    Engine { doing: &'static str, source: EngineError },
}

/// What the newest is called, too: a name that documentation can print.
pub const LATEST: &str = "jetway-demo:latest";

/// The name of the image that runs this executable, and is [`LATEST`] from then on; made if the
/// engine does not have it.
pub async fn ensure_image(docker: &Docker, executable: &Path) -> Result<String, ImageError> {
    let tag = digest(executable).map_err(unreadable(executable))?;
    let name = format!("{REPOSITORY}:{tag}");
    match docker.inspect_image(&name).await {
        Ok(_) => {}
        Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => {
            import(docker, executable, &tag).await?;
        }
        Err(source) => return Err(ImageError::Engine { doing: "looking for the image", source }),
    }
    let options = TagImageOptionsBuilder::default().repo(REPOSITORY).tag("latest").build();
    docker
        .tag_image(&name, Some(options))
        .await
        .map_err(|source| ImageError::Engine { doing: "naming the image", source })?;
    remove_older(docker, &name).await;
    Ok(name)
}

/// SHA-256 without the whole file in memory.
fn digest(executable: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(executable)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => hash.update(&chunk[..read]),
        }
    }
    Ok(data_encoding::HEXLOWER.encode(&hash.finalize())[..TAG_CHARS].to_owned())
}

async fn import(docker: &Docker, executable: &Path, tag: &str) -> Result<(), ImageError> {
    let file = tokio::fs::File::open(executable).await.map_err(unreadable(executable))?;
    let length = file.metadata().await.map_err(unreadable(executable))?.len();
    let edge = |bytes: Vec<u8>| futures_util::stream::iter([Ok(Bytes::from(bytes))]);
    let body = edge(tar::header("jetway", 0o755, length).to_vec())
        .chain(ReaderStream::with_capacity(file, CHUNK))
        .chain(edge(tar::trailer(length)));
    let changes = [
        r#"ENTRYPOINT ["/jetway","demo-app"]"#.to_owned(),
        "USER 65534:65534".to_owned(),
        "EXPOSE 8080".to_owned(),
        "LABEL jetway.image=demo".to_owned(),
    ];
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(REPOSITORY)
        .tag(tag)
        .changes(changes.to_vec())
        .build();
    docker
        .create_image(Some(options), Some(bollard::body_try_stream(body)), None)
        .try_for_each(|_progress| std::future::ready(Ok(())))
        .await
        .map_err(|source| ImageError::Engine { doing: "importing the demo's image", source })
}

/// Images of executables that were built before the last few, except those that containers use. What cannot be removed stays.
async fn remove_older(docker: &Docker, current: &str) {
    let filters = |name: &str, value: &str| [(name.to_owned(), vec![value.to_owned()])].into_iter().collect();
    let of_ours = filters("reference", REPOSITORY);
    let options = ListImagesOptionsBuilder::default().filters(&of_ours).build();
    let Ok(mut images) = docker.list_images(Some(options)).await else { return };
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let older = images
        .into_iter()
        .skip(IMAGES_KEPT)
        .flat_map(|image| image.repo_tags)
        .filter(|name| name != current && name != LATEST);
    for name in older {
        let users = filters("ancestor", &name);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&users).build();
        if docker.list_containers(Some(options)).await.is_ok_and(|containers| containers.is_empty()) {
            let options = RemoveImageOptionsBuilder::default().build();
            if let Err(error) = docker.remove_image(&name, Some(options), None).await {
                tracing::debug!(%error, image = name, "an older demo image stays");
            }
        }
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> ImageError {
    let path = path.display().to_string();
    move |source| ImageError::Executable { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any file will do: that the image also runs is what the whole-system test of the demo shows.
    #[tokio::test]
    async fn the_image_is_made_once_and_holds_the_file() {
        let docker = Docker::connect_with_local_defaults().unwrap().negotiate_version().await.unwrap();
        let path = std::env::temp_dir().join(format!("jetway-image-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, uuid::Uuid::new_v4().as_bytes().repeat(100_000)).unwrap();
        let name = format!("{REPOSITORY}:{}", digest(&path).unwrap());
        import(&docker, &path, &digest(&path).unwrap()).await.unwrap();
        let image = docker.inspect_image(&name).await.unwrap();
        assert!(image.size.unwrap() >= 1_600_000);
        let config = image.config.unwrap();
        assert_eq!(config.entrypoint.unwrap(), ["/jetway", "demo-app"]);
        assert_eq!(config.user.as_deref(), Some("65534:65534"));
        docker
            .remove_image(&name, None::<bollard::query_parameters::RemoveImageOptions>, None)
            .await
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let missing = ensure_image(&docker, &path).await.unwrap_err();
        assert!(matches!(missing, ImageError::Executable { .. }), "{missing}");
    }
}
