//! The drone's lease, as every part of one agent sees it: the pure decisions of [`jetway_protocol::lease`] behind one
//! lock, the boot-time clock, and the file for the inits. What a backend does about its standing is the backend's.
//!
//! *A tenure* is a stretch of time without a gap in the lease. Once it was over, what was begun in it is gone for good, although a
//! new registration makes the drone's deadline a later one: its keys may have been given away. So every look notes an
//! end before anything moves the deadline, and a backend asks with the tenure it was begun in.

pub mod file;
pub mod keeper;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::controller_api::Registered;
use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::ids::{BootId, Term};
use jetway_protocol::lease::{Deadline, DroneLease, LeaseTerms, Standing};
use jetway_protocol::spec::{InitMode, OnIsolation};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// CLOCK_BOOTTIME; tests have their own.
pub type BootClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What a backend under the lease was begun in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenure(u64);

impl Tenure {
    /// Of what an agent finds at its start.
    pub const FOUND: Self = Self(0);
}

pub struct Lease {
    clock: BootClock,
    boot_id: BootId,
    directory: PathBuf,
    inner: Mutex<Inner>,
    /// Counts what may have brought a deadline nearer than its backend's task expects.
    nudges: watch::Sender<u64>,
}

struct Inner {
    lease: DroneLease,
    /// This installation keeps none, or nobody has said yet and there is no deadline of an agent before this one.
    is_endless: bool,
    tenure: Tenure,
    /// This tenure's end has been noted.
    is_over: bool,
    /// What the file says, as far as this agent knows.
    written: Option<Deadline>,
}

/// How one backend stands under the drone's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseNow {
    pub standing: Standing,
    /// A session may be handed over to its init.
    pub admits: bool,
    /// The installation keeps a lease at all.
    pub is_kept: bool,
    /// What the backend's own grace comes to where the lease ends it.
    pub grace: Duration,
}

/// What an accepted registration has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It is no newer than what is known.
    Nothing,
    Later,
    /// Inits may be asleep until after the deadline: they are to be told.
    Nearer,
}

/// Whether this backend is stopped for want of a lease. Where the application takes init's place, nobody has the last word when
/// the agent is dead: such a one is kept, whatever it says.
pub fn is_for(put: &PutBackend) -> bool {
    let stays = put.spec.executable.init != InitMode::Exec;
    put.key.is_some() && put.spec.on_isolation == OnIsolation::Stop && stays
}

impl Lease {
    /// Goes on with what the agent before this one wrote down. `run_dir`: where the file's directory is or will be.
    pub fn open(run_dir: &std::path::Path, boot_id: BootId, clock: BootClock) -> Self {
        let directory = file::directory(run_dir);
        let found = file::read(&directory);
        let lease = DroneLease::resume(found, boot_id);
        let inner = Inner {
            is_endless: lease.gone_by().is_none(),
            lease,
            tenure: Tenure::FOUND,
            is_over: false,
            written: found,
        };
        let opened =
            Self { clock, boot_id, directory, inner: Mutex::new(inner), nudges: watch::Sender::new(0) };
        drop(opened.look());
        opened
    }

    pub fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Wakes the tasks of the backends under it.
    pub fn nudges(&self) -> watch::Receiver<u64> {
        self.nudges.subscribe()
    }

    pub fn nudge(&self) {
        self.nudges.send_modify(|count| *count += 1);
    }

    /// Held for a few lines, never across an await. Every way to it notes an end first.
    fn look(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock();
        let now = self.now();
        if !inner.is_endless && !inner.is_over && inner.lease.gone_by().is_none_or(|at| at <= now) {
            inner.is_over = true;
            inner.tenure.0 += 1;
        }
        inner
    }

    /// For a backend that is about to be begun. `None`: not now.
    pub fn take(&self) -> Option<Tenure> {
        let inner = self.look();
        inner.admits(self.now()).then_some(inner.tenure)
    }

    /// Whether a session may be handed over to its init.
    pub fn admits(&self, tenure: Tenure) -> bool {
        let inner = self.look();
        inner.tenure == tenure && inner.admits(self.now())
    }

