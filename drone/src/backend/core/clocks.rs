//! The clocks of one backend, and which of them has run out. What then happens is the core's.

use tokio::time::Instant;

/// When to do something if nothing else happens first.
#[derive(Debug, Default, Clone, Copy)]
pub struct Clocks {
    pub start: Option<Instant>,
    pub lifetime: Option<Instant>,
    pub grace: Option<Instant>,
    /// The stop signal goes through the engine if init is not back on the line by then.
    pub signal: Option<Instant>,
    pub look: Option<Instant>,
    /// The session is handed over as soon as the lease admits it.
    pub claim: Option<Instant>,
    pub open_line: Option<Instant>,
    pub crowd: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Lifetime,
    Start,
    Signal,
    Grace,
    Look,
    Claim,
    OpenLine,
    Crowd,
}

impl Clocks {
    /// The first that has run out, in the order in which they are looked at. It is taken away.
    pub fn take_due(&mut self, now: Instant) -> Option<Clock> {
        let Self { lifetime, start, signal, grace, look, claim, open_line, crowd } = self;
        [
            (lifetime, Clock::Lifetime),
            (start, Clock::Start),
            (signal, Clock::Signal),
            (grace, Clock::Grace),
            (look, Clock::Look),
            (claim, Clock::Claim),
            (open_line, Clock::OpenLine),
            (crowd, Clock::Crowd),
        ]
        .into_iter()
        .find_map(|(at, clock)| at.take_if(|at| *at <= now).map(|_| clock))
    }

    pub fn next(&self) -> Option<Instant> {
        let Self { lifetime, start, signal, grace, look, claim, open_line, crowd } = *self;
        [lifetime, start, signal, grace, look, claim, open_line, crowd].into_iter().flatten().min()
    }
}
