//! Who may enter one backend, in the order they were let in, and which grant goes where there are
//! too many. Journal and proxies are told by the caller.
//!
//! | grants | what another one costs |
//! |---|---|
//! | fewer than [`KEPT`] | nothing |
//! | more | the two oldest whose clients may not be on their way any more |
//! | [`GRANTS_MAX`], or [`BYTES_MAX`] | the oldest, whatever its client does |
//!
//! A grant that was ever used goes only where all were used. The one that comes is always taken: a
//! popular key costs the oldest unused URL, and never the next caller.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use jetway_protocol::drone_api::GrantView;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{GrantId, ProxyId};
use jetway_protocol::time::UnixMicros;

/// Grants of one backend that are kept for as long as it lives: each connect adds one, and a
/// session may live for months.
pub const KEPT: usize = 16 * 1024;
/// Grants of one backend, at most. Above [`KEPT`] are those whose clients have just connected: more
/// than a crowd of 250,000 within the 30 s for which a connect holds its backend.
pub const GRANTS_MAX: usize = 256 * 1024;
/// Memory of one backend's grants, at most: users and auth data differ in length.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;
/// What a grant takes beside its texts, in the tables below and in the idle clock's.
const GRANT_BYTES: usize = 320;
/// Grants that make room for one that comes, where there are more than are kept.
const GOING_FOR_ONE: usize = 2;
/// Grants that go in one step once a crowd has gone.
const GOING_AT_ONCE: usize = 1024;
/// Used grants that are looked at for one that is not in use any more.
const LOOKS_MAX: usize = 256;
/// Grants that a view names, at most: the newest.
const VIEWS_MAX: usize = 1000;

#[derive(Debug, Default, Clone)]
pub struct Grants {
    by_age: BTreeMap<u64, Box<Held>>,
    ages: HashMap<GrantId, u64>,
    /// Ages of those that may go first: all but the static one and the used ones.
    unused: BTreeSet<u64>,
    bytes: usize,
    removed: Removed,
    next: u64,
}

#[derive(Debug, Clone)]
pub struct Held {
    pub grant: Grant,
    pub added: UnixMicros,
    pub used: bool,
    /// Where this agent let somebody in with it: each proxy once, with its spell of use by then.
    pub entered: Vec<Entered>,
}

/// A proxy's use of a backend, from its first open connection to the close of the last: whatever grant was used in
/// an earlier one is not in use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    pub proxy: ProxyId,
    pub spell: u64,
}

/// Ids of grants that went, kept so that their holders are told at once. When there are too many
/// the oldest is forgotten.
#[derive(Debug, Default, Clone)]
struct Removed {
    ids: HashSet<GrantId>,
    in_order: VecDeque<GrantId>,
}

impl Grants {
    /// Repeating it changes nothing.
    pub fn add(&mut self, grant: Grant, added: UnixMicros) {
        if self.ages.contains_key(&grant.id) {
            return;
        }
        self.ages.insert(grant.id, self.next);
        self.bytes += bytes(&grant);
        if grant.id != GrantId::STATIC {
            self.unused.insert(self.next);
        }
        self.by_age.insert(self.next, Box::new(Held { grant, added, used: false, entered: Vec::new() }));
        self.next += 1;
    }

    /// The grants that have to go before this one is added.
    pub fn in_the_way_of(&self, coming: &Grant, may_be_in_use: impl Fn(&Held) -> bool) -> Vec<GrantId> {
        self.to_go(1, bytes(coming), GOING_FOR_ONE, may_be_in_use)
    }

    /// The next of those that a crowd has left, and that are not kept.
    pub fn left_over(&self, may_be_in_use: impl Fn(&Held) -> bool) -> Vec<GrantId> {
        self.to_go(0, 0, GOING_AT_ONCE, may_be_in_use)
    }

