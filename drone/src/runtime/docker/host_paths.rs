//! The engine's names for our directories, where this process runs in a container of that engine: the engine binds
//! directories of its own host, so `/var/lib/jetway` in here may be `/var/lib/docker/volumes/x/_data` to it.
//!
//! Which container this is, the kernel's mount table says: an engine gives each container an `/etc/hostname` of its own,
//! from a directory that is named after the container's id. What is mounted where, the engine says itself; one that does
//! not know the container is another engine, and then this process is its host as far as anybody can tell. Not its
//! business: what is bound.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::engine::Engine;
use super::errors::ConnectError;
use crate::runtime::RuntimeError;

const MOUNT_TABLE: &str = "/proc/self/mountinfo";
/// Files that an engine mounts into every container; each can be switched off, so any of them will do.
const ENGINE_FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// Docker's and Podman's directories with one directory a container.
const CONTAINER_DIRECTORIES: [&str; 2] = ["containers", "overlay-containers"];
const ID_DIGITS: usize = 64;

/// A directory here, and the same one on the engine's host; `None` where the engine cannot reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    pub here: PathBuf,
    pub there: Option<PathBuf>,
}

/// A directory of ours that the engine must reach, and the flag that names it.
#[derive(Debug, Clone, Copy)]
pub struct Needed<'a> {
    pub flag: &'static str,
    pub path: &'a Path,
}

/// `HERE=THERE`, both absolute.
pub fn parse(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((here, there)) if here.starts_with('/') && there.starts_with('/') => {
            Ok((PathBuf::from(here), PathBuf::from(there)))
        }
        _ => Err("two absolute paths such as /var/lib/jetway=/srv/jetway: here, and on the engine's host"
            .to_owned()),
    }
}

