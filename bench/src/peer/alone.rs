//! The application by itself, on this host: what nobody who starts it can be faster than.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::harness::processes::{Process, executable};

const LISTEN_MAX: Duration = Duration::from_secs(10);

/// From its execution until it listens.
pub fn exec_to_listen() -> anyhow::Result<Duration> {
    let program = executable("jetway-bench-app")?;
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let mut command = Command::new(program);
    command.env("PORT", port.to_string()).stdin(Stdio::null());
    let begin = Instant::now();
    let _process = Process::start(std::path::Path::new("/dev/null"), &mut command)?;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(begin.elapsed() < LISTEN_MAX, "the application does not listen");
        // Not asking all the time, which would take the processor from it.
        std::thread::park_timeout(Duration::from_micros(50));
    }
    Ok(begin.elapsed())
}
