//! Who may enter one backend, in the order they were let in. Journal and proxies are told by the caller.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use jetway_protocol::drone_api::GrantView;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{GrantId, ProxyId};
use jetway_protocol::time::UnixMicros;
use tokio::time::Instant;

/// Grants of one backend, at most: each connect adds one, so a session that lives for months needs a bound. The oldest
/// that nobody needs goes when it is reached.
pub const GRANTS_MAX: usize = 16 * 1024;

/// Ids of grants that were taken back, kept so that their holders are told at once.
const REMOVED_MAX: usize = 1024;

/// Where every grant was needed, so long passes before all are looked at again: who asks for ever more of them must not keep the
/// backend busy with that.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Every grant of the backend is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has {GRANTS_MAX} grants and somebody may be using each of them")]
pub struct Full;

#[derive(Debug, Default)]
pub struct Grants {
    by_age: BTreeMap<u64, Held>,
    ages: HashMap<GrantId, u64>,
    removed: VecDeque<GrantId>,
    next: u64,
    /// Each was found to be needed, and is not looked at again until then.
    full_until: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    grant: Grant,
    added: UnixMicros,
    used: bool,
    /// Where this agent let somebody in with it: each proxy once, with its spell of use by then.
    entered: Vec<Entered>,
}

/// A proxy's use of a backend, from its first open connection to the close of the last: whatever grant was used in
/// an earlier one is not in use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    pub proxy: ProxyId,
    pub spell: u64,
}

impl Grants {
    /// Repeating it changes nothing.
    pub fn add(&mut self, grant: Grant, added: UnixMicros) {
        if self.ages.contains_key(&grant.id) {
            return;
        }
        self.ages.insert(grant.id, self.next);
        self.by_age.insert(self.next, Held { grant, added, used: false, entered: Vec::new() });
        self.next += 1;
    }

    /// The grant that has to go before another one is added; `None` where there is room.
    pub fn evictable(
        &mut self,
        now: Instant,
        may_be_in_use: impl Fn(&Grant, bool, &[Entered]) -> bool,
    ) -> Result<Option<GrantId>, Full> {
        if self.ages.len() < GRANTS_MAX {
            return Ok(None);
        }
        if self.full_until.is_some_and(|until| now < until) {
            return Err(Full);
        }
        let unneeded = |held: &&Held| {
            held.grant.id != GrantId::STATIC && !may_be_in_use(&held.grant, held.used, &held.entered)
        };
        let found = self.by_age.values().find(unneeded).map(|held| held.grant.id);
        self.full_until = found.is_none().then_some(now + LOOK_AGAIN);
        found.map(Some).ok_or(Full)
    }

    pub fn get(&self, id: GrantId) -> Option<&Grant> {
        self.ages.get(&id).and_then(|age| self.by_age.get(age)).map(|held| &held.grant)
    }

    pub fn enter(&mut self, id: GrantId, entered: Entered) {
        let Some(held) = self.ages.get(&id).and_then(|age| self.by_age.get_mut(age)) else { return };
        match held.entered.iter_mut().find(|known| known.proxy == entered.proxy) {
            Some(known) => *known = entered,
            None => held.entered.push(entered),
        }
    }

    /// True the first time.
    pub fn mark_used(&mut self, id: GrantId) -> bool {
        let held = self.ages.get(&id).and_then(|age| self.by_age.get_mut(age));
        held.is_some_and(|held| !std::mem::replace(&mut held.used, true))
    }

    pub fn any_used(&self) -> bool {
        self.by_age.values().any(|held| held.used)
    }

    pub fn of_user(&self, user: &str) -> Vec<GrantId> {
        let theirs = self.by_age.values().filter(|held| held.grant.user.as_deref() == Some(user));
        theirs.map(|held| held.grant.id).collect()
    }

    pub fn remove(&mut self, ids: &[GrantId]) {
        for id in ids {
            if let Some(age) = self.ages.remove(id) {
                self.by_age.remove(&age);
                self.removed.truncate(REMOVED_MAX - 1);
                self.removed.push_front(*id);
            }
        }
    }

    /// It was here and was taken back; one that was never here may still come.
    pub fn was_removed(&self, id: GrantId) -> bool {
        self.removed.contains(&id)
    }

    pub fn views(&self) -> Vec<GrantView> {
        let view = |held: &Held| GrantView {
            id: held.grant.id,
            user: held.grant.user.clone(),
            added: held.added,
            used: held.used,
        };
        self.by_age.values().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(id: u64, user: &str) -> Grant {
        Grant {
            id: GrantId(id),
            user: Some(user.into()),
            auth: "{}".into(),
            secret: "s".into(),
            allowed_origins: Vec::new(),
        }
    }

    #[test]
    fn revoking_a_user_takes_all_of_theirs_and_nobody_elses() {
        let mut grants = Grants::default();
        for (id, user) in [(1, "ann"), (2, "bob"), (3, "ann")] {
            grants.add(grant(id, user), UnixMicros(0));
        }
        let theirs = grants.of_user("ann");
        assert_eq!(theirs, [GrantId(1), GrantId(3)]);
        grants.remove(&theirs);
        assert!(grants.get(GrantId(1)).is_none() && grants.get(GrantId(2)).is_some());
        assert!(grants.mark_used(GrantId(2)) && !grants.mark_used(GrantId(2)));
    }

    #[test]
    fn the_oldest_that_nobody_needs_goes_but_never_the_static_one() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        let fixed = Grant {
            id: GrantId::STATIC,
            user: None,
            auth: "{}".into(),
            secret: String::new(),
            allowed_origins: Vec::new(),
        };
        grants.add(fixed, UnixMicros(0));
        for id in 1..GRANTS_MAX as u64 {
            assert_eq!(grants.evictable(now, |_, _, _| true), Ok(None));
            grants.add(grant(id, "u"), UnixMicros(0));
        }
        grants.enter(GrantId(1), Entered { proxy: ProxyId::random(), spell: 0 });
        assert_eq!(grants.evictable(now, |_, _, entered| !entered.is_empty()), Ok(Some(GrantId(2))));
        assert_eq!(grants.evictable(now, |_, _, _| true), Err(Full));
        assert_eq!(grants.evictable(now, |_, _, _| panic!("each was looked at just now")), Err(Full));
        assert!(grants.evictable(now + LOOK_AGAIN, |_, _, _| false).is_ok());
    }
}
