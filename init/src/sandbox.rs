//! The other thing that this executable can be: PID 1 of a container that only holds a network namespace for another
//! container. It waits for its end, and reaps what it is given. It has no line and takes no session.
//!
//! Whoever made it may name a file that is there for as long as it is wanted: an engine that was killed over this container's start
//! may have forgotten it, and then nobody else ends it.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::kernel;
use crate::signals::{self, ENDS_WITHOUT_SESSION, Signals};

/// Between looks at the file.
const LOOK: Duration = Duration::from_secs(5);

/// Until it is asked to end, or is not wanted any more.
pub fn hold(wanted: Option<&Path>) -> io::Result<()> {
    let signals = Signals::take_over()?;
    while wanted.is_none_or(is_there) {
        let fd = signals.raw_descriptor();
        kernel::wait(&mut [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }], wanted.map(|_| LOOK))?;
        while let Some(signal) = signals.next() {
            if ENDS_WITHOUT_SESSION.contains(&signal) {
                return Ok(());
            }
            while signals::reap().is_some() {}
        }
    }
    Ok(())
}

/// What cannot be looked at is not gone.
fn is_there(wanted: &Path) -> bool {
    !matches!(wanted.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}
