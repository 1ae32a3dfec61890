//! Warm slots: how many of each kind are to be ready, and where. Drones make, give and discard them; this decides from what
//! operators have declared and what drones' heartbeats say was asked for, once a second, by one controller at a time
//! ([`crate::tasks`]). A connect is not slowed by any of it: it leaves a note here, and chooses its drone by what heartbeats say.

pub mod demand;
pub mod look;
mod model;
pub mod plan;
pub mod pool;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_tests;
pub mod stats;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jetway_protocol::ids::{ClusterName, DroneId, PoolName, Term, WarmPoolName};
use jetway_protocol::spec::{BackendSpec, Executable};
use jetway_protocol::warm::{Kind, SlotTier, WarmTargets};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::db::warm_demand::Note;
pub use model::SLOTS_MAX;
use pool::Pool;
use stats::Looked;

/// A kind is noted again after this time: what has become cold meanwhile has been forgotten.
const NOTED_FOR: Duration = Duration::from_secs(30);
/// Kinds whose notes are remembered. More in so short a time are specs that nobody repeats.
const NOTED_MAX: usize = 4096;
/// Notes that wait to be written.
const WAITING_MAX: usize = 256;
const TELLING_MAX: usize = 16;

/// Of a controller process. What another replica needs is in Postgres.
pub struct Warm {
    /// Whether kinds that nobody has declared are learned.
    pub learn: bool,
    hasher: RandomState,
    notes: Mutex<Notes>,
    /// Pools as they were read last, by the version of their row: opening them costs.
    pub pools: tokio::sync::Mutex<HashMap<WarmPoolName, (i64, Arc<Pool>)>>,
    /// What this controller has told each drone last.
    pub told: Mutex<HashMap<DroneId, Told>>,
    /// Drones that are told at once.
    pub telling: Semaphore,
    /// What it saw when it last looked, for metrics.
    pub looked: ArcSwap<Looked>,
}

/// What a drone was told, whether or not it has answered.
#[derive(Debug, Clone)]
pub struct Told {
    pub targets: WarmTargets,
    pub term: Term,
    pub at: Instant,
}

#[derive(Default)]
struct Notes {
    noted: HashMap<u64, Instant>,
    waiting: Vec<Note>,
}

impl Warm {
    pub fn new(learn: bool) -> Self {
        Self {
            learn,
            hasher: RandomState::new(),
            notes: Mutex::default(),
            pools: tokio::sync::Mutex::default(),
            told: Mutex::default(),
            telling: Semaphore::new(TELLING_MAX),
            looked: ArcSwap::default(),
        }
    }

    /// A backend was placed. `kinds` are those that could have served it, the better one first.
    pub fn note(&self, cluster: &ClusterName, pool: &PoolName, spec: &BackendSpec, kinds: &[Kind]) {
        if !self.learn {
            return;
        }
        let Some(kind) = learnable(&spec.executable, kinds) else { return };
        let (place, now) = (self.hasher.hash_one((cluster, pool, kind)), Instant::now());
        let mut notes = self.lock();
        if notes.noted.get(&place).is_some_and(|noted| *noted + NOTED_FOR > now) {
            return;
        }
        if notes.noted.len() >= NOTED_MAX {
            notes.noted.retain(|_, noted| *noted + NOTED_FOR > now);
        }
        if notes.noted.len() >= NOTED_MAX || notes.waiting.len() >= WAITING_MAX {
            return;
        }
        notes.noted.insert(place, now);
        notes.waiting.push(Note {
            cluster: cluster.clone(),
            pool: pool.clone(),
            kind: kind.clone(),
            needs_image: spec.executable.credentials.is_some(),
            executable: without_secrets(&spec.executable),
            start_timeout_seconds: spec.start_timeout_seconds,
        });
    }

    pub fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.lock().waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock()
    }
}

/// The best kind that can be made without the session's environment.
fn learnable<'a>(executable: &Executable, kinds: &'a [Kind]) -> Option<&'a Kind> {
    kinds.iter().find(|kind| match kind.tier {
        SlotTier::Parked => true,
        SlotTier::Hot => {
            let is_told = executable.hot.as_ref().is_some_and(|hot| hot.claim_path.is_some());
            is_told || executable.env.is_empty()
        }
    })
}

fn without_secrets(executable: &Executable) -> Executable {
    let mut bare = executable.clone();
    bare.env.clear();
    bare.credentials = None;
    bare
}

#[cfg(test)]
mod tests {
    use jetway_protocol::spec::{Credentials, Hot};

    use super::*;
    use crate::connect::place::kinds_of;

    fn warm(learn: bool) -> Warm {
        Warm::new(learn)
    }

    fn note(warm: &Warm, executable: &Executable) {
        let (cluster, pool) = ("c:1".parse().unwrap(), String::new().parse().unwrap());
        warm.note(&cluster, &pool, &BackendSpec::of(executable.clone()), &kinds_of(executable));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_is_noted_once_in_a_while_and_without_its_secrets() {
        let warm = warm(true);
        let mut app = Executable::of_image("app");
        app.env.insert("PASSWORD".into(), "hunter2".into());
        app.credentials = Some(Credentials { username: "u".into(), password: "hunter2".into() });
        note(&warm, &app);
        app.env.insert("PASSWORD".into(), "other".into());
        note(&warm, &app);
        let notes = warm.take_notes();
        assert_eq!(notes.len(), 1);
        assert!(!format!("{notes:?}").contains("hunter2") && notes[0].needs_image);
        assert_eq!(Kind::of(SlotTier::Parked, &notes[0].executable).as_ref(), Ok(&notes[0].kind));
        tokio::time::advance(NOTED_FOR).await;
        note(&warm, &app);
        assert_eq!(warm.take_notes().len(), 1);
        let quiet = self::warm(false);
        note(&quiet, &app);
        assert!(quiet.take_notes().is_empty());
    }

    #[tokio::test]
    async fn a_hot_kind_is_learned_where_it_needs_no_environment_of_its_own() {
        let hot = |path: Option<&str>, env: &[(&str, &str)]| {
            let claim_path = path.map(str::to_owned);
            let executable = Executable {
                hot: Some(Hot { claim_path, claim_timeout_seconds: 5 }),
                env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                ..Executable::of_image("app")
            };
            let warm = warm(true);
            note(&warm, &executable);
            let note = warm.take_notes().remove(0);
            assert_eq!(Kind::of(note.kind.tier, &note.executable), Ok(note.kind.clone()));
            note.kind.tier
        };
        assert_eq!(hot(Some("/claim"), &[("A", "b")]), SlotTier::Hot);
        assert_eq!(hot(None, &[]), SlotTier::Hot);
        assert_eq!(hot(None, &[("A", "b")]), SlotTier::Parked);
    }

    #[tokio::test]
    async fn specs_that_nobody_repeats_are_not_remembered_without_limit() {
        let warm = warm(true);
        for n in 0..NOTED_MAX * 2 {
            note(&warm, &Executable::of_image(&format!("app{n}")));
        }
        assert!(warm.lock().waiting.len() <= WAITING_MAX && warm.lock().noted.len() <= NOTED_MAX);
    }
}
