//! The life of a backend on its drone, as one pure function.
//!
//! | from | event | to |
//! |---|---|---|
//! | scheduled | `Load` | loading |
//! | scheduled, loading | `Start` | starting |
//! | starting | `Wait` | waiting |
//! | waiting | `BecameReady` | ready |
//! | scheduled … ready | `Stop` soft | terminating |
//! | scheduled … terminating | `Stop` hard | hard-terminating |
//! | any but terminated | `Gone` | terminated |
//!
//! A state carries what exists only in it. Nothing moves to the left.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::status::{End, EndReason, Status, TerminationKind};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum BackendState {
    Scheduled,
    Loading,
    Starting,
    Waiting { address: SocketAddr },
    Ready { address: SocketAddr },
    Terminating { reason: EndReason },
    HardTerminating { reason: EndReason },
    Terminated { end: End },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The image is being looked for or pulled.
    Load,
    /// The container is being made.
    Start,
    /// The application was started at this address and is not yet ready.
    Wait {
        address: SocketAddr,
    },
    BecameReady,
    Stop {
        kind: TerminationKind,
        reason: EndReason,
    },
    /// The engine says "not running" or "absent": the only way to an end.
    Gone {
        end: End,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a backend that is {from} cannot take the event {event}")]
pub struct InvalidTransition {
    pub from: Status,
    pub event: &'static str,
}

impl BackendState {
    pub fn status(&self) -> Status {
        match self {
            BackendState::Scheduled => Status::Scheduled,
            BackendState::Loading => Status::Loading,
            BackendState::Starting => Status::Starting,
            BackendState::Waiting { .. } => Status::Waiting,
            BackendState::Ready { .. } => Status::Ready,
            BackendState::Terminating { .. } => Status::Terminating,
            BackendState::HardTerminating { .. } => Status::HardTerminating,
            BackendState::Terminated { .. } => Status::Terminated,
        }
    }

    pub fn next(self, event: Event) -> Result<Self, InvalidTransition> {
        use BackendState as S;
        let from = self.status();
        let invalid = |event| Err(InvalidTransition { from, event });
        match event {
            Event::Load => match self {
                S::Scheduled => Ok(S::Loading),
                S::Loading | S::Starting | S::Waiting { .. } | S::Ready { .. } => invalid("load"),
                S::Terminating { .. } | S::HardTerminating { .. } | S::Terminated { .. } => invalid("load"),
            },
            Event::Start => match self {
                S::Scheduled | S::Loading => Ok(S::Starting),
                S::Starting | S::Waiting { .. } | S::Ready { .. } => invalid("start"),
                S::Terminating { .. } | S::HardTerminating { .. } | S::Terminated { .. } => invalid("start"),
            },
            Event::Wait { address } => match self {
                S::Starting => Ok(S::Waiting { address }),
                S::Scheduled | S::Loading | S::Waiting { .. } | S::Ready { .. } => invalid("wait"),
                S::Terminating { .. } | S::HardTerminating { .. } | S::Terminated { .. } => invalid("wait"),
            },
            Event::BecameReady => match self {
                S::Waiting { address } => Ok(S::Ready { address }),
                S::Scheduled | S::Loading | S::Starting | S::Ready { .. } => invalid("became ready"),
                S::Terminating { .. } | S::HardTerminating { .. } | S::Terminated { .. } => {
                    invalid("became ready")
                }
            },
            Event::Stop { kind: TerminationKind::Soft, reason } => match self {
                S::Scheduled | S::Loading | S::Starting | S::Waiting { .. } | S::Ready { .. } => {
                    Ok(S::Terminating { reason })
                }
                S::Terminating { .. } | S::HardTerminating { .. } | S::Terminated { .. } => {
                    invalid("soft stop")
                }
            },
            Event::Stop { kind: TerminationKind::Hard, reason } => match self {
                S::Scheduled | S::Loading | S::Starting | S::Waiting { .. } | S::Ready { .. } => {
                    Ok(S::HardTerminating { reason })
                }
                // The first reason stands: a hard stop only hurries what was asked for.
                S::Terminating { reason: first } => Ok(S::HardTerminating { reason: first }),
                S::HardTerminating { .. } | S::Terminated { .. } => invalid("hard stop"),
            },
            Event::Gone { end } => match self {
                S::Terminated { .. } => invalid("gone"),
                S::Scheduled | S::Loading | S::Starting | S::Waiting { .. } | S::Ready { .. } => {
                    Ok(S::Terminated { end })
                }
                S::Terminating { .. } | S::HardTerminating { .. } => Ok(S::Terminated { end }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end() -> End {
        End {
            reason: EndReason::Exited,
            kind: None,
            exit_code: Some(0),
            oom_killed: false,
            message: String::new(),
            output: String::new(),
        }
    }

    fn events() -> impl Strategy<Value = Event> {
        let address = "10.64.0.2:8080".parse().unwrap();
        prop_oneof![
            Just(Event::Load),
            Just(Event::Start),
            Just(Event::Wait { address }),
            Just(Event::BecameReady),
            Just(Event::Stop { kind: TerminationKind::Soft, reason: EndReason::Idle }),
            Just(Event::Stop { kind: TerminationKind::Hard, reason: EndReason::External }),
            Just(Event::Gone { end: end() }),
        ]
    }

    proptest! {
        #[test]
        fn only_moves_forward(events in proptest::collection::vec(events(), 0..40)) {
            let mut state = BackendState::Scheduled;
            for event in events {
                let before = state.status();
                if let Ok(next) = state.clone().next(event) {
                    prop_assert!(next.status() > before);
                    state = next;
                }
            }
        }
    }

    #[test]
    fn the_usual_life() {
        let address = "10.64.0.2:8080".parse().unwrap();
        let mut state = BackendState::Scheduled;
        for (event, expect) in [
            (Event::Load, Status::Loading),
            (Event::Start, Status::Starting),
            (Event::Wait { address }, Status::Waiting),
            (Event::BecameReady, Status::Ready),
            (Event::Stop { kind: TerminationKind::Soft, reason: EndReason::Idle }, Status::Terminating),
            (
                Event::Stop { kind: TerminationKind::Hard, reason: EndReason::External },
                Status::HardTerminating,
            ),
            (Event::Gone { end: end() }, Status::Terminated),
        ] {
            state = state.next(event).unwrap();
            assert_eq!(state.status(), expect);
        }
    }

    #[test]
    fn the_first_reason_stands() {
        let soft = Event::Stop { kind: TerminationKind::Soft, reason: EndReason::Idle };
        let hard = Event::Stop { kind: TerminationKind::Hard, reason: EndReason::External };
        let state = BackendState::Scheduled.next(soft).unwrap().next(hard).unwrap();
        assert_eq!(state, BackendState::HardTerminating { reason: EndReason::Idle });
    }
}
