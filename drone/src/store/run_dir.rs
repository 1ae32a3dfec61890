//! The drone's run directory: one drone's at a time, made where it is missing, and taken away again if we made it and
//! nothing is in it. What is in it, the sockets of the slots, is the runtime's business.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::lease;

/// Sessions' users of any uid reach their sockets through it; nobody else needs to look around in it.
const MODE: u32 = 0o711;
/// In the data directory: the run directory that was made and not yet taken away.
const NOTE: &str = "run-dir";

#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    #[error("the run directory {} is in use by another drone: give this one another --run-dir", .0.display())]
    InUse(PathBuf),
    #[error("cannot use the run directory {}: make it writable for this user, or give another --run-dir", path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

/// Dropping it gives the directory free; one that we made goes, unless sessions' sockets are in it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    note: PathBuf,
    is_ours: bool,
    /// On the directory itself, so that no file is left in it.
    _lock: File,
}

impl RunDir {
    /// `data_dir` outlives this process: what one agent made, a later one may take away.
    pub fn open(path: &Path, data_dir: &Path) -> Result<Self, RunDirError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let note = data_dir.join(NOTE);
        let unusable = |source| RunDirError::Unusable { path: path.clone(), source };
        let is_new = !path.exists();
        if is_new {
            // Noted first: an agent that is killed in between has said what it was about to make.
            std::fs::write(&note, path.as_os_str().as_encoded_bytes()).map_err(unusable)?;
            std::fs::DirBuilder::new().recursive(true).mode(MODE).create(&path).map_err(unusable)?;
            std::fs::set_permissions(&path, Permissions::from_mode(MODE)).map_err(unusable)?;
        }
        let lock = File::open(&path).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(RunDirError::InUse(path)),
            Err(std::fs::TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let noted = std::fs::read(&note).unwrap_or_default();
        let is_ours = is_new || noted == path.as_os_str().as_encoded_bytes();
        Ok(Self { path, note, is_ours, _lock: lock })
    }
}

impl RunDir {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        lease::file::remove(&self.path);
        if !self.is_ours {
            return;
        }
        let _stays_if_in_use = std::fs::remove_dir(self.path.join("s"));
        if std::fs::remove_dir(&self.path).is_ok() {
            let _next_time = std::fs::remove_file(&self.note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::data_dir::tests::TestDir;

    #[test]
    fn what_was_made_goes_when_it_is_empty_also_by_a_later_agent() {
        let data = TestDir::new();
        let path = data.path().join("a/run");
        let first = RunDir::open(&path, data.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(matches!(RunDir::open(&path, data.path()), Err(RunDirError::InUse(_))));
        std::fs::create_dir_all(path.join("s/slot")).unwrap();
        drop(first);
        assert!(path.join("s/slot").is_dir(), "a session is left");
        let second = RunDir::open(&path, data.path()).unwrap();
        std::fs::remove_dir(path.join("s/slot")).unwrap();
        drop(second);
        assert!(!path.exists() && !data.path().join(NOTE).exists());
    }

    #[test]
    fn the_operators_directory_stays() {
        let data = TestDir::new();
        let path = data.path().join("run");
        std::fs::create_dir(&path).unwrap();
        drop(RunDir::open(&path, data.path()).unwrap());
        assert!(path.is_dir());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_said() {
        let data = TestDir::new();
        std::fs::write(data.path().join("file"), "").unwrap();
        let error = RunDir::open(&data.path().join("file/run"), data.path()).unwrap_err();
        assert!(error.to_string().contains("--run-dir"), "{error}");
    }
}
