//! Real inits, killed at random moments around the execution of their application, over real lines.
//! Whatever the moment, an application starts at most once for its backend: in the slot that was
//! killed, or in the next one.
//!
//! `JETWAY_TEST_KILLS`: another number of kills than a test run has time for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jetway_protocol::ids::SlotId;
use jetway_protocol::spec::Executable;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use jetway_protocol::warm::SlotTier;

use super::Backend;
use crate::harness::{Harness, end_of, eventually};
use crate::runtime::fake::Script;
use crate::warm::tests::target;
use crate::warm::{Calm, Settings};

const KILLS: usize = 300;
/// Backends that are under way together, each with another slot in reserve.
const AT_ONCE: usize = 20;
/// It says that it was executed before it does anything else.
const APPLICATION: &str = r#"echo $$ >> "$STARTS/$SESSION_BACKEND_ID"; exec sleep 30"#;

/// A place for sockets, whose paths must be short, and for what applications write.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _leftovers_are_harmless = std::fs::remove_dir_all(&self.0);
    }
}

impl Place {
    fn new() -> Self {
        let place = std::env::temp_dir().join(format!("jwk-{}", std::process::id()));
        std::fs::create_dir_all(place.join("starts")).unwrap();
        Self(place)
    }

    fn starts(&self) -> PathBuf {
        self.0.join("starts")
    }

    /// The processes that this backend's application was, one after the other.
    fn started(&self, backend: &str) -> Vec<i32> {
        let text = std::fs::read_to_string(self.starts().join(backend)).unwrap_or_default();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    }
}

fn init() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(Path::parent).unwrap().join("jetway-init");
    let path = std::env::var_os("JETWAY_INIT").map_or(path, PathBuf::from);
    assert!(path.exists(), "{} is not built: cargo build --release -p jetway-init", path.display());
    path
}

fn kill(pid: i32) {
    // SAFETY: takes only numbers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// A number below 1, from a fixed sequence.
fn next(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    f32::from(u16::try_from(*seed >> 48).unwrap_or(0)) / 65536.0
}

struct Kills {
    test: Harness,
    place: Place,
}

impl Kills {
    fn change(&self, executable: &mut Executable) {
        let starts = self.place.starts().to_str().unwrap().to_owned();
        executable.env.insert("STARTS".to_owned(), starts);
    }

    fn slot_of(&self, backend: &Backend) -> Option<SlotId> {
        let slots = &self.test.agent.holders.slots;
        slots.iter().find(|entry| *entry.value() == backend.id).map(|entry| *entry.key())
    }

    /// A slot that could not be made is tried again after half a minute at most.
    async fn has_ready(&self, slots: u32) {
        let asked = Instant::now();
        while self.test.ready() != slots {
            assert!(asked.elapsed() < Duration::from_secs(90), "never: {slots} slots are ready");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A backend, as soon as it has a slot.
    fn put(&self, id: &str) -> (Arc<Backend>, SlotId) {
        let backend = self.test.put(id, |spec| self.change(&mut spec.executable));
        let asked = Instant::now();
        loop {
            if let Some(slot) = self.slot_of(&backend) {
                return (backend, slot);
            }
            assert!(asked.elapsed() < Duration::from_secs(20), "it gets no slot");
            std::hint::spin_loop();
        }
    }

    /// From a slot to the application's first word, usually.
    fn usual(&self) -> Duration {
        let mut took: Vec<Duration> = (0..5)
            .map(|number| {
                let id = format!("usual-{number}");
                let (_, _) = self.put(&id);
                let given = Instant::now();
                while self.place.started(&id).is_empty() {
                    assert!(given.elapsed() < Duration::from_secs(20), "it does not start");
                    std::hint::spin_loop();
                }
                given.elapsed()
            })
            .collect();
        took.sort();
        took[2]
    }

    /// True: the session went to another slot. Otherwise the backend has ended.
    async fn settled(&self, backend: &Backend, killed: SlotId) -> bool {
        backend.look();
        let is_elsewhere = || {
            backend.status() >= Status::Waiting && self.slot_of(backend).is_some_and(|slot| slot != killed)
        };
        let is_settled = || backend.status() == Status::Terminated || is_elsewhere();
        eventually("the backend has ended or has another slot", is_settled).await;
        backend.status() != Status::Terminated
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_killed_around_exec_starts_nothing_twice() {
    let kills = std::env::var("JETWAY_TEST_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    let place = Place::new();
    let calm = Calm { after_start: Duration::ZERO, owed_max: Duration::ZERO };
    let settings = Settings { sandboxes: 0, memory_bytes: None, calm };
    let test = Harness::with(Script::default(), settings);
    test.fake.has_real_inits(init(), place.0.clone(), &["sh", "-c", APPLICATION]);
    let run = Kills { test, place };
    let slots = u32::try_from(2 * AT_ONCE).unwrap();
    run.test.keep(vec![target(SlotTier::Parked, slots, |executable| run.change(executable))]);
    run.has_ready(slots).await;
    let usual = tokio::task::block_in_place(|| run.usual());
    let (mut seed, mut elsewhere, mut ended_unstarted, mut ended) = (2026, 0, 0, 0);
    for batch in 0..kills.div_ceil(AT_ONCE) {
        run.has_ready(slots).await;
        let hit: Vec<_> = tokio::task::block_in_place(|| {
            let one = |number| {
                let (backend, slot) = run.put(&format!("b-{batch}-{number}"));
                let pid = i32::try_from(run.test.fake.pid(slot).unwrap()).unwrap();
                // Most of the way to the application's first word is its own: the moments are the
                // more the earlier.
                let part = f64::from(next(&mut seed)).powi(2);
                let moment = Instant::now() + usual.mul_f64(1.2 * part);
                while Instant::now() < moment {
                    std::hint::spin_loop();
                }
                kill(pid);
                (backend, slot)
            };
            (0..AT_ONCE).map(one).collect()
        });
        for (backend, slot) in hit {
            if run.settled(&backend, slot).await {
                elsewhere += 1;
                let _it_may_end_before_it_answers =
                    backend.stop(TerminationKind::Hard, EndReason::External).await;
                assert_eq!(end_of(&backend).await.reason, EndReason::External);
            } else if run.place.started(backend.id.as_str()).is_empty() {
                ended_unstarted += 1;
            } else {
                ended += 1;
            }
        }
    }
    let mut twice = Vec::new();
    for entry in std::fs::read_dir(run.place.starts()).unwrap() {
        let id = entry.unwrap().file_name().into_string().unwrap();
        let started = run.place.started(&id);
        started.iter().for_each(|pid| kill(*pid));
        if started.len() > 1 {
            twice.push(id);
        }
    }
    println!(
        "usually {usual:?} to the start; {elsewhere} kills before the session was taken, {ended_unstarted} between that and \
         the start, {ended} after it; {} started twice",
        twice.len()
    );
    assert!(twice.is_empty(), "{twice:?}");
    assert!(elsewhere > 0 && ended > 0, "the kills missed the moment");
    assert!(run.test.lifecycle.stop().await);
}