    /// `at_most` go only because there are more than are kept.
    fn to_go(
        &self,
        more: usize,
        more_bytes: usize,
        at_most: usize,
        may_be_in_use: impl Fn(&Held) -> bool,
    ) -> Vec<GrantId> {
        let mut going: Vec<GrantId> = Vec::new();
        let (mut count, mut size) = (self.ages.len() + more, self.bytes + more_bytes);
        let mut unused = self.unused.iter().filter_map(|age| self.by_age.get(age).map(Box::as_ref));
        while count > KEPT || size > BYTES_MAX {
            let must = count > GRANTS_MAX || size > BYTES_MAX;
            let may = going.len() < at_most;
            let goes = match unused.next() {
                Some(oldest) if must || (may && !may_be_in_use(oldest)) => Some(oldest),
                Some(_) => None,
                None if must || may => self.used_to_go(&going, must, &may_be_in_use),
                None => None,
            };
            let Some(goes) = goes else { break };
            going.push(goes.grant.id);
            count -= 1;
            size -= bytes(&goes.grant);
        }
        going
    }

    /// Of used ones, the oldest that is not in use any more; or the oldest, where one must go.
    fn used_to_go(
        &self,
        going: &[GrantId],
        must: bool,
        may_be_in_use: impl Fn(&Held) -> bool,
    ) -> Option<&Held> {
        let may_go = |held: &&Held| held.grant.id != GrantId::STATIC && !going.contains(&held.grant.id);
        let used = || self.by_age.values().map(Box::as_ref).filter(may_go);
        let over = used().take(LOOKS_MAX).find(|held| !may_be_in_use(held));
        over.or_else(|| used().next().filter(|_| must))
    }

    pub fn get(&self, id: GrantId) -> Option<&Grant> {
        self.held(id).map(|held| &held.grant)
    }

    pub fn is_unused(&self, id: GrantId) -> bool {
        self.held(id).is_some_and(|held| !held.used)
    }

    fn held(&self, id: GrantId) -> Option<&Held> {
        self.ages.get(&id).and_then(|age| self.by_age.get(age)).map(Box::as_ref)
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
        let Some(age) = self.ages.get(&id) else { return false };
        self.unused.remove(age);
        self.by_age.get_mut(age).is_some_and(|held| !std::mem::replace(&mut held.used, true))
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
                self.unused.remove(&age);
                if let Some(held) = self.by_age.remove(&age) {
                    self.bytes -= bytes(&held.grant);
                }
                self.removed.add(*id);
            }
        }
    }

    /// It was here and was taken back; one that was never here may still come.
    pub fn was_removed(&self, id: GrantId) -> bool {
        self.removed.ids.contains(&id)
    }

    /// Their memory, about; a journal with nothing else in it is not longer.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// More than are kept: a crowd's.
    pub fn are_many(&self) -> bool {
        self.ages.len() > KEPT
    }

    /// From that age on, oldest first.
    pub fn since_age(&self, age: u64) -> impl Iterator<Item = (u64, &Held)> {
        self.by_age.range(age..).map(|(age, held)| (*age, held.as_ref()))
    }

    /// The newest, in the order they came; or one alone.
    pub fn views(&self, only: Option<GrantId>) -> Vec<GrantView> {
        let view = |held: &Held| GrantView {
            id: held.grant.id,
            user: held.grant.user.clone(),
            added: held.added,
            used: held.used,
        };
        if let Some(only) = only {
            return self.held(only).map(view).into_iter().collect();
        }
        let mut newest: Vec<GrantView> =
            self.by_age.values().rev().take(VIEWS_MAX).map(|held| view(held)).collect();
        newest.reverse();
        newest
    }
}

impl Removed {
    fn add(&mut self, id: GrantId) {
        if self.in_order.len() >= GRANTS_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(id);
        self.in_order.push_back(id);
    }
}

