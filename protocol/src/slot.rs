//! Who has a container of a drone, and what becomes of one that nobody has. Pure: the drone's
//! reconcilers and `tests/model/` ask these functions.

/// Who may have a slot or a sandbox. It goes from the first to the second, and never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// It is kept ready, being made, or on its way out.
    Keeper,
    /// A backend's, whose journal names it.
    Backend,
}

impl Holder {
    /// In which order the two are asked for what was found. What moves between the questions has
    /// its second holder before it loses its first, so the second answer is yes.
    pub const ASKED: [Self; 2] = [Self::Keeper, Self::Backend];

    /// The one that has it; `has` is asked in order.
    pub fn of(has: impl Fn(Self) -> bool) -> Option<Self> {
        Self::ASKED.into_iter().find(|holder| has(*holder))
    }
}

/// What is known of a container that has no holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stray {
    pub runs: bool,
    /// Its init cannot be asked.
    pub is_paused: bool,
    /// Its init has said that it has a session. A paused one's label counts as its word.
    pub has_session: bool,
    /// This drone holds a tombstone for that session.
    pub is_deleted: bool,
}

impl Stray {
    /// Whether it may be removed. Otherwise it is left alone: a session runs, or may run, that no
    /// journal knows.
    pub fn may_go(self) -> bool {
        match self {
            Self { runs: false, .. } | Self { is_deleted: true, .. } => true,
            Self { is_paused, has_session, .. } => !is_paused && !has_session,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_is_asked_before_the_backends() {
        let asked = std::cell::RefCell::new(Vec::new());
        let moved_meanwhile = |holder| {
            asked.borrow_mut().push(holder);
            asked.borrow().len() == 2
        };
        assert_eq!(Holder::of(moved_meanwhile), Some(Holder::Backend));
        assert_eq!(*asked.borrow(), [Holder::Keeper, Holder::Backend]);
        assert_eq!(Holder::of(|_| false), None);
    }

    #[test]
    fn a_stray_that_may_hold_a_session_is_left_alone() {
        for (runs, is_paused, has_session, is_deleted, may_go) in [
            (false, false, true, false, true),
            (true, false, false, false, true),
            (true, false, true, false, false),
            (true, false, true, true, true),
            (true, true, false, false, false),
            (true, true, true, false, false),
            (true, true, true, true, true),
        ] {
            let stray = Stray { runs, is_paused, has_session, is_deleted };
            assert_eq!(stray.may_go(), may_go, "{stray:?}");
        }
    }
}
