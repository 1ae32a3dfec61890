//! One `jetway dev` a data directory: the directory, and a lock that the kernel drops with the process that took it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::PostgresError;

/// Others may pass through to what is theirs (Postgres' own account), but not look around.
pub(super) const DIRECTORY_MODE: u32 = 0o711;
const LOCK_FILE: &str = "dev.lock";

/// Held for as long as this lives.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Makes the data directory where there is none, and takes it for this process alone.
pub fn lock(data_dir: &Path) -> Result<DataDirLock, PostgresError> {
    make_directory(data_dir)?;
    let path = data_dir.join(LOCK_FILE);
    // The file stays when the lock goes: removing it would let two processes lock two files of one name.
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| PostgresError::File { doing: "open", path: path.clone(), source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DataDirLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(PostgresError::Locked(data_dir.to_owned())),
        Err(errno) => Err(PostgresError::File { doing: "lock", path, source: errno.into() }),
    }
}

/// A directory that is there already keeps the mode that somebody gave it.
pub(super) fn make_directory(path: &Path) -> Result<(), PostgresError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        // The umask may have taken bits away.
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)));
    made.map_err(|source| PostgresError::File { doing: "make", path: path.to_owned(), source })
}
