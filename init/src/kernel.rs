//! The system calls that belong to no other module, each behind a safe function: what this process is (not to be
//! inspected, adoptive parent), its own words, chance, waiting, boot time, and dialling a Unix socket without blocking.

use std::io::{self, Write};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::time::Duration;

/// Makes this process not dumpable, so that one of the same user can neither attach to it nor read its `/proc`
/// files (prctl(2)). `execve` undoes it, so the application is an ordinary process.
pub fn forbid_inspection() {
    // SAFETY: takes only numbers. It fails for no argument that we give.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// A line on the container's output. That nobody takes it is no reason for PID 1 to fail.
pub fn tell(what: &str) {
    let _ = io::stderr().write_all(format!("jetway-init: {what}\n").as_bytes());
}

/// Whether the kernel gives this process every orphan, and ends every other with it.
pub fn is_pid_1() -> bool {
    std::process::id() == 1
}

/// Orphans below this process become its children, as PID 1 has it by nature.
pub fn adopt_orphans() {
    // SAFETY: takes only numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    // SAFETY: the kernel writes at most `N` bytes into an array of `N`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    // Up to 256 bytes come whole (getrandom(2)); 16 is the most that is asked for here.
    if got == N as isize { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// Waits until a descriptor has something or the time is over; a signal's interruption counts as "look again".
/// `None` waits for ever. Finer than `poll`, whose millisecond would round every short wait up.
pub fn wait(descriptors: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|wait| libc::timespec {
        tv_sec: wait.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let count = descriptors.len() as libc::nfds_t;
    // SAFETY: the slice and the time outlive the call; no signal mask is given.
    if unsafe { libc::ppoll(descriptors.as_mut_ptr(), count, timeout, ptr::null()) } >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

/// Time since the host's boot, suspend included: the clock that the drone's deadline is on.
pub fn boot_time() -> Duration {
    // SAFETY: all zeroes is a valid time, and the kernel fills it. It fails for no argument that we give.
    let now = unsafe {
        let mut now: libc::timespec = zeroed();
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now);
        now
    };
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// A descriptor that becomes readable at a boot time, also when the host was asleep until then: a wait's own timeout stands
/// still with the host.
pub struct BootTimer {
    descriptor: OwnedFd,
}

impl BootTimer {
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes only numbers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// In place of what was set before, and of what has come of it.
    pub fn set(&self, at: Duration) -> io::Result<()> {
        // SAFETY: all zeroes is a valid setting.
        let mut setting: libc::itimerspec = unsafe { zeroed() };
        setting.it_value.tv_sec = at.as_secs().try_into().unwrap_or(libc::time_t::MAX);
        // All zeroes would switch it off.
        setting.it_value.tv_nsec = at.subsec_nanos().max(1).into();
        let fd = self.raw_descriptor();
        // SAFETY: the kernel reads the setting and keeps none of it.
        let set = unsafe { libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &setting, ptr::null_mut()) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub fn raw_descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

/// A connected, non-blocking stream, or an error at once: a full backlog must not stop PID 1's work.
pub fn dial(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: all zeroes is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address is a whole `sockaddr_un`, its path ended by a zero because it is shorter than the array.
    let result = unsafe { libc::connect(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) };
    if result == 0 { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

/// A socket that no application inherits.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes only numbers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
