//! What an engine says of itself and of its host, read once at the start. Pure: from its answers to
//! facts.

use std::path::PathBuf;

use serde_json::Value;

use super::answer::text;

/// As the driver's status names what keeps the containers' files.
const CONTAINERD_STORE: &str = "io.containerd.snapshotter";
/// Drivers that limit a container's disk by the quotas of the file system below them, which is xfs
/// then.
const LIMITING_ON_XFS: [&str; 2] = ["overlay2", "vfs"];
const XFS: &str = "xfs";

#[derive(Debug, Clone, Default)]
pub struct EngineFacts {
    pub version: String,
    pub api: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub cgroup_version: String,
    pub storage_driver: String,
    /// False: a container's disk cannot be limited, though some of those engines accept a limit and
    /// ignore it.
    pub can_limit_disk: bool,
    /// Under `userns-remap`: the uid and gid on the host that containers' root has.
    pub remapped_root: Option<(u32, u32)>,
    pub runtimes: Vec<String>,
    /// Its directory, on its own host.
    pub root: PathBuf,
}

impl EngineFacts {
    /// From `/version` and `/info`.
    pub fn read(version: &Value, info: &Value) -> Self {
        let root = PathBuf::from(text(&info["DockerRootDir"]));
        Self {
            version: text(&version["Version"]),
            api: text(&version["ApiVersion"]),
            cpus: info["NCPU"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            memory_bytes: info["MemTotal"].as_u64().unwrap_or(0),
            cgroup_version: text(&info["CgroupVersion"]),
            storage_driver: text(&info["Driver"]),
            can_limit_disk: can_limit_disk(info),
            remapped_root: is_remapped(info).then(|| remapped_root(&root)).flatten(),
            runtimes: info["Runtimes"]
                .as_object()
                .map(|all| all.keys().cloned().collect())
                .unwrap_or_default(),
            root,
        }
    }
}

/// Where it cannot be told, the engine's own refusal counts.
fn can_limit_disk(info: &Value) -> bool {
    let status = |name: &str| {
        let rows = info["DriverStatus"].as_array().into_iter().flatten();
        rows.filter(|row| row[0].as_str() == Some(name)).find_map(|row| row[1].as_str())
    };
    if status("driver-type").is_some_and(|kind| kind.starts_with(CONTAINERD_STORE)) {
        return false;
    }
    let needs_xfs = info["Driver"].as_str().is_some_and(|driver| LIMITING_ON_XFS.contains(&driver));
    !needs_xfs || status("Backing Filesystem").is_none_or(|found| found == XFS)
}

fn is_remapped(info: &Value) -> bool {
    let options = info["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    options.into_iter().any(|option| option.split(',').any(|part| part == "name=userns"))
}

/// An engine that remaps keeps its files in a directory that is named after its root:
/// `/var/lib/docker/100000.100000`.
fn remapped_root(root: &std::path::Path) -> Option<(u32, u32)> {
    let (uid, gid) = root.file_name()?.to_str()?.split_once('.')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(info: &Value) -> EngineFacts {
        EngineFacts::read(&json!({ "Version": "x", "ApiVersion": "1.41" }), info)
    }

    #[test]
    fn only_some_storage_limits_a_containers_disk() {
        for (driver, status, expect) in [
            ("overlay2", json!([["Backing Filesystem", "extfs"], ["Supports d_type", "true"]]), false),
            ("overlay2", json!([["Backing Filesystem", "xfs"], ["Supports d_type", "true"]]), true),
            ("overlayfs", json!([["driver-type", "io.containerd.snapshotter.v1"]]), false),
            ("vfs", json!(null), true),
            ("btrfs", json!([["Btrfs", ""]]), true),
            ("zfs", json!([["Zpool", "x"]]), true),
        ] {
            let info = json!({ "Driver": driver, "DriverStatus": status });
            assert_eq!(read(&info).can_limit_disk, expect, "{info}");
        }
    }

    #[test]
    fn a_remapped_root_is_read_from_its_directory() {
        for (options, root, expect) in [
            (json!(["name=seccomp,profile=builtin"]), "/var/lib/docker", None),
            (
                json!(["name=seccomp,profile=default", "name=userns"]),
                "/d/165536.231072",
                Some((165_536, 231_072)),
            ),
            // The directory alone says nothing: an operator may have named it so.
            (json!(["name=rootless"]), "/d/1.2", None),
            (json!(null), "/d/1.2", None),
            (json!(["name=userns"]), "/var/lib/docker", None),
        ] {
            let info = json!({ "SecurityOptions": options, "DockerRootDir": root });
            assert_eq!(read(&info).remapped_root, expect, "{info}");
        }
    }

    #[test]
    fn an_answer_with_nothing_in_it_is_read_too() {
        let facts = EngineFacts::read(&Value::Null, &Value::Null);
        assert_eq!((facts.cpus, facts.memory_bytes, facts.remapped_root), (1, 0, None));
    }
}
