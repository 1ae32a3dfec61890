//! Where things are on this machine: run directories on tmpfs, the init executable, the host's name.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use sha2::{Digest, Sha256};

/// statfs(2): the type of a tmpfs.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// The init to mount into containers: the one given, else the one beside this executable.
pub fn init_executable(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| format!("no init at {}", path.display()));
    }
    let own = std::env::current_exe().context("cannot tell where this executable is")?;
    let path = own.with_file_name("jetway-init");
    if path.is_file() {
        Ok(path)
    } else {
        Err(anyhow!("jetway-init is not beside {} (make build puts both into bin/)", own.display()))
    }
}

/// A short directory for sockets, one for each data directory, on tmpfs where there is one that we may write.
pub fn default_run_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let (base, _) = run_base()?;
    std::fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
    let data_dir = data_dir.canonicalize()?;
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let run_dir = base.join(format!("jetway-{}", data_encoding::HEXLOWER.encode(&digest[..4])));
    // Containers of any uid reach their sockets below it, so others may pass through but not look around.
    match std::fs::DirBuilder::new().mode(0o711).create(&run_dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let owner = std::fs::symlink_metadata(&run_dir)?;
            if !owner.is_dir() || owner.uid() != rustix::process::geteuid().as_raw() {
                return Err(anyhow!("{} belongs to somebody else; use --run-dir", run_dir.display()));
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot make {}", run_dir.display())),
    }
    std::fs::set_permissions(&run_dir, std::fs::Permissions::from_mode(0o711))?;
    Ok(run_dir)
}

/// Takes a run directory of our own making away if nothing is in it any more; with sessions left, it stays.
pub fn leave_run_dir(run_dir: &Path) {
    for directory in [run_dir.join("s"), run_dir.to_owned()] {
        let _stays_if_in_use = std::fs::remove_dir(directory);
    }
}

pub fn is_on_tmpfs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC)
}

/// The directory under which run directories are made, and whether it is a tmpfs.
pub fn run_base() -> anyhow::Result<(PathBuf, bool)> {
    let candidates = ["/run", "/dev/shm", "/tmp"].map(PathBuf::from);
    let writable = |path: &&PathBuf| rustix::fs::access(path.as_path(), rustix::fs::Access::WRITE_OK).is_ok();
    if let Some(path) = candidates.iter().filter(writable).find(|path| is_on_tmpfs(path)) {
        return Ok((path.clone(), true));
    }
    let path = candidates
        .iter()
        .find(writable)
        .context("no place for sockets: none of /run, /dev/shm and /tmp may be written; give --run-dir")?;
    Ok((path.clone(), false))
}

/// The host's name, for a proxy that was given none.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}
