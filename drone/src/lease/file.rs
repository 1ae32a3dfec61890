//! The file with the drone's deadline: a directory of its own in the run directory, which every container has mounted
//! read-only. Replaced by rename, so that an init finds it whole. What it says is [`super::Lease`]'s business.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jetway_protocol::lease::Deadline;

/// Sessions' inits of any uid read it; what it says is no secret.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const UNFINISHED: &str = "new";

/// Where it is below a run directory.
pub fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("lease")
}

pub fn prepare(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

/// `None`: there is none, or it cannot be read.
pub fn read(directory: &Path) -> Option<Deadline> {
    std::fs::read_to_string(directory.join(Deadline::FILE_NAME)).ok()?.parse().ok()
}

pub fn write(directory: &Path, deadline: &Deadline) -> io::Result<()> {
    prepare(directory)?;
    let unfinished = directory.join(UNFINISHED);
    std::fs::write(&unfinished, deadline.to_string())?;
    std::fs::set_permissions(&unfinished, Permissions::from_mode(FILE_MODE))?;
    std::fs::rename(unfinished, directory.join(Deadline::FILE_NAME))
}

/// For a run directory in which no slot is left.
pub fn remove(run_dir: &Path) {
    let directory = directory(run_dir);
    let slots = std::fs::read_dir(run_dir.join("s"));
    if slots.is_ok_and(|mut slots| slots.next().is_some()) {
        return;
    }
    for name in [UNFINISHED, Deadline::FILE_NAME] {
        let _may_be_absent = std::fs::remove_file(directory.join(name));
    }
    let _may_be_absent = std::fs::remove_dir(directory);
}