/// What `DockerConfig::host_paths` is to be: what was given, and before that what the engine says of our own container.
/// Fails where the engine could not reach what it must.
pub async fn find(
    engine: &Engine,
    given: &[(PathBuf, PathBuf)],
    needed: &[Needed<'_>],
) -> Result<Vec<(PathBuf, PathBuf)>, ConnectError> {
    let given: Vec<_> = given.iter().map(|(here, there)| (real(here), there.clone())).collect();
    // A process that may not read its own mount table is told so by whatever needs it next.
    let table = std::fs::read_to_string(MOUNT_TABLE).unwrap_or_default();
    let Some(container) = own_container(&table) else { return Ok(given) };
    let inspected = match engine.get(&format!("/containers/{container}/json"), &[]).await {
        Ok(inspected) => inspected,
        Err(RuntimeError::Absent) => return Ok(given),
        Err(error) => return Err(ConnectError::Engine(error)),
    };
    let mut mounts = mounts(&inspected);
    for mount in &mut mounts {
        mount.here = real(&mount.here);
    }
    let paths = outranked(mounts, &given);
    for directory in needed {
        let path = real(directory.path);
        if on_host(&paths, &path).is_none() {
            return Err(ConnectError::OutOfReach {
                path,
                flag: directory.flag,
                advice: advice(directory.flag),
            });
        }
    }
    tracing::info!(container = &container[..12], "this drone runs in a container of its engine");
    Ok(paths.into_iter().filter_map(|path| Some((path.here, path.there?))).collect())
}

/// Without links, as far as it exists; absolute in any case.
pub fn real(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// The id of the container that has this mount table (proc_pid_mountinfo(5)); `None` for a host's.
fn own_container(mount_table: &str) -> Option<String> {
    mount_table.lines().find_map(|line| {
        // 36 35 98:0 /root/in/the/filesystem /mount/point options …
        let mut fields = line.split(' ').skip(3);
        let (root, mounted_at) = (fields.next()?, fields.next()?);
        if !ENGINE_FILES.contains(&mounted_at) {
            return None;
        }
        let names: Vec<_> = root.split('/').collect();
        let id = names.windows(2).find(|pair| CONTAINER_DIRECTORIES.contains(&pair[0]) && is_id(pair[1]))?;
        Some(id[1].to_owned())
    })
}

fn is_id(name: &str) -> bool {
    name.len() == ID_DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What the engine has mounted into a container: binds and volumes have a place on the host, a tmpfs has none.
fn mounts(inspected: &Value) -> Vec<HostPath> {
    let mounts = inspected["Mounts"].as_array().into_iter().flatten().filter_map(|mount| {
        let here = PathBuf::from(mount["Destination"].as_str()?);
        let there = match mount["Type"].as_str() {
            Some("bind" | "volume") => mount["Source"].as_str().filter(|source| source.starts_with('/')),
            _ => None,
        };
        Some(HostPath { here, there: there.map(PathBuf::from) })
    });
    let tmpfs = inspected["HostConfig"]["Tmpfs"].as_object();
    let tmpfs = tmpfs.into_iter().flatten().map(|(here, _)| HostPath { here: here.into(), there: None });
    mounts.chain(tmpfs).collect()
}

/// What was given takes the place of what was found at or below it.
fn outranked(mut found: Vec<HostPath>, given: &[(PathBuf, PathBuf)]) -> Vec<HostPath> {
    found.retain(|found| !given.iter().any(|(here, _)| found.here.starts_with(here)));
    let given = given.iter().map(|(here, there)| HostPath { here: here.clone(), there: Some(there.clone()) });
    found.extend(given);
    found
}

/// Where the engine finds a path of ours: the innermost mount decides.
fn on_host(paths: &[HostPath], path: &Path) -> Option<PathBuf> {
    let inside = paths.iter().filter(|mount| path.starts_with(&mount.here));
    let innermost = inside.max_by_key(|mount| mount.here.as_os_str().len())?;
    Some(innermost.there.as_ref()?.join(path.strip_prefix(&innermost.here).ok()?))
}

fn advice(flag: &str) -> &'static str {
    match flag {
        "--run-dir" => {
            "mount a directory of the host into the drone's container, /dev/shm:/dev/shm for one, and give a --run-dir below it"
        }
        "--mount-base" => "mount that directory of the host into the drone's container",
        _ => "give the drone's container a volume there",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_container_is_known_by_the_files_that_its_engine_mounts() {
        let line =
            |root: &str, at: &str| format!("700 690 254:0 {root} {at} rw,relatime - ext4 /dev/vda rw\n");
        let docker = format!("/var/lib/docker/containers/{ID}/hostname");
        let podman = format!("/containers/storage/overlay-containers/{ID}/userdata/hosts");
        for (what, table, expect) in [
            ("a host", line("/", "/"), None),
            ("nothing", String::new(), None),
            ("nonsense", "a b c\n\n   \n1 2 3 4".to_owned(), None),
            ("docker", line("/", "/") + &line(&docker, "/etc/hostname"), Some(ID)),
            ("a file system of its own", line(&format!("/containers/{ID}/hosts"), "/etc/hosts"), Some(ID)),
            ("podman", line(&podman, "/etc/resolv.conf"), Some(ID)),
            ("another file", line(&docker, "/etc/passwd"), None),
            ("a short id", line("/var/lib/docker/containers/abc/hosts", "/etc/hosts"), None),
            ("capitals", line(&docker.to_uppercase(), "/etc/hosts"), None),
            ("the host's own file", line("/etc/hosts", "/etc/hosts"), None),
        ] {
            assert_eq!(own_container(&table).as_deref(), expect, "{what}");
        }
    }

    #[test]
    fn binds_and_volumes_have_a_place_on_the_host_and_a_tmpfs_has_none() {
        let inspected = json!({
            "Mounts": [
                { "Type": "bind", "Source": "/dev/shm", "Destination": "/dev/shm", "RW": true },
                { "Type": "volume", "Name": "x", "Source": "/var/lib/docker/volumes/x/_data", "Destination": "/var/lib/jetway" },
                { "Type": "tmpfs", "Source": "", "Destination": "/var/lib/jetway/scratch" },
                { "Type": "npipe", "Source": "x", "Destination": "/pipe" },
                { "Type": "bind" },
            ],
            "HostConfig": { "Tmpfs": { "/run": "size=1m" } },
        });
        let paths = mounts(&inspected);
        for (path, expect) in [
            ("/dev/shm/jetway-a/s/1", Some("/dev/shm/jetway-a/s/1")),
            ("/var/lib/jetway", Some("/var/lib/docker/volumes/x/_data")),
            ("/var/lib/jetway/drone/init", Some("/var/lib/docker/volumes/x/_data/drone/init")),
            ("/var/lib/jetway/scratch/a", None),
            ("/var/lib/jetway-other", None),
            ("/run/jetway", None),
            ("/pipe", None),
        ] {
            assert_eq!(on_host(&paths, Path::new(path)), expect.map(PathBuf::from), "{path}");
        }
        assert_eq!(mounts(&json!({})), Vec::new());
    }

    #[test]
    fn what_was_given_outranks_what_was_found() {
        let at = |here: &str, there: &str| HostPath { here: here.into(), there: Some(there.into()) };
        let found = vec![at("/data/inner", "/found/inner"), at("/other", "/found/other")];
        let paths = outranked(found, &[parse("/data=/given").unwrap()]);
        assert_eq!(on_host(&paths, Path::new("/data/inner/x")), Some("/given/inner/x".into()));
        assert_eq!(on_host(&paths, Path::new("/other/x")), Some("/found/other/x".into()));
    }

    #[test]
    fn a_host_path_is_two_absolute_paths() {
        assert_eq!(parse("/a=/b"), Ok(("/a".into(), "/b".into())));
        for bad in ["", "/a", "/a=", "a=/b", "/a=b", "="] {
            assert!(parse(bad).unwrap_err().contains("absolute"), "{bad:?}");
        }
    }
}