    /// How a backend under it stands, all at one moment.
    pub fn now_of(&self, tenure: Tenure, wanted_grace: Duration) -> LeaseNow {
        let inner = self.look();
        let now = self.now();
        let is_current = inner.tenure == tenure;
        LeaseNow {
            standing: match (is_current, inner.is_endless) {
                (false, _) => Standing::Gone,
                (true, true) => Standing::Held,
                (true, false) => inner.lease.standing(now, wanted_grace),
            },
            admits: is_current && inner.admits(now),
            is_kept: !inner.is_endless,
            grace: inner.lease.terms().grace(wanted_grace),
        }
    }

    /// How long the standing stays as it is, unless the lease is renewed.
    pub fn changes_in(&self, tenure: Tenure, grace: Duration) -> Option<Duration> {
        let inner = self.look();
        if inner.tenure != tenure || inner.is_endless {
            return None;
        }
        let now = self.now();
        let [stop, gone] = [inner.lease.stop_at(grace), inner.lease.gone_by()];
        [stop, gone].into_iter().flatten().find(|at| *at > now).map(|at| at - now)
    }

    /// Of a backend that must not run any more, whatever comes.
    pub fn is_lost(&self, tenure: Tenure) -> bool {
        self.look().tenure != tenure
    }

    /// A registration that was sent at `sent_at` was accepted. The file is written before anybody acts on it.
    pub fn registered(&self, registered: &Registered, sent_at: Duration) -> Moved {
        let mut inner = self.look();
        let before = inner.deadline(self.boot_id);
        let terms = registered.lease.unwrap_or_default();
        if !inner.lease.registered(registered.term, terms, sent_at) {
            return Moved::Nothing;
        }
        inner.is_endless = registered.lease.is_none();
        inner.is_over = false;
        self.write(&mut inner);
        let is_nearer = before.is_some_and(|before| inner.deadline(self.boot_id) < Some(before));
        drop(inner);
        if is_nearer {
            self.nudge();
            return Moved::Nearer;
        }
        Moved::Later
    }

    /// A renewal that was sent at `sent_at` was acknowledged.
    pub fn acknowledged(&self, term: Term, sent_at: Duration) {
        let mut inner = self.look();
        if inner.lease.acknowledged(term, sent_at) {
            // What was over stays over: only a renewal that was counted in time begins another tenure.
            inner.is_over &= inner.lease.gone_by().is_none_or(|at| at <= self.now());
            self.write(&mut inner);
        }
    }

    pub fn next_renewal(&self) -> i64 {
        self.look().lease.next_renewal()
    }

    /// What this drone counts by; `None` where the installation keeps no lease.
    pub fn terms(&self) -> Option<LeaseTerms> {
        let inner = self.look();
        (!inner.is_endless).then(|| inner.lease.terms())
    }

    /// Whether a renewal may be asked for: the file says no more than is so. Tries to write it where it does not.
    pub fn is_written(&self) -> bool {
        let mut inner = self.look();
        if inner.is_file_late(self.boot_id) {
            self.write(&mut inner);
        }
        !inner.is_file_late(self.boot_id)
    }

    fn write(&self, inner: &mut Inner) {
        let Some(deadline) = inner.deadline(self.boot_id) else { return };
        match file::write(&self.directory, &deadline) {
            Ok(()) => inner.written = Some(deadline),
            Err(error) => self.not_written(&error),
        }
    }

    fn not_written(&self, error: &io::Error) {
        let path = self.directory.display();
        tracing::error!(%path, %error, "the lease's deadline cannot be written: sessions end at the one before");
    }
}

impl Inner {
    fn admits(&self, now: Duration) -> bool {
        if self.is_endless { self.lease.term().is_some() } else { !self.is_over && self.lease.admits(now) }
    }

    fn deadline(&self, boot_id: BootId) -> Option<Deadline> {
        if self.is_endless && self.lease.term().is_some() {
            return Some(Deadline { boot_id, gone_by: Duration::from_millis(u64::MAX) });
        }
        self.lease.deadline(boot_id)
    }

    fn is_file_late(&self, boot_id: BootId) -> bool {
        let present = self.deadline(boot_id);
        self.written.is_some_and(|written| written.boot_id == boot_id && Some(written) > present)
    }
}

#[cfg(test)]
mod tests;
