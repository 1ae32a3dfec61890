//! How many client connections a proxy takes: as many as its open files suffice for.

use std::time::Duration;

use jetway_service::files;
use jetway_service::lines::Lines;

pub const CONNECTIONS_MAX: usize = 128 * 1024;
/// The client's, and its backend's.
const FILES_PER_CONNECTION: usize = 2;
/// For the streams to drones, calls to controllers and certificates.
const FILES_KEPT: usize = 512;
/// The client has its share of connections.
pub const SHARE_TAKEN: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nproxy-status: jetway; error=connection_limit_reached\r\n\
    retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
pub const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nproxy-status: jetway; error=connection_limit_reached\r\n\
    retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
static NOT_ACCEPTED: Lines = Lines::new(1, Duration::from_secs(10));

pub fn connections() -> usize {
    connections_for(files::limit())
}

fn connections_for(files: Option<usize>) -> usize {
    let by_files = files.map(|files| files.saturating_sub(FILES_KEPT) / FILES_PER_CONNECTION);
    by_files.map_or(CONNECTIONS_MAX, |by_files| by_files.clamp(1, CONNECTIONS_MAX))
}

/// For the log, however often it is tried again.
pub fn not_accepted(reason: &std::io::Error) {
    if let Some(left_out) = NOT_ACCEPTED.tell() {
        tracing::warn!(%reason, left_out, "no connection accepted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_files_for_every_connection_and_its_backend() {
        for (files, connections) in [
            (None, CONNECTIONS_MAX),
            (Some(1 << 30), CONNECTIONS_MAX),
            (Some(20_000), 9744),
            (Some(1024), 256),
            (Some(10), 1),
        ] {
            assert_eq!(connections_for(files), connections, "{files:?}");
        }
    }
}
