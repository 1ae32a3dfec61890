//! What a drone may do with the slot that it gave a session to, or is about to. Pure: the drone and
//! `tests/model/` ask these functions. Whether a container runs is the engine's to say, not this
//! module's.
//!
//! Before the session leaves, the journal says so ([`next`]). Init writes ahead too: it says
//! [`crate::init::FromInit::Taken`] before it executes or binds anything, and begins nothing where
//! that cannot be written. A line that was read to its end without a word of the session therefore
//! proves that nothing was begun. Every other silence proves nothing ([`fate`]).

/// What the drone's agent knows of a session that is to go to the init of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handover {
    /// The slot's init is on the line, and its application does not run.
    pub is_awaited: bool,
    /// The lease admits it, now.
    pub is_admitted: bool,
    /// The journal says that this slot has it.
    pub is_journalled: bool,
}

/// The next step to hand a session over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Something is missing that may come.
    Wait,
    /// Without this record, nothing ever ran in the slot for the backend.
    Journal,
    /// Also once more, to an init that has come back without it: it takes one session, ever.
    Send,
}

pub fn next(handover: Handover) -> Next {
    match handover {
        Handover { is_awaited: false, .. } | Handover { is_admitted: false, .. } => Next::Wait,
        Handover { is_journalled: false, .. } => Next::Journal,
        Handover { is_journalled: true, .. } => Next::Send,
    }
}

/// What the drone's agent knows of the session in a slot whose init has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// The engine saw the container end. One that it does not know may live.
    pub has_exited: bool,
    /// An agent before this one may have given the session, and heard what this one has not.
    pub is_adopted: bool,
    /// Init says `taken` before it begins ([`crate::init::Hello::writes_ahead`]).
    pub writes_ahead: bool,
    /// Init said anything of the session, in a message or in its hello.
    pub was_mentioned: bool,
    /// Every connection since the session was given was read to its end.
    pub heard_all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing was executed or bound, and nothing will be: another slot may have the session.
    NotBegun,
    /// Init took it: the backend ends with what init and engine say.
    Taken,
    /// It may have been begun: the backend ends.
    Doubtful,
}

pub fn fate(evidence: Evidence) -> Fate {
    match evidence {
        Evidence { was_mentioned: true, .. } => Fate::Taken,
        Evidence { has_exited: true, is_adopted: false, writes_ahead: true, heard_all: true, .. } => {
            Fate::NotBegun
        }
        Evidence { .. } => Fate::Doubtful,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_leaves_journalled_and_admitted() {
        for (is_awaited, is_admitted, is_journalled, expect) in [
            (true, true, false, Next::Journal),
            (true, true, true, Next::Send),
            (true, false, false, Next::Wait),
            (true, false, true, Next::Wait),
            (false, true, false, Next::Wait),
            (false, true, true, Next::Wait),
        ] {
            let handover = Handover { is_awaited, is_admitted, is_journalled };
            assert_eq!(next(handover), expect, "{handover:?}");
        }
    }

    #[test]
    fn only_a_line_read_to_its_end_proves_silence() {
        let proof = Evidence {
            has_exited: true,
            is_adopted: false,
            writes_ahead: true,
            was_mentioned: false,
            heard_all: true,
        };
        assert_eq!(fate(proof), Fate::NotBegun);
        for doubtful in [
            Evidence { has_exited: false, ..proof },
            Evidence { is_adopted: true, ..proof },
            Evidence { writes_ahead: false, ..proof },
            Evidence { heard_all: false, ..proof },
            Evidence { writes_ahead: false, heard_all: false, ..proof },
        ] {
            assert_eq!(fate(doubtful), Fate::Doubtful, "{doubtful:?}");
            let mentioned = Evidence { was_mentioned: true, ..doubtful };
            assert_eq!(fate(mentioned), Fate::Taken, "{mentioned:?}");
        }
        assert_eq!(fate(Evidence { was_mentioned: true, ..proof }), Fate::Taken);
    }
}
