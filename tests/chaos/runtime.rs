//! The engines' runtime: runc, with two directories more in each container: where its process keeps its heartbeats (`/jcx`), and
//! where all processes lock their keys (`/jcx-keys`). A
//! mount of the session's own spec would do for sessions that start cold; no slot can be made ahead of one. The first
//! is the container's alone, so that what was written says by where it is which container wrote it.
//!
//! The engine calls this program by a link in the engine's directory.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::places::{Part, beats_dir, locks_dir};

const RUNC: &str = "runc";
const NAME: &str = "runtime";
/// Where the application writes, and where it locks its key.
const AT: &str = "/jcx";
const LOCKS_AT: &str = "/jcx-keys";

/// Makes the link; what an engine is to call.
pub fn link(engine: u8) -> anyhow::Result<PathBuf> {
    let link = Part::Engine(engine).directory().join(NAME);
    if !link.exists() {
        std::os::unix::fs::symlink(std::env::current_exe()?, &link)?;
    }
    Ok(link)
}

/// Where this program was called as a runtime: of which engine.
pub fn called() -> Option<u8> {
    let path = PathBuf::from(std::env::args_os().next()?);
    let directory = path.parent()?.file_name()?.to_str()?;
    let number = directory.strip_prefix("engine")?.parse().ok()?;
    (path.file_name()? == NAME).then_some(number)
}

/// Goes on as runc.
pub fn go_on(engine: u8) -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "create") {
        let bundle = arguments.iter().skip_while(|argument| *argument != "--bundle").nth(1);
        let container = arguments.last().context("a container")?;
        add_directories(Path::new(bundle.context("a bundle")?), &beats_dir(engine).join(container))?;
    }
    Err(Command::new(RUNC).args(arguments).exec()).context(RUNC)
}

fn add_directories(bundle: &Path, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    // Any user of the container may write to it.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o1777))?;
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    for (at, source) in [(AT, directory), (LOCKS_AT, &locks_dir())] {
        ensure!(mounts.iter().all(|mount| mount["destination"] != at), "{at} is there already");
        mounts
            .push(json!({ "destination": at, "type": "bind", "source": source, "options": ["rbind", "rw"] }));
    }
    Ok(std::fs::write(path, serde_json::to_vec(&config)?)?)
}
