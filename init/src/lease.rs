//! The drone's deadline, as this init sees it: where the file is, when it is read, and when to look next. What it means
//! is [`LastWord`]'s to say, and what is done about it `state`'s.
//!
//! An idle init sleeps until its stop signal would be due, and looks then: with the usual lease, every nine minutes. The
//! timer is the kernel's, on the boot-time clock, so it also comes after the host was asleep.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::Path;
use std::time::Duration;

use jetway_protocol::init::SessionLease;
use jetway_protocol::lease::{Deadline, LastWord, Standing};

use crate::kernel::{self, BootTimer};

/// Whatever wakes init lets it look, but not more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// [`Deadline::FILE_NAME`], as the kernel takes it.
const FILE_NAME: &CStr = c"deadline";

pub struct Lease {
    word: LastWord,
    pub stop_signal: i32,
    /// Opened before the application ran: one that is root may rename what is above the mount.
    directory: File,
    timer: BootTimer,
    looked_at: Option<Duration>,
    look_at: Duration,
}

impl Lease {
    pub fn open(directory: &Path, session: &SessionLease) -> io::Result<Self> {
        Ok(Self {
            word: LastWord::new(session.boot_id, Duration::from_millis(session.grace_ms)),
            stop_signal: session.stop_signal,
            directory: File::open(directory)?,
            timer: BootTimer::new()?,
            looked_at: None,
            look_at: Duration::ZERO,
        })
    }

    pub fn raw_descriptor(&self) -> RawFd {
        self.timer.raw_descriptor()
    }

    /// Asked right before anything is executed.
    pub fn admits(&mut self) -> bool {
        self.look().0 == Standing::Held
    }

    /// The standing, if it is time for a look, and how long the deadline is away.
    pub fn look_if_due(&mut self) -> Option<(Standing, Duration)> {
        let now = kernel::boot_time();
        let is_fresh = self.looked_at.is_some_and(|at| now.saturating_sub(at) < LOOK_AGAIN);
        if now < self.look_at && is_fresh { None } else { Some(self.look()) }
    }

    pub fn look(&mut self) -> (Standing, Duration) {
        self.read();
        let now = kernel::boot_time();
        let standing = self.word.standing(now);
        self.look_at = if standing == Standing::Held { self.word.stop_at() } else { self.word.gone_by() };
        if let Err(error) = self.timer.set(self.look_at) {
            // Cannot happen with a valid descriptor; then whatever else wakes init lets it look.
            kernel::tell(&format!("cannot set a timer: {error}"));
        }
        (standing, self.word.gone_by().saturating_sub(now))
    }

    fn read(&mut self) {
        self.looked_at = Some(kernel::boot_time());
        self.word.read(self.text().ok().as_deref());
    }

    fn text(&self) -> io::Result<String> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        // SAFETY: the name ends with a zero; the directory outlives the call.
        let fd = unsafe { libc::openat(self.directory.as_raw_fd(), FILE_NAME.as_ptr(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut text = String::new();
        file.take(Deadline::BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_name_that_the_drone_gives_it() {
        assert_eq!(FILE_NAME.to_str(), Ok(Deadline::FILE_NAME));
    }
}
