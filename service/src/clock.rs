//! The host's boot: its id, and the clock that goes on through suspend.

use std::time::Duration;

use jetway_protocol::ids::BootId;

/// Time since boot, suspend included (CLOCK_BOOTTIME): what leases are measured on.
pub fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The kernel's random id of this boot.
pub fn boot_id() -> std::io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// Names this process's network namespace, comparable within one boot.
pub fn network_namespace() -> std::io::Result<String> {
    Ok(std::fs::read_link("/proc/self/ns/net")?.to_string_lossy().into_owned())
}
