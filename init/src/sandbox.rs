//! The other thing that this executable can be: PID 1 of a container that only holds a network namespace for another
//! container. It waits for its end, and reaps what it is given. It has no line and takes no session.

use std::io;

use crate::kernel;
use crate::signals::{self, ENDS_WITHOUT_SESSION, Signals};

/// Until it is asked to end.
pub fn hold() -> io::Result<()> {
    let signals = Signals::take_over()?;
    loop {
        let fd = signals.raw_descriptor();
        kernel::wait(&mut [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }], None)?;
        while let Some(signal) = signals.next() {
            if ENDS_WITHOUT_SESSION.contains(&signal) {
                return Ok(());
            }
            while signals::reap().is_some() {}
        }
    }
}
