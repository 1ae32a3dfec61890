//! Whose processes Postgres' are, and where its files and its socket go so that this account can reach them.

use std::fs::{DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::PostgresError;
use super::lock::make_directory;

/// Where the data goes when the account of Postgres cannot reach the data directory.
const ELSEWHERE: &str = "/var/lib/jetway";
/// In the data directory: where else the data is. With the file goes the memory of it, as with the data.
const ELSEWHERE_FILE: &str = "postgres.place";
const PASSWD: &str = "/etc/passwd";

/// What a process other than ours runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// `None`: we are not root, and Postgres can be us.
pub fn account() -> Result<Option<Account>, PostgresError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    // Read by hand: a static executable cannot load what getpwnam needs.
    let passwd = std::fs::read_to_string(PASSWD).map_err(file_error("read", Path::new(PASSWD)))?;
    find_account(&passwd).map(Some).ok_or(PostgresError::NoAccount)
}

fn find_account(passwd: &str) -> Option<Account> {
    let named = |name: &str| {
        let fields: Vec<&str> = passwd
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.collect()))?;
        let account = Account { uid: fields.get(1)?.parse().ok()?, gid: fields.get(2)?.parse().ok()? };
        (account.uid != 0).then_some(account)
    };
    named("postgres").or_else(|| named("nobody"))
}

#[derive(Debug, Clone)]
pub struct Place {
    pub account: Option<Account>,
    pub data: PathBuf,
    pub log: PathBuf,
    pub note: Option<String>,
}

impl Place {
    /// The data directory itself, or one that the account can reach.
    pub fn choose(data_dir: &Path, account: Option<Account>) -> Result<Self, PostgresError> {
        let data_dir = data_dir.canonicalize().map_err(file_error("find", data_dir))?;
        let reachable = account.is_none_or(|account| reaches(account, &data_dir));
        let (home, note) = if reachable {
            (data_dir, None)
        } else {
            let home = elsewhere(&data_dir)?;
            let note = format!(
                "the account that Postgres runs under cannot reach {}; its data is in {}",
                data_dir.display(),
                home.display()
            );
            (home, Some(note))
        };
        Ok(Self { account, data: home.join("postgres"), log: home.join("postgres.log"), note })
    }

    /// The major version that made the data, where there is some.
    pub fn made_by(&self) -> Option<u32> {
        std::fs::read_to_string(self.data.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// What was kept here, and the note of where that is.
    pub fn remove(&self, data_dir: &Path) -> Result<(), PostgresError> {
        let log = &self.log;
        remove_all(&self.data)?;
        remove_all(&self.data.with_extension("new"))?;
        remove_all(log)?;
        remove_all(&log.with_extension("log.old"))?;
        if let Some(home) = self.data.parent().filter(|home| home.parent() == Some(Path::new(ELSEWHERE))) {
            remove_all(home)?;
        }
        remove_all(&data_dir.join(ELSEWHERE_FILE))
    }

    /// A directory for Postgres alone.
    pub fn make_private(&self, path: &Path) -> Result<(), PostgresError> {
        DirBuilder::new().mode(0o700).create(path).map_err(file_error("make", path))?;
        self.give(path)
    }

    pub fn give(&self, path: &Path) -> Result<(), PostgresError> {
        let Some(Account { uid, gid }) = self.account else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(file_error("change the owner of", path))
    }

    /// The directory of the socket: private, and short, since a socket's path has at most 107 bytes. Its name comes
    /// from the data's path and inode, so that data made anew does not meet the server of what was there before.
    pub fn make_socket_directory(&self) -> Result<PathBuf, PostgresError> {
        let inode = std::fs::metadata(&self.data).map_err(file_error("find", &self.data))?.ino();
        let mut hash = Sha256::new();
        hash.update(self.data.as_os_str().as_encoded_bytes());
        hash.update(inode.to_le_bytes());
        let name = format!("jetway-pg-{}", &data_encoding::HEXLOWER.encode(&hash.finalize())[..12]);
        let runtime =
            std::env::var_os("XDG_RUNTIME_DIR").filter(|_| self.account.is_none()).map(PathBuf::from);
        let bases = runtime.into_iter().chain(["/run", "/dev/shm", "/tmp"].map(PathBuf::from));
        let mut failure = None;
        for base in bases.filter(|base| base.as_os_str().len() < 60) {
            let path = base.join(&name);
            if path.symlink_metadata().is_ok() {
                return self.check_private(path);
            }
            match self.make_private(&path) {
                Ok(()) => return Ok(path),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(PostgresError::SocketDirectory(name.into())))
    }

    /// What is there by that name may be somebody else's trap, where the base is open to all.
    fn check_private(&self, path: PathBuf) -> Result<PathBuf, PostgresError> {
        let metadata = path.symlink_metadata().map_err(file_error("find", &path))?;
        let owner = self.account.map_or(rustix::process::geteuid().as_raw(), |account| account.uid);
        let private =
            metadata.is_dir() && metadata.uid() == owner && metadata.permissions().mode() & 0o077 == 0;
        if private { Ok(path) } else { Err(PostgresError::SocketDirectory(path)) }
    }
}

/// Whether the account may pass through every directory on the way.
fn reaches(account: Account, path: &Path) -> bool {
    path.ancestors().all(|directory| directory.metadata().is_ok_and(|metadata| may_enter(account, &metadata)))
}

fn may_enter(account: Account, metadata: &Metadata) -> bool {
    let bit = match (metadata.uid() == account.uid, metadata.gid() == account.gid) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    metadata.mode() & bit != 0
}

fn remove_all(path: &Path) -> Result<(), PostgresError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn elsewhere(data_dir: &Path) -> Result<PathBuf, PostgresError> {
    let file = data_dir.join(ELSEWHERE_FILE);
    if let Ok(text) = std::fs::read_to_string(&file) {
        let home = PathBuf::from(text.trim());
        if home.parent() == Some(Path::new(ELSEWHERE)) && home.is_dir() {
            return Ok(home);
        }
    }
    let base = Path::new(ELSEWHERE);
    make_directory(base)?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let home = base.join(&id[..12]);
    make_directory(&home)?;
    std::fs::write(&file, format!("{}\n", home.display())).map_err(file_error("write", &file))?;
    Ok(home)
}

pub fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PostgresError {
    let path = path.to_owned();
    move |source| PostgresError::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_comes_before_nobody_and_root_is_neither() {
        let nobody = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533:nobody:/nonexistent:/bin/false\n";
        assert_eq!(find_account(nobody), Some(Account { uid: 65534, gid: 65533 }));
        let both = format!("{nobody}postgres:x:101:104::/var/lib/postgresql:/bin/bash\n");
        assert_eq!(find_account(&both), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(find_account("postgres:x:0:0::/:/bin/sh\n"), None);
        assert_eq!(find_account("postgres:x\nnobody\n"), None);
    }

    #[test]
    fn closed_directories_are_not_reached() {
        let base = std::env::temp_dir().join(format!("jetway-place-{}", uuid::Uuid::new_v4()));
        let inner = base.join("inner");
        make_directory(&inner).unwrap();
        let stranger = Account { uid: 61_234, gid: 61_234 };
        assert!(reaches(stranger, &inner));
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!reaches(stranger, &inner));
        std::fs::remove_dir_all(&base).unwrap();
    }
}
