//! Logs on stderr: text on a terminal, JSON where `JETWAY_LOG_FORMAT=json`; filtered by `JETWAY_LOG` (default `info`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets the process's subscriber; a second call changes nothing.
pub fn start(default_filter: &str) {
    let filter = EnvFilter::try_from_env("JETWAY_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let json = std::env::var("JETWAY_LOG_FORMAT").is_ok_and(|format| format == "json");
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Colours are for people: a log file gets none.
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    let _already_set = if json { builder.json().try_init() } else { builder.compact().try_init() };
}
