//! The slots' and the lease's directories below the run directory: checked at the start, and swept of what a host's reboot or a kill
//! left where the run directory is on disk. Not its business: the sockets in them.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jetway_protocol::ids::SlotId;
use jetway_protocol::init::SOCKET_PATH_BYTES_MAX;

use super::config::DockerConfig;
use super::engine::Engine;
use super::errors::ConnectError;
use super::{container, names};
use crate::lease;
use crate::runtime::init_line;

/// Made now, and checked for the length that a socket's path may have.
pub fn prepare(config: &DockerConfig) -> Result<(), ConnectError> {
    let slots = root(config);
    let wrong = |reason: String| ConnectError::Directory { path: config.run_dir.clone(), reason };
    let length = of(config, SlotId(uuid::Uuid::nil())).join(init_line::SOCKET).as_os_str().len();
    if length > SOCKET_PATH_BYTES_MAX {
        let excess = length - SOCKET_PATH_BYTES_MAX;
        return Err(wrong(format!(
            "it is {excess} bytes too long for the sockets in it: choose a shorter --run-dir"
        )));
    }
    lease::file::prepare(&lease::file::directory(&config.run_dir))
        .map_err(|error| wrong(error.to_string()))?;
    std::fs::create_dir_all(&slots).map_err(|error| wrong(error.to_string()))?;
    let mode = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(&slots, mode).map_err(|error| wrong(error.to_string()))
}

/// Where a slot's directory is.
pub fn of(config: &DockerConfig, slot: SlotId) -> PathBuf {
    root(config).join(names::slot_directory(slot))
}

pub fn root(config: &DockerConfig) -> PathBuf {
    config.run_dir.join("s")
}

/// Absent is success. An init that is still there without a session takes it for its end.
pub fn remove(config: &DockerConfig, slot: SlotId) {
    let directory = of(config, slot);
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %directory.display(), %error, "a slot's directory is left behind");
        }
        _ => {}
    }
}

/// Removes the directories of slots that have no container any more, whosever they were: a run directory is one
/// drone's, and a container of any drone that has been here keeps its own.
pub async fn sweep(engine: &Engine, config: &DockerConfig) -> Result<(), ConnectError> {
    let slots = container::slots_of_all(engine).await.map_err(ConnectError::Engine)?;
    let in_use = slots.into_iter().map(names::slot_directory).collect();
    for left in leftovers(&root(config), &in_use) {
        match std::fs::remove_dir_all(&left) {
            Ok(()) => tracing::info!(path = %left.display(), "removed the directory of a slot that is gone"),
            Err(error) => tracing::warn!(path = %left.display(), %error, "a slot's directory is left behind"),
        }
    }
    Ok(())
}

/// Only what is named as a slot's directory: anything else in there is somebody's.
fn leftovers(root: &Path, in_use: &HashSet<String>) -> Vec<PathBuf> {
    let shape = names::slot_directory(SlotId(uuid::Uuid::nil())).len();
    let is_slots = |name: &str| name.len() == shape && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| is_slots(name) && !in_use.contains(name))
        })
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::data_dir::tests::TestDir;

    #[test]
    fn only_slots_without_a_container_are_left_over() {
        let dir = TestDir::new();
        let (kept, gone) = (SlotId::random(), SlotId::random());
        let gone = names::slot_directory(gone);
        for name in [&names::slot_directory(kept), &gone, "notes", "0123456789abcdef"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let in_use = HashSet::from([names::slot_directory(kept)]);
        assert_eq!(leftovers(dir.path(), &in_use), [dir.path().join(gone)]);
        assert_eq!(leftovers(&dir.path().join("nowhere"), &in_use), Vec::<PathBuf>::new());
    }
}
