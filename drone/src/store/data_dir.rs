//! The drone's data directory: locked, because its random id is the drone's identity, and two agents with one
//! identity would end each other's sessions. What the files inside mean is for their own modules to know.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jetway_protocol::ids::{BootId, DroneId, InstallationId};
use serde::{Deserialize, Serialize};

use super::identity_lock::IdentityLock;

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("the data directory {} is in use by another drone: stop that one, or give this one another --data-dir", .0.display())]
    InUse(PathBuf),
    #[error("another drone of this host has the identity in the data directory {}: was it copied? Give this one an empty --data-dir", .0.display())]
    Copied(PathBuf),
    #[error("cannot use the data directory {}: make it writable for this user, or give another --data-dir", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error("{} is not a drone's identity: restore it, or remove the data directory if no session runs", .0.display())]
    Unreadable(PathBuf),
}

/// Who this drone is. The installation is known from the first registration on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub id: DroneId,
    #[serde(default)]
    pub installation: Option<InstallationId>,
}

#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Held as long as this value lives.
    _lock: File,
    _identity_lock: Option<IdentityLock>,
}

impl DataDir {
    pub fn open(path: &Path) -> Result<(Self, Identity), DataDirError> {
        let unusable = |source| DataDirError::Unusable { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(unusable)?;
        let lock = secret_file(&path.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(DataDirError::InUse(path.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let dir = Self { path: path.to_owned(), _lock: lock, _identity_lock: None };
        let identity = dir.identity()?;
        Ok((dir, identity))
    }

    /// Refused where another agent of this host has the same identity, which it can only have from a copy.
    pub fn lock_identity(&mut self, identity: Identity, boot_id: BootId) -> Result<(), DataDirError> {
        let lock = IdentityLock::take(identity.id, boot_id);
        self._identity_lock = Some(lock.map_err(|_taken| DataDirError::Copied(self.path.clone()))?);
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn save(&self, identity: Identity) -> Result<(), DataDirError> {
        let text = serde_json::to_vec(&identity).unwrap_or_default();
        self.replace("drone.json", &text)
            .map_err(|source| DataDirError::Unusable { path: self.path.clone(), source })
    }

    /// Where the address book stood; 0 if nobody knows.
    pub fn address_cursor(&self) -> u32 {
        let text = std::fs::read_to_string(self.path.join("address-cursor")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    pub fn save_address_cursor(&self, cursor: u32) -> io::Result<()> {
        self.replace("address-cursor", cursor.to_string().as_bytes())
    }

    fn identity(&self) -> Result<Identity, DataDirError> {
        let path = self.path.join("drone.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|_| DataDirError::Unreadable(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Identity { id: DroneId::random(), installation: None };
                self.save(identity)?;
                Ok(identity)
            }
            Err(source) => Err(DataDirError::Unusable { path, source }),
        }
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join(format!("{name}.new"));
        let mut file = secret_file(&unfinished)?;
        file.set_len(0)?;
        file.write_all(content)?;
        std::fs::rename(&unfinished, self.path.join(name))
    }
}

fn secret_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory of a test's own, removed with it.
    pub struct TestDir(PathBuf);

    impl TestDir {
        pub fn new() -> Self {
            let path = std::env::temp_dir().join(format!("jetway-drone-{}", DroneId::random()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            let _may_be_gone = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_agent_is_refused_and_the_identity_stays() {
        let dir = TestDir::new();
        let (first, identity) = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::InUse(_))));
        let installation = Some(InstallationId::random());
        first.save(Identity { installation, ..identity }).unwrap();
        drop(first);
        let (_second, again) = DataDir::open(dir.path()).unwrap();
        assert_eq!(again, Identity { id: identity.id, installation });
    }

    #[test]
    fn a_broken_identity_is_never_replaced_by_a_new_one() {
        let dir = TestDir::new();
        std::fs::write(dir.path().join("drone.json"), "{").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataDirError::Unreadable(_))));
        assert_eq!(std::fs::read_to_string(dir.path().join("drone.json")).unwrap(), "{");
    }
}
