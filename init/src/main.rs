//! `jetway-init`: PID 1 in every session's container. It waits ("parks") on the drone's socket for the one session
//! that it will ever run, starts the application (or has it running by then), says when it is ready and how it ended, and brings it its signals.
//!
//! It knows nothing of keys, HTTP or Postgres, and decides nothing about how long a session lives, but
//! has the last word when the drone's lease is over. One thread, no
//! runtime: `supervisor` waits in `ppoll`, `state` decides, the other modules each speak to one part of the kernel.

mod arguments;
mod supervisor;

mod state;

mod application;
mod exec;
mod kernel;
mod lease;
mod line;
mod listening;
mod procfs;
mod sandbox;
mod signals;
mod sock_diag;

use std::process::ExitCode;

use arguments::Task;
use supervisor::Supervisor;

/// Called wrongly (`EX_USAGE` of sysexits.h).
const EXIT_MISUSE: u8 = 64;
/// The kernel refused something without which init cannot do its work (`EX_OSERR` of sysexits.h).
const EXIT_REFUSED_BY_KERNEL: u8 = 71;

fn main() -> ExitCode {
    // First of all: from here on no process of the same user can read this one's memory, environment or sockets.
    kernel::forbid_inspection();
    let task = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(task) => task,
        Err(misuse) => {
            kernel::tell(&format!("{misuse}\n{}", arguments::USAGE));
            return ExitCode::from(EXIT_MISUSE);
        }
    };
    let ended = match task {
        Task::Session(arguments) => Supervisor::new(arguments).map(|mut supervisor| supervisor.run()),
        Task::Sandbox(wanted) => sandbox::hold(wanted.as_deref()).map(|()| 0),
    };
    match ended {
        // An exit status has 8 bits; neither gives one above 255.
        Ok(status) => ExitCode::from(status.clamp(0, 255) as u8),
        Err(refused) => {
            kernel::tell(&refused.to_string());
            ExitCode::from(EXIT_REFUSED_BY_KERNEL)
        }
    }
}
