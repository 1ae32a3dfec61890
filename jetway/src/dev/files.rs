//! What `jetway dev` keeps in its data directory beside Postgres and the drone's own: the secret, the drone's port.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use jetway_protocol::secret::Secret;

/// What is in the data directory beside Postgres.
pub const DRONE: &str = "drone";
pub const MOUNTS: &str = "mounts";
pub const SECRET: &str = "secret";

/// Makes the directory, mode 0711: Postgres and containers of other uids pass through, nobody looks around.
pub fn prepare_data_dir(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    let path = path.canonicalize()?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711))?;
    Ok(path)
}

/// The installation's secret: made once, readable by its owner only.
pub fn secret(data_dir: &Path) -> anyhow::Result<Secret> {
    let path = data_dir.join(SECRET);
    if !path.exists() {
        let text = format!("{}{}\n", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        write_private(&path, &text)?;
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Secret::new(&text).with_context(|| format!("{} is damaged; remove it to get a new one", path.display()))
}

/// The drone's address of last time if it is still free, so that URLs survive a restart with `--keep`.
pub fn remembered_address(drone_dir: &Path) -> anyhow::Result<SocketAddr> {
    prepare_data_dir(drone_dir)?;
    let path = drone_dir.join("listen");
    let remembered =
        std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<SocketAddr>().ok());
    if let Some(address) = remembered
        && TcpListener::bind(address).is_ok()
    {
        return Ok(address);
    }
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    write_private(&path, &format!("{address}\n"))?;
    Ok(address)
}

/// Written whole or not at all: a reader, or a crash, never meets half a file.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
}