fn bytes(grant: &Grant) -> usize {
    let origins: usize = grant.allowed_origins.iter().map(|origin| size_of::<String>() + origin.len()).sum();
    GRANT_BYTES + grant.user.as_ref().map_or(0, String::len) + grant.auth.len() + grant.secret.len() + origins
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

    /// With the ids from 1 to `count`.
    fn filled(count: usize) -> Grants {
        let mut grants = Grants::default();
        (1..=count as u64).for_each(|id| grants.add(grant(id, "u"), UnixMicros(0)));
        grants
    }

    fn ids(ids: &[u64]) -> Vec<GrantId> {
        ids.iter().copied().map(GrantId).collect()
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
        assert!(grants.was_removed(GrantId(1)) && !grants.was_removed(GrantId(2)));
        assert!(grants.mark_used(GrantId(2)) && !grants.mark_used(GrantId(2)));
    }

    /// Grants that are there, those that were used, those that may be in use; and which ones make
    /// room for another one.
    #[test]
    fn the_oldest_unused_grant_makes_room() {
        let all: fn(u64) -> bool = |_| true;
        let none: fn(u64) -> bool = |_| false;
        let two: fn(u64) -> bool = |id| id <= 2;
        let all_but_three: fn(u64) -> bool = |id| id != 3;
        for (case, count, used, may_be_in_use, going) in [
            ("there is room", KEPT - 1, none, none, &[][..]),
            ("the oldest goes", KEPT, none, none, &[1]),
            ("a crowd is on its way", KEPT, none, all, &[]),
            ("a crowd was on its way", KEPT + 9, none, none, &[1, 2]),
            ("used ones stay", KEPT, two, none, &[3]),
            ("used ones stay, though the others are on their way", KEPT, two, all, &[]),
            ("of used ones, the oldest goes", KEPT, all, none, &[1]),
            ("of used ones, the oldest that is not in use goes", KEPT, all, all_but_three, &[3]),
            ("used ones are all in use", KEPT, all, all, &[]),
            ("no more than that: the oldest unused goes", GRANTS_MAX, two, all, &[3]),
            ("no more than that, and all are in use", GRANTS_MAX, all, all, &[1]),
        ] {
            let mut grants = filled(count);
            for id in (1..=count as u64).filter(|id| used(*id)) {
                grants.mark_used(GrantId(id));
            }
            let found = grants.in_the_way_of(&grant(0x1_000_000, "u"), |held| may_be_in_use(held.grant.id.0));
            assert_eq!(found, ids(going), "{case}");
        }
    }

    #[test]
    fn a_crowd_of_250_000_fits() {
        let mut grants = Grants::default();
        for id in 1..=250_000 {
            let coming = grant(id, &format!("visitor-{id}@example.com"));
            assert_eq!(grants.in_the_way_of(&coming, |_| true), [], "{id}");
            grants.add(coming, UnixMicros(0));
        }
        assert!(grants.bytes() < BYTES_MAX && grants.are_many());
        assert_eq!(
            grants.left_over(|held| held.grant.id.0 > 2000),
            (1..=1024).map(GrantId).collect::<Vec<_>>()
        );
        assert_eq!(grants.views(None).len(), VIEWS_MAX);
        assert_eq!(grants.views(None).last().map(|view| view.id), Some(GrantId(250_000)));
        assert_eq!(grants.views(Some(GrantId(7))).len(), 1);
    }

    #[test]
    fn long_texts_count_as_what_they_take() {
        let mut grants = Grants::default();
        let long = |id| Grant { auth: "x".repeat(8192), ..grant(id, "u") };
        let mut id = 1;
        let gone = loop {
            let going = grants.in_the_way_of(&long(id), |_| true);
            if !going.is_empty() {
                break going;
            }
            grants.add(long(id), UnixMicros(0));
            id += 1;
        };
        assert_eq!(gone, [GrantId(1)]);
        assert!(grants.bytes() <= BYTES_MAX && grants.bytes() > BYTES_MAX - 10_000, "{}", grants.bytes());
    }

    #[test]
    fn the_static_grant_never_makes_room() {
        let mut grants = Grants::default();
        grants.add(Grant { user: None, secret: String::new(), ..grant(0, "") }, UnixMicros(0));
        assert_eq!(GrantId::STATIC, GrantId(0));
        (1..GRANTS_MAX as u64).for_each(|id| grants.add(grant(id, "u"), UnixMicros(0)));
        let coming = grant(0x1_000_000, "u");
        assert_eq!(grants.in_the_way_of(&coming, |_| true), [GrantId(1)]);
        for id in 0..GRANTS_MAX as u64 {
            grants.mark_used(GrantId(id));
        }
        assert_eq!(grants.in_the_way_of(&coming, |_| true), [GrantId(1)]);
    }
}
