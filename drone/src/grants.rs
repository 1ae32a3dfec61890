//! Who may enter one backend, in the order they were let in. Journal and proxies are told by the caller.

use std::collections::{BTreeMap, HashMap};

use jetway_protocol::drone_api::GrantView;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::GrantId;
use jetway_protocol::time::UnixMicros;

/// Grants of one backend, at most: each connect adds one, so a session that lives for months needs a bound. The oldest
/// goes when it is reached.
pub const GRANTS_MAX: usize = 16 * 1024;

#[derive(Debug, Default)]
pub struct Grants {
    by_age: BTreeMap<u64, Held>,
    ages: HashMap<GrantId, u64>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    grant: Grant,
    added: UnixMicros,
    used: bool,
}

impl Grants {
    /// Repeating it changes nothing. Returns the grant that had to go, if one had.
    pub fn add(&mut self, grant: Grant, added: UnixMicros) -> Option<GrantId> {
        if self.ages.contains_key(&grant.id) {
            return None;
        }
        self.ages.insert(grant.id, self.next);
        self.by_age.insert(self.next, Held { grant, added, used: false });
        self.next += 1;
        if self.ages.len() <= GRANTS_MAX {
            return None;
        }
        let oldest = self.by_age.values().map(|held| held.grant.id).find(|id| *id != GrantId::STATIC)?;
        self.remove(&[oldest]);
        Some(oldest)
    }

    pub fn get(&self, id: GrantId) -> Option<&Grant> {
        self.ages.get(&id).and_then(|age| self.by_age.get(age)).map(|held| &held.grant)
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
            }
        }
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
        Grant { id: GrantId(id), user: Some(user.into()), auth: "{}".into(), secret: "s".into() }
    }

    #[test]
    fn revoking_a_user_takes_all_of_theirs_and_nobody_elses() {
        let mut grants = Grants::default();
        for (id, user) in [(1, "ann"), (2, "bob"), (3, "ann")] {
            assert_eq!(grants.add(grant(id, user), UnixMicros(0)), None);
        }
        let theirs = grants.of_user("ann");
        assert_eq!(theirs, [GrantId(1), GrantId(3)]);
        grants.remove(&theirs);
        assert!(grants.get(GrantId(1)).is_none() && grants.get(GrantId(2)).is_some());
        assert!(grants.mark_used(GrantId(2)) && !grants.mark_used(GrantId(2)));
    }

    #[test]
    fn the_oldest_goes_but_never_the_static_one() {
        let mut grants = Grants::default();
        let fixed = Grant { id: GrantId::STATIC, user: None, auth: "{}".into(), secret: String::new() };
        grants.add(fixed, UnixMicros(0));
        for id in 1..GRANTS_MAX as u64 {
            assert_eq!(grants.add(grant(id, "u"), UnixMicros(0)), None);
        }
        assert_eq!(grants.add(grant(1_000_000, "u"), UnixMicros(0)), Some(GrantId(1)));
        assert!(grants.get(GrantId::STATIC).is_some());
    }
}
