//! The drone's side: until when what holds keys may live, counted from when the acknowledged renewal was *sent*.

use std::time::Duration;

use super::{Deadline, LeaseTerms};
use crate::ids::{BootId, Term};

/// What is to be done with a backend that holds a key and says `on_isolation: stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    /// It may live.
    Held,
    /// Its stop signal is due; it has until [`DroneLease::gone_by`].
    Stop,
    /// It must not run: kill it.
    Gone,
}

/// All times are the host's boot-time clock, read by the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DroneLease {
    terms: LeaseTerms,
    /// The term of the last registration that was acknowledged.
    term: Option<Term>,
    /// The number that was sent last in this term.
    renewal: i64,
    /// `None`: it has never had a lease in this boot.
    gone_by: Option<Duration>,
}

impl DroneLease {
    /// An agent that starts goes on with what the one before it wrote down; a file of another boot says nothing.
    pub fn resume(file: Option<Deadline>, boot_id: BootId) -> Self {
        let gone_by = file.filter(|file| file.boot_id == boot_id).map(|file| file.gone_by);
        Self { gone_by, ..Self::default() }
    }

    pub fn term(&self) -> Option<Term> {
        self.term
    }

    pub fn terms(&self) -> LeaseTerms {
        self.terms
    }

    /// A registration that was sent at `sent_at` was accepted: it is the renewal 0 of its term, under terms that may be shorter
    /// than before. False: it is not newer than what is known, and changes nothing.
    ///
    /// The deadline is *set*, not raised: renewals that are sent from now on are watched for the new length only.
    pub fn registered(&mut self, term: Term, terms: LeaseTerms, sent_at: Duration) -> bool {
        if self.term >= Some(term) {
            return false;
        }
        let gone_by = sent_at.saturating_add(terms.held_for());
        *self = Self { terms, term: Some(term), renewal: 0, gone_by: Some(gone_by) };
        true
    }

    /// The number of the next renewal. Every send has its own, a retry too: two sends under one number could not be told
    /// apart by a watch that began between them.
    pub fn next_renewal(&mut self) -> i64 {
        self.renewal += 1;
        self.renewal
    }

    /// A renewal of `term` that was sent at `sent_at` was acknowledged, however late. True: the deadline has moved, and is to be
    /// written.
    pub fn acknowledged(&mut self, term: Term, sent_at: Duration) -> bool {
        let gone_by = sent_at.saturating_add(self.terms.held_for());
        if self.term != Some(term) || self.gone_by >= Some(gone_by) {
            return false;
        }
        self.gone_by = Some(gone_by);
        true
    }

    /// By when what holds keys and says `on_isolation: stop` is gone.
    pub fn gone_by(&self) -> Option<Duration> {
        self.gone_by
    }

    /// When a backend with this grace gets its stop signal.
    pub fn stop_at(&self, grace: Duration) -> Option<Duration> {
        Some(self.gone_by?.saturating_sub(self.terms.grace(grace)))
    }

    pub fn standing(&self, now: Duration, grace: Duration) -> Standing {
        if self.gone_by.is_none_or(|at| at <= now) {
            Standing::Gone
        } else if self.stop_at(grace).is_none_or(|at| at <= now) {
            Standing::Stop
        } else {
            Standing::Held
        }
    }

    /// Whether a backend that holds a key may be taken: this agent is registered, and nothing would have to stop at once.
    pub fn admits(&self, now: Duration) -> bool {
        self.term.is_some() && self.standing(now, self.terms.grace_max()) == Standing::Held
    }

