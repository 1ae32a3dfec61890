//! `jetway dev --clean`: nothing of earlier runs is left, neither on the engine nor in the data
//! directory.
//!
//! An agent is started without a controller, adopts what runs and ends it; so there is one way to
//! take a session away. Only what `jetway dev` itself makes is removed: a data directory may hold
//! other things.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use jetway_service::lifecycle::Lifecycle;

use super::files;
use crate::postgres;

/// Sessions that are to go need no long goodbye.
const STOP_SESSIONS: Duration = Duration::from_secs(1);

pub async fn clean(
    data_dir: &Path,
    drone: impl FnOnce() -> anyhow::Result<jetway_drone::Config>,
) -> anyhow::Result<()> {
    if data_dir.join(files::DRONE).join("drone.json").exists() {
        let lifecycle = Lifecycle::new();
        let drone = jetway_drone::start_to_leave(
            jetway_drone::Config { sandboxes: 0, ..drone()? },
            lifecycle.clone(),
        );
        if let Some(drone) = drone.await.context("what earlier runs have started cannot be ended")? {
            let left = drone.stop_sessions(STOP_SESSIONS).await;
            anyhow::ensure!(left == 0, "{left} sessions of earlier runs do not end; look at: docker ps");
        }
        lifecycle.stop().await;
    }
    postgres::remove(data_dir).await?;
    for name in [files::DRONE, files::MOUNTS] {
        removed(std::fs::remove_dir_all(data_dir.join(name)), name)?;
    }
    removed(std::fs::remove_file(data_dir.join(files::SECRET)), files::SECRET)
}

fn removed(outcome: io::Result<()>, name: &str) -> anyhow::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {name} in the data directory"))
        }
        _ => Ok(()),
    }
}
