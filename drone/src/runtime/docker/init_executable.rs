//! The copy of init's executable that is mounted into every container. Each version has a directory of its own, so
//! that an upgrade changes nothing under a running session. Not its business: the mount itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use sha2::{Digest, Sha256};

/// Hexadecimal digits of the executable's SHA-256 that name its directory.
const HASH_DIGITS: usize = 16;
const EXECUTABLE: &str = "jetway-init";

#[derive(Debug, thiserror::Error)]
pub enum InitExecutableError {
    #[error("{path} cannot be read: {reason}; build jetway-init or say where it is")]
    Unreadable { path: PathBuf, reason: String },
    #[error("init's executable cannot be put into {path}: {reason}")]
    Unwritable { path: PathBuf, reason: String },
    #[error("{0} is mounted noexec, so no container could run init from it: choose another --data-dir")]
    NoExec(PathBuf),
}

/// Copies the executable below `data_dir` where it is not there yet. Returns the directory to mount.
pub fn install(executable: &Path, data_dir: &Path) -> Result<PathBuf, InitExecutableError> {
    let bytes = fs::read(executable).map_err(|error| InitExecutableError::Unreadable {
        path: executable.to_owned(),
        reason: error.to_string(),
    })?;
    let mut hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
    hash.truncate(HASH_DIGITS);
    let directory = data_dir.join("init").join(hash);
    let unwritable = |error: std::io::Error| InitExecutableError::Unwritable {
        path: directory.clone(),
        reason: error.to_string(),
    };
    fs::create_dir_all(&directory).map_err(unwritable)?;
    // The process's umask may be stricter than what the containers' users need.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).map_err(unwritable)?;
    let no_exec = rustix::fs::statvfs(&directory)
        .map_err(|error| unwritable(error.into()))?
        .f_flag
        .contains(StatVfsMountFlags::NOEXEC);
    if no_exec {
        return Err(InitExecutableError::NoExec(data_dir.to_owned()));
    }
    let target = directory.join(EXECUTABLE);
    if fs::read(&target).ok().as_deref() != Some(&bytes[..]) {
        write_whole(&target, &bytes).map_err(unwritable)?;
    }
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).map_err(unwritable)?;
    Ok(directory)
}

/// By rename: nobody ever sees half of it, and a copy that is being executed is never written to.
fn write_whole(target: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let temporary = target.with_extension(unique);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_own_directory_and_is_written_once() {
        let root = std::env::temp_dir().join(format!("jetway-init-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&root).unwrap();
        let source = root.join("source");
        fs::write(&source, b"one").unwrap();
        let first = install(&source, &root).unwrap();
        let file = first.join(EXECUTABLE);
        let written = fs::metadata(&file).unwrap();
        assert_eq!(written.permissions().mode() & 0o777, 0o755);
        assert_eq!(install(&source, &root).unwrap(), first);
        assert_eq!(
            std::os::unix::fs::MetadataExt::ino(&fs::metadata(&file).unwrap()),
            std::os::unix::fs::MetadataExt::ino(&written)
        );
        fs::write(&source, b"two").unwrap();
        let second = install(&source, &root).unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read(&file).unwrap(), b"one");
        // A damaged copy is put right.
        fs::write(&file, b"half").unwrap();
        fs::write(&source, b"one").unwrap();
        install(&source, &root).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"one");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_missing_executable_says_what_to_do() {
        let error = install(Path::new("/nowhere/jetway-init"), Path::new("/tmp")).unwrap_err();
        assert!(error.to_string().contains("build jetway-init"), "{error}");
    }
}
