//! Upgraded connections, thousands of them in one thread: whatever comes goes back. It costs as little as it can, so that what
//! carries the bytes is what is measured.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::time::Instant;

use crate::LAST_CLOSE;

const EVENTS: usize = 256;
const BUFFER_BYTES: usize = 64 * 1024;

pub struct Echo {
    epoll: RawFd,
}

impl Echo {
    pub fn start() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        std::thread::spawn(move || run(epoll));
        Ok(Self { epoll })
    }

    /// The stream is the thread's from now on; it blocks while somebody does not read.
    pub fn take(&self, stream: TcpStream) -> io::Result<()> {
        let socket = stream.as_raw_fd();
        #[expect(clippy::cast_sign_loss, reason = "a constant that is a set of bits")]
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: socket as u64 };
        // SAFETY: the event outlives the call, and the socket is open.
        if unsafe { libc::epoll_ctl(self.epoll, libc::EPOLL_CTL_ADD, socket, &raw mut event) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let _owned_by_the_thread = stream.into_raw_fd();
        Ok(())
    }
}

fn run(epoll: RawFd) {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        // SAFETY: the array has room for as many events.
        let n = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS as i32, -1) };
        for event in &events[..usize::try_from(n).unwrap_or(0)] {
            #[expect(clippy::cast_possible_truncation, reason = "it was a socket's number")]
            let socket = event.u64 as RawFd;
            // SAFETY: `take` has left this socket to this thread.
            let mut stream = unsafe { TcpStream::from_raw_fd(socket) };
            if answer(&mut stream, &mut buffer) {
                let _still_open = stream.into_raw_fd();
            } else {
                drop(stream);
                *LAST_CLOSE.lock().expect("no panic holds it") = Some(Instant::now());
            }
        }
    }
}

/// False: it is over.
fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(n @ 1..) => stream.write_all(&buffer[..n]).is_ok(),
        Ok(0) | Err(_) => false,
    }
}
