//! Executing a [`Plan`]: in a new process, or in this one. Between `fork` and `execve` only calls that allocate
//! nothing are made. What a failure means is `application`'s business.

use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::application::Plan;
use crate::signals;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Directory,
    Execute,
}

/// What the kernel refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    pub errno: i32,
    /// Index of the path that it is about.
    pub candidate: usize,
}

#[derive(Debug)]
pub enum SpawnError {
    NoProcess(io::Error),
    Failed(Failure),
}

/// Starts the plan in a new process and a process session of its own (what the application sends to its own group
/// must not come back here to be forwarded again), with nothing to read. Returns when it has been executed, or has
/// not: the pipe closes by itself at the `execve`.
pub fn spawn(plan: &Plan) -> Result<i32, SpawnError> {
    let pointers = Pointers::of(plan);
    let (mut reader, writer) = pipe().map_err(SpawnError::NoProcess)?;
    // SAFETY: this process has one thread, and the child makes only async-signal-safe calls until it is replaced.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: these take numbers and one constant string.
        unsafe {
            libc::setsid();
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            if null > 0 {
                libc::dup2(null, libc::STDIN_FILENO);
                libc::close(null);
            }
        }
        let message = execute(plan, &pointers).to_bytes();
        // SAFETY: the bytes outlive the call; a pipe takes so few whole. `_exit` runs none of the parent's cleanup.
        unsafe {
            libc::write(writer.as_raw_fd(), message.as_ptr().cast(), message.len());
            libc::_exit(jetway_protocol::init::EXIT_CANNOT_EXECUTE);
        }
    }
    if pid < 0 {
        return Err(SpawnError::NoProcess(io::Error::last_os_error()));
    }
    drop(writer);
    let mut message = [0u8; Failure::BYTES];
    match reader.read_exact(&mut message) {
        Ok(()) => Err(SpawnError::Failed(Failure::from_bytes(message))),
        Err(_) => Ok(pid),
    }
}

/// Becomes the plan's program; returns only if it could not.
pub fn replace(plan: &Plan) -> Failure {
    execute(plan, &Pointers::of(plan))
}

/// The C arrays of a plan. They point into it, so it must outlive them; made before the fork.
struct Pointers {
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

impl Pointers {
    fn of(plan: &Plan) -> Self {
        let array = |strings: &[CString]| {
            strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>()
        };
        Self { arguments: array(&plan.arguments), environment: array(&plan.environment) }
    }
}

/// Allocates nothing. Tries the paths as a shell does: a missing one is passed over, a forbidden one is remembered
/// in case nothing better follows.
fn execute(plan: &Plan, pointers: &Pointers) -> Failure {
    signals::reset();
    if let Some(directory) = &plan.directory {
        // SAFETY: a C string that the plan owns.
        if unsafe { libc::chdir(directory.as_ptr()) } != 0 {
            return Failure { stage: Stage::Directory, errno: errno(), candidate: 0 };
        }
    }
    let mut failure = Failure { stage: Stage::Execute, errno: libc::ENOENT, candidate: 0 };
    for (candidate, path) in plan.candidates.iter().enumerate() {
        // SAFETY: C strings that the plan owns, and arrays of such that end with a null pointer.
        unsafe { libc::execve(path.as_ptr(), pointers.arguments.as_ptr(), pointers.environment.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => failure = Failure { errno: libc::EACCES, candidate, ..failure },
            errno => return Failure { errno, candidate, ..failure },
        }
    }
    failure
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

impl Failure {
    const BYTES: usize = 9;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = u8::from(self.stage == Stage::Execute);
        bytes[1..5].copy_from_slice(&self.errno.to_ne_bytes());
        bytes[5..].copy_from_slice(&(self.candidate as u32).to_ne_bytes());
        bytes
    }

    fn from_bytes([stage, a, b, c, d, candidate @ ..]: [u8; Self::BYTES]) -> Self {
        Self {
            stage: if stage == 0 { Stage::Directory } else { Stage::Execute },
            errno: i32::from_ne_bytes([a, b, c, d]),
            candidate: u32::from_ne_bytes(candidate) as usize,
        }
    }
}

fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two numbers into an array of two.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new descriptors that nobody else owns.
    Ok(unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_crosses_the_pipe() {
        for stage in [Stage::Directory, Stage::Execute] {
            let failure = Failure { stage, errno: libc::EACCES, candidate: 70_000 };
            assert_eq!(Failure::from_bytes(failure.to_bytes()), failure);
        }
    }
}
