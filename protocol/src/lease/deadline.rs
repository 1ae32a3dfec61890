//! The file by which a drone tells every init on its host when they must be gone, and what init makes of it. It is what
//! remains of the lease when the agent is dead, or stopped.
//!
//! One line, at most [`Deadline::BYTES_MAX`] bytes: `1 <boot id> <milliseconds since that boot>`. It is replaced by rename, so it is
//! whole or unreadable. One file serves all backends of a drone: each init takes its own grace off. Init looks every second
//! at most, right before it executes anything, and once more at each time it gets from here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Standing;
use crate::ids::BootId;

/// By when what holds keys and says `on_isolation: stop` is gone, by the boot-time clock of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Deadline {
    pub boot_id: BootId,
    pub gone_by: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a deadline is one line: 1, a boot id and milliseconds")]
pub struct InvalidDeadline;

const VERSION: &str = "1";

impl Deadline {
    pub const BYTES_MAX: usize = 80;
    /// Its name in the directory that is mounted.
    pub const FILE_NAME: &'static str = "deadline";
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{VERSION} {} {}", self.boot_id, self.gone_by.as_millis())
    }
}

impl FromStr for Deadline {
    type Err = InvalidDeadline;

    fn from_str(text: &str) -> Result<Self, InvalidDeadline> {
        let line =
            text.strip_suffix('\n').filter(|_| text.len() <= Self::BYTES_MAX).ok_or(InvalidDeadline)?;
        let [VERSION, boot_id, milliseconds] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(InvalidDeadline);
        };
        if !milliseconds.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidDeadline);
        }
        Ok(Self {
            boot_id: boot_id.parse().map_err(|_| InvalidDeadline)?,
            gone_by: Duration::from_millis(milliseconds.parse().map_err(|_| InvalidDeadline)?),
        })
    }
}

/// What init knows of its deadline: the last value that could be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LastWord {
    boot_id: BootId,
    grace: Duration,
    /// `None`: nothing was ever read, so nothing may run.
    gone_by: Option<Duration>,
}

impl LastWord {
    /// For a session under a lease: this boot and the grace are the session's. A session without a lease has no last word.
    pub fn new(boot_id: BootId, grace: Duration) -> Self {
        Self { boot_id, grace, gone_by: None }
    }

    /// The file as it was read, or `None` where it could not be: then the last value stands. Another boot's is over.
    pub fn read(&mut self, text: Option<&str>) {
        if let Some(deadline) = text.and_then(|text| text.parse::<Deadline>().ok()) {
            let same_boot = deadline.boot_id == self.boot_id;
            self.gone_by = Some(if same_boot { deadline.gone_by } else { Duration::ZERO });
        }
    }

    /// `Stop`: send the stop signal, and kill at [`LastWord::gone_by`]. `Gone`: exit; that ends everything in the container.
    pub fn standing(&self, now: Duration) -> Standing {
        if now >= self.gone_by() {
            Standing::Gone
        } else if now >= self.stop_at() {
            Standing::Stop
        } else {
            Standing::Held
        }
    }

    /// Asked right before the application is executed. An agent that was stopped between its own look and the session
    /// that it sent must not start anything after its lease.
    pub fn admits(&self, now: Duration) -> bool {
        self.standing(now) == Standing::Held
    }

    pub fn gone_by(&self) -> Duration {
        self.gone_by.unwrap_or(Duration::ZERO)
    }

    pub fn stop_at(&self) -> Duration {
        self.gone_by().saturating_sub(self.grace)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_text_is_one_line_and_nothing_else_is_read() {
        let text = "1 00000000-0000-0000-0000-000000000007 540000\n";
        let deadline: Deadline = text.parse().unwrap();
        assert_eq!(deadline.gone_by, seconds(540));
        assert_eq!(deadline.to_string(), text);
        for bad in [
            "",
            "\n",
            "1 00000000-0000-0000-0000-000000000007 540000",
            "2 00000000-0000-0000-0000-000000000007 540000\n",
            "1 00000000-0000-0000-0000-000000000007 +5\n",
            "1 00000000-0000-0000-0000-000000000007 \n",
            "1 00000000-0000-0000-0000-000000000007 5 5\n",
            "1 00000000-0000-0000-0000-000000000007 99999999999999999999999\n",
            "1 7 5\n",
        ] {
            assert!(bad.parse::<Deadline>().is_err(), "{bad:?}");
        }
        let longest = Deadline { boot_id: deadline.boot_id, gone_by: Duration::from_millis(u64::MAX) };
        assert!(longest.to_string().len() <= Deadline::BYTES_MAX);
        let padded =
            |zeros: usize| format!("1 00000000-0000-0000-0000-000000000007 {}7\n", "0".repeat(zeros));
        assert_eq!((padded(39).len(), padded(40).len()), (80, 81));
        assert!(padded(39).parse::<Deadline>().is_ok() && padded(40).parse::<Deadline>().is_err());
    }

    #[test]
    fn the_last_value_stands_and_another_boot_is_over() {
        let boot = BootId::random();
        let file = |boot_id, at| Deadline { boot_id, gone_by: seconds(at) }.to_string();
        let mut word = LastWord::new(boot, seconds(10));
        assert_eq!(word.standing(Duration::ZERO), Standing::Gone, "nothing was read yet");
        word.read(None);
        assert!(!word.admits(Duration::ZERO));

        word.read(Some(&file(boot, 540)));
        word.read(None);
        word.read(Some("torn"));
        for (now, expect) in [
            (0, Standing::Held),
            (529, Standing::Held),
            (530, Standing::Stop),
            (540, Standing::Gone),
            (9999, Standing::Gone),
        ] {
            assert_eq!(word.standing(seconds(now)), expect, "{now}");
        }
        word.read(Some(&file(boot, 640)));
        assert!(word.admits(seconds(629)) && !word.admits(seconds(630)));
        word.read(Some(&file(boot, 240)));
        assert_eq!(word.stop_at(), seconds(230), "a shorter lease counts, too");
        word.read(Some(&file(BootId::random(), 640)));
        assert_eq!(word.standing(Duration::ZERO), Standing::Gone);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(ms in any::<u64>(), boot in any::<u128>()) {
            let boot_id = BootId(uuid::Uuid::from_u128(boot));
            let deadline = Deadline { boot_id, gone_by: Duration::from_millis(ms) };
            prop_assert_eq!(deadline.to_string().parse(), Ok(deadline));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,100}") {
            let mut word = LastWord::new(BootId(uuid::Uuid::nil()), Duration::ZERO);
            word.read(Some(&text));
        }
    }
}
