//! The directory that a session may ask for, below the drone's mount base. Not its business: who may ask for which.
//!
//! Every component is opened from its parent without following a link, so a link that a session made in one mount
//! cannot lead another out of the base. The engine looks the path up again by name; what it then really mounted is
//! compared ([`Identity`]) while init is still parked, before any of the session's code has run.
//!
//! A directory that is made here gets its owner once the container is made, because only that knows
//! an image's users by name. Until then its mode is [`UNFINISHED`], so that the next start goes on
//! where an agent died.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Where the directory appears in the container.
pub const TARGET: &str = "/plane-data";
/// Components of a mount's path, at most.
const COMPONENTS_MAX: usize = 32;

/// Of a directory without its owner: nobody's.
const UNFINISHED: Mode = Mode::empty();
const FINISHED: Mode = Mode::from_raw_mode(0o755);
const PERMISSIONS: u32 = 0o7777;

/// Which directory it is, whatever its name: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

#[derive(Debug)]
pub struct DataMount {
    pub path: PathBuf,
    pub identity: Identity,
    directory: OwnedFd,
    /// It was made here and has no owner yet.
    pub is_unfinished: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MountError {
    #[error("the mount {0:?} must be a relative path without \"..\"")]
    BadPath(String),
    #[error(
        "the mount {0:?} leads through something that is not a directory below the mount base (links are not followed)"
    )]
    Escapes(String),
    #[error("the mount {mount:?} cannot be opened: {reason}")]
    Failed { mount: String, reason: String },
}

/// Opens the directory, making what is missing. One that is made here is unfinished: see
/// [`DataMount::finish`].
pub fn resolve(base: &Path, mount: &str) -> Result<DataMount, MountError> {
    let names = names(mount)?;
    let failed = |errno: Errno| match errno {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => MountError::Escapes(mount.to_owned()),
        other => MountError::Failed { mount: mount.to_owned(), reason: other.to_string() },
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The base itself is the operator's: links in it are theirs.
    let mut directory = rustix::fs::openat(CWD, base, flags, Mode::empty()).map_err(failed)?;
    for (index, name) in names.iter().enumerate() {
        let mode = if index + 1 == names.len() { UNFINISHED } else { FINISHED };
        match rustix::fs::mkdirat(&directory, *name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        directory = open_below(&directory, name).map_err(failed)?;
    }
    let stat = rustix::fs::fstat(&directory).map_err(failed)?;
    Ok(DataMount {
        path: names.iter().fold(base.to_owned(), |path, name| path.join(name)),
        identity: Identity { device: stat.st_dev, inode: stat.st_ino },
        is_unfinished: stat.st_mode & PERMISSIONS == UNFINISHED.as_raw_mode(),
        directory,
    })
}

impl DataMount {
    /// Gives a directory that was made here to its owner (uid, gid); `None`: it stays this
    /// process's.
    pub fn finish(&self, owner: Option<(u32, u32)>) {
        if !self.is_unfinished {
            return;
        }
        let mount = self.path.display();
        if let Some((uid, gid)) = owner {
            let (user, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            let given =
                rustix::fs::chownat(&self.directory, "", Some(user), Some(group), AtFlags::EMPTY_PATH);
            if let Err(errno) = given {
                tracing::warn!(%mount, uid, %errno, "a new mount directory could not be given to the session's user");
            }
        }
        // A descriptor that was opened by path alone takes no fchmod.
        let opened = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        if let Err(errno) = rustix::fs::chmod(opened, FINISHED) {
            tracing::warn!(%mount, %errno, "a new mount directory could not be opened to its users");
        }
    }
}

/// What a running container has mounted; `None` where this process may not look.
pub fn mounted(pid: i64) -> Option<Identity> {
    let stat = rustix::fs::stat(format!("/proc/{pid}/root{TARGET}")).ok()?;
    Some(Identity { device: stat.st_dev, inode: stat.st_ino })
}

fn names(mount: &str) -> Result<Vec<&str>, MountError> {
    let bad = || MountError::BadPath(mount.chars().take(80).collect());
    let mut names = Vec::new();
    for component in Path::new(mount).components() {
        match component {
            Component::Normal(name) => names.push(name.to_str().ok_or_else(bad)?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(bad()),
        }
    }
    if names.is_empty() || names.len() > COMPONENTS_MAX || mount.contains('\0') {
        Err(bad())
    } else {
        Ok(names)
    }
}

fn open_below(directory: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
        // A kernel (or a seccomp filter) without openat2: one plain name needs no more than NOFOLLOW.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn base() -> PathBuf {
        let base = std::env::temp_dir().join(format!("jetway-mount-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&base).unwrap();
        base
    }

    #[test]
    fn what_is_missing_is_made_and_the_identity_is_the_directorys() {
        let base = base();
        let mount = resolve(&base, "./a/b").unwrap();
        assert_eq!(mount.path, base.join("a/b"));
        assert_eq!(mount.identity.inode, std::fs::metadata(base.join("a/b")).unwrap().ino());
        let again = resolve(&base, "a//b").unwrap();
        assert_eq!((again.path, again.identity), (mount.path, mount.identity));
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn nothing_leads_out_of_the_base() {
        let base = base();
        for bad in ["", ".", "/etc", "..", "a/../../b", "a\0b"] {
            assert!(matches!(resolve(&base, bad), Err(MountError::BadPath(_))), "{bad:?}");
        }
        symlink("/etc", base.join("out")).unwrap();
        std::fs::create_dir(base.join("in")).unwrap();
        symlink("in", base.join("alias")).unwrap();
        std::fs::write(base.join("file"), b"").unwrap();
        for bad in ["out", "out/ssl", "alias", "file", "file/x"] {
            assert!(matches!(resolve(&base, bad), Err(MountError::Escapes(_))), "{bad:?}");
        }
        assert!(!base.join("in/x").exists());
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn only_what_is_made_here_gets_an_owner() {
        let base = base();
        let mode = |name: &str| std::fs::metadata(base.join(name)).unwrap().mode() & 0o7777;
        let owner = |name: &str| {
            let found = std::fs::metadata(base.join(name)).unwrap();
            (found.uid(), found.gid())
        };
        let ours = owner("");
        assert!(resolve(&base, "team/a").unwrap().is_unfinished);
        assert_eq!((mode("team"), mode("team/a")), (0o755, 0));
        // The agent before this one died in between.
        let mount = resolve(&base, "team/a").unwrap();
        let wanted = if ours.0 == 0 { (1000, 50) } else { ours };
        mount.finish(Some(wanted));
        assert_eq!((owner("team"), owner("team/a"), mode("team/a")), (ours, wanted, 0o755));
        let found = resolve(&base, "team/a").unwrap();
        assert!(!found.is_unfinished);
        found.finish(Some((7, 7)));
        assert_eq!(owner("team/a"), wanted, "it is somebody's already");
        std::fs::remove_dir_all(base).unwrap();
    }
}
