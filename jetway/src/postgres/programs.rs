//! Where the Postgres programs are: `JETWAY_PG_BIN`, `pg_config`, Debian's directories, `PATH`, in this order.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::PostgresError;

const DEBIAN: &str = "/usr/lib/postgresql";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    pub bin: PathBuf,
    pub major: u32,
}

impl Programs {
    /// The first that is complete; where data is there already, the first of the version that made it.
    pub fn find(made_by: Option<u32>) -> Result<Self, PostgresError> {
        let found = candidates().into_iter().filter_map(|bin| Self::at(&bin));
        choose(found, made_by).ok_or(PostgresError::NoPrograms)
    }

    fn at(bin: &Path) -> Option<Self> {
        if !["initdb", "pg_ctl"].iter().all(|name| bin.join(name).is_file()) {
            return None;
        }
        let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { bin: bin.to_owned(), major })
    }
}

fn choose(found: impl Iterator<Item = Programs>, made_by: Option<u32>) -> Option<Programs> {
    let mut first = None;
    for programs in found {
        if made_by.is_none_or(|major| major == programs.major) {
            return Some(programs);
        }
        first.get_or_insert(programs);
    }
    first
}

fn candidates() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os("JETWAY_PG_BIN") {
        return vec![named.into()];
    }
    let mut directories = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        directories.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let entries = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut versions: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    directories
        .extend(versions.iter().map(|version| Path::new(DEBIAN).join(version.to_string()).join("bin")));
    directories.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    directories
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is 15.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta2"), Some(18));
        assert_eq!(major_of("postgres"), None);
    }

    #[test]
    fn data_chooses_the_version_that_made_it() {
        let programs = |major| Programs { bin: PathBuf::from(format!("/{major}")), major };
        let all = || [17, 15].into_iter().map(programs);
        assert_eq!(choose(all(), None).unwrap().major, 17);
        assert_eq!(choose(all(), Some(15)).unwrap().major, 15);
        assert_eq!(choose(all(), Some(16)).unwrap().major, 17, "the caller says what is wrong");
        assert_eq!(choose(std::iter::empty(), Some(16)), None);
    }
}
