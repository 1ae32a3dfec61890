//! The engine as the tests see it: images made of executables, and what a drone has left behind.

mod files;
mod own;

use std::collections::HashMap;

use anyhow::Context;
use bollard::Docker;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder,
};
use futures_util::StreamExt;
use jetway_service::tar;
use sha2::{Digest, Sha256};

pub use files::{EngineFiles, FIRST_ANSWER};
pub use own::OwnEngine;

use crate::processes::executable;

/// For one call.
const CALL_SECONDS: u64 = 60;

pub async fn docker() -> anyhow::Result<Docker> {
    docker_at(None).await
}

/// The machine's engine, or one of a test's own by what `DOCKER_HOST` would have.
pub async fn docker_at(host: Option<&str>) -> anyhow::Result<Docker> {
    let docker = match host {
        Some(host) => Docker::connect_with_unix(host, CALL_SECONDS, bollard::API_DEFAULT_VERSION)?,
        None => Docker::connect_with_local_defaults()?,
    };
    Ok(docker.negotiate_version().await?)
}

/// The image of the test application, made once for each build of it, from nothing but the executable.
pub async fn test_image(docker: &Docker) -> anyhow::Result<String> {
    let bytes = std::fs::read(executable("jetway-test-app")?)?;
    image_of(docker, "app", &[("app", &bytes)], &[r#"ENTRYPOINT ["/app"]"#, "USER 65534:65534"]).await
}

/// An image of these files (path, content; all executable), with these Dockerfile instructions.
pub async fn image_of(
    docker: &Docker,
    name: &str,
    files: &[(&str, &[u8])],
    changes: &[&str],
) -> anyhow::Result<String> {
    let executables = files.iter().map(|(path, bytes)| tar::File { path, mode: 0o755, bytes });
    let tar = tar::archive(&executables.collect::<Vec<_>>());
    let mut digest = Sha256::new();
    digest.update(&tar);
    digest.update(changes.join("\n"));
    let tag = &data_encoding::HEXLOWER.encode(&digest.finalize())[..12];
    let image = format!("jetway-test-{name}:{tag}");
    if docker.inspect_image(&image).await.is_ok() {
        return Ok(image);
    }
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(&format!("jetway-test-{name}"))
        .tag(tag)
        .changes(changes.iter().map(|change| (*change).to_owned()).collect())
        .build();
    let body = bollard::body_full(tar.into());
    let mut progress = docker.create_image(Some(options), Some(body), None);
    while let Some(step) = progress.next().await {
        step.context("import of the test image")?;
    }
    Ok(image)
}

fn by_label(label: &str, value: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{label}={value}")])])
}

/// Names of the containers that carry a label, in whatever state.
pub async fn containers(docker: &Docker, label: &str, value: &str) -> anyhow::Result<Vec<String>> {
    let options = ListContainersOptionsBuilder::default().all(true).filters(&by_label(label, value)).build();
    let list = docker.list_containers(Some(options)).await?;
    Ok(list.into_iter().filter_map(|container| container.names?.into_iter().next()).collect())
}

/// Of those, the ones that are or were a session's, or may become one's: not the namespaces that are kept for them.
pub async fn slots(docker: &Docker, label: &str, value: &str) -> anyhow::Result<Vec<String>> {
    let mut filters = by_label(label, value);
    filters.entry("label".to_owned()).or_default().push("jetway.role=slot".to_owned());
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let list = docker.list_containers(Some(options)).await?;
    Ok(list.into_iter().filter_map(|container| container.names?.into_iter().next()).collect())
}

pub async fn networks(docker: &Docker, label: &str, value: &str) -> anyhow::Result<Vec<String>> {
    let options = ListNetworksOptionsBuilder::default().filters(&by_label(label, value)).build();
    let list = docker.list_networks(Some(options)).await?;
    Ok(list.into_iter().filter_map(|network| network.name).collect())
}

/// After a failed test: removes every container and network that carries a label.
pub async fn take_away(docker: &Docker, label: &str, value: &str) -> anyhow::Result<()> {
    for name in containers(docker, label, value).await? {
        let options = bollard::query_parameters::RemoveContainerOptionsBuilder::default().force(true).build();
        docker.remove_container(name.trim_start_matches('/'), Some(options)).await?;
    }
    for name in networks(docker, label, value).await? {
        docker.remove_network(&name).await?;
    }
    Ok(())
}