    /// What init's file should say.
    pub fn deadline(&self, boot_id: BootId) -> Option<Deadline> {
        Some(Deadline { boot_id, gone_by: self.gone_by? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn held(length: u64, sent_at: u64) -> DroneLease {
        let mut lease = DroneLease::default();
        let terms = LeaseTerms::of_length(seconds(length)).unwrap();
        assert!(lease.registered(Term(1), terms, seconds(sent_at)));
        lease
    }

    #[test]
    fn stop_one_grace_before_gone_one_margin_before_the_end() {
        let lease = held(600, 1000);
        for (now, grace, expect) in [
            (1000, 10, Standing::Held),
            (1529, 10, Standing::Held),
            (1530, 10, Standing::Stop),
            (1539, 10, Standing::Stop),
            (1540, 10, Standing::Gone),
            (1489, 3600, Standing::Held),
            (1490, 3600, Standing::Stop),
            (1539, 0, Standing::Held),
            (1540, 0, Standing::Gone),
        ] {
            assert_eq!(lease.standing(seconds(now), seconds(grace)), expect, "{now} {grace}");
        }
        assert!(lease.admits(seconds(1489)) && !lease.admits(seconds(1490)));
    }

    #[test]
    fn without_a_lease_nothing_may_live_and_nothing_is_taken() {
        let never = DroneLease::default();
        assert_eq!(never.standing(Duration::ZERO, Duration::ZERO), Standing::Gone);
        assert!(!never.admits(Duration::ZERO) && never.deadline(BootId::random()).is_none());
    }

    #[test]
    fn an_acknowledgement_counts_from_its_sending_and_never_takes_back() {
        let mut lease = held(600, 0);
        assert!(lease.acknowledged(Term(1), seconds(100)));
        assert_eq!(lease.gone_by(), Some(seconds(640)));
        assert!(!lease.acknowledged(Term(1), seconds(50)), "an older one came later");
        assert!(!lease.acknowledged(Term(0), seconds(200)), "another term's terms may be others");
        assert_eq!(lease.gone_by(), Some(seconds(640)));
        // Paused past the end, with the reply in the socket.
        assert!(lease.acknowledged(Term(1), seconds(110)));
        assert_eq!(lease.standing(seconds(5000), Duration::ZERO), Standing::Gone);
    }

    #[test]
    fn a_registration_may_shorten_and_a_late_one_changes_nothing() {
        let mut lease = held(600, 0);
        assert!(lease.registered(Term(2), LeaseTerms::of_length(seconds(120)).unwrap(), seconds(10)));
        assert_eq!(lease.gone_by(), Some(seconds(110)));
        assert!(!lease.registered(Term(1), LeaseTerms::default(), seconds(20)));
        assert!(!lease.registered(Term(2), LeaseTerms::default(), seconds(20)));
        assert_eq!(lease.gone_by(), Some(seconds(110)));
        assert_eq!((lease.next_renewal(), lease.next_renewal()), (1, 2));
    }

    #[test]
    fn a_restarted_agent_keeps_the_deadline_of_its_own_boot() {
        let boot = BootId::random();
        let file = held(600, 0).deadline(boot);
        let lease = DroneLease::resume(file, boot);
        assert_eq!(lease.standing(seconds(100), seconds(10)), Standing::Held, "what runs may go on");
        assert!(!lease.admits(seconds(100)), "but nothing is taken before it has registered");
        assert_eq!(DroneLease::resume(file, BootId::random()).gone_by(), None);
    }

    proptest! {
        /// Whatever comes in whatever order: no deadline is later than the newest acknowledged sending allows.
        #[test]
        fn never_later_than_the_newest_sending_allows(steps in proptest::collection::vec((any::<bool>(), 0i64..4, 0u64..1000), 0..30)) {
            let (mut lease, mut newest) = (DroneLease::default(), None::<Duration>);
            for (register, term, sent) in steps {
                let sent_at = seconds(sent);
                let counted = if register {
                    lease.registered(Term(term), LeaseTerms::default(), sent_at)
                } else {
                    lease.acknowledged(Term(term), sent_at)
                };
                if counted {
                    newest = if register { Some(sent_at) } else { newest.max(Some(sent_at)) };
                }
                prop_assert_eq!(lease.gone_by(), newest.map(|sent| sent + LeaseTerms::default().held_for()));
            }
        }
    }
}
