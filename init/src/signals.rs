//! Signals in and out: those sent to this process arrive as reads of a descriptor, children are reaped, and the
//! application and everything beside it can be signalled. Which signal goes where is `state`'s decision.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::kernel;

/// Those that report a fault of this very process stay deadly, and SIGPIPE stays ignored: ours, never the
/// application's.
const NOT_TAKEN: [i32; 8] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGPIPE,
];

/// Signals that end this process while nobody's session depends on it.
pub const ENDS_WITHOUT_SESSION: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// Signals that Linux has, from 1 on.
const SIGNALS: i32 = 64;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Code(i32),
    Signal(i32),
}

impl Ending {
    /// The status to exit with: the code, or 128 and the signal, as a shell says it.
    pub fn status(self) -> i32 {
        match self {
            Ending::Code(code) => code,
            Ending::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "exited with {code}"),
            Ending::Signal(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

/// Every signal to this process that may be taken, one read each.
pub struct Signals {
    descriptor: OwnedFd,
}

impl Signals {
    /// Blocks the signals and opens the descriptor from which they are read. Call it before the first child.
    pub fn take_over() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigfillset` fills the whole set; the others read it or take it out of one valid number.
        let (mask, fd) = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            let mut set: libc::sigset_t = set.assume_init();
            for signal in NOT_TAKEN {
                libc::sigdelset(&mut set, signal);
            }
            let mask = libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
            (mask, libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))
        };
        if mask != 0 || fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    pub fn raw_descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// The next signal that is waiting, if any.
    pub fn next(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes a whole structure or nothing (signalfd(2)).
        unsafe {
            let got = libc::read(self.raw_descriptor(), info.as_mut_ptr().cast(), size);
            (got == size as isize).then(|| info.assume_init().ssi_signo as i32)
        }
    }
}

/// Takes every signal's handler and block away, for the program that comes next. Allocates nothing, so it may be
/// called between `fork` and `execve`.
pub fn reset() {
    // A `struct sigaction` of the kernel, all zeroes: the default, no flags, nothing masked.
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        // SAFETY: the kernel reads the structure and keeps none of it. SIGKILL and SIGSTOP fail, and need no reset.
        // Asked directly, because the C library does not let go of the two that it keeps for itself.
        unsafe {
            let (no_old, mask_bytes) = (ptr::null_mut::<u64>(), size_of::<u64>());
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_old, mask_bytes);
        }
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` fills the whole set before it is read.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
}

/// One child that has ended, if there is one; call until there is none.
pub fn reap() -> Option<(i32, Ending)> {
    let mut status = 0;
    // SAFETY: the kernel writes the one number given.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let ending = if libc::WIFSIGNALED(status) {
        Ending::Signal(libc::WTERMSIG(status))
    } else {
        Ending::Code(libc::WEXITSTATUS(status))
    };
    Some((pid, ending))
}

/// Signals the application's main process: what the engine's own stop would have done were it PID 1. A signal to
/// its whole group would reach workers a second time, beside the one that their master sends them.
pub fn send(pid: i32, signal: i32) -> io::Result<()> {
    kill(pid, signal)
}

/// Kills everything but this process. Where it is not PID 1 (outside a container) "everything" would be the
/// machine, so only the application's own group goes.
pub fn kill_everything(application: Option<i32>) {
    // Nobody left to kill is no failure, and whatever may not be killed ends with PID 1.
    let _ = match application {
        _ if kernel::is_pid_1() => kill(-1, libc::SIGKILL),
        Some(pid) if pid > 1 => kill(-pid, libc::SIGKILL),
        _ => Ok(()),
    };
}

fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes only numbers.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
