//! The faults of what waits for its session: a container is killed in the moment of a claim, or in that in which its init has executed
//! the application and not said so; its init or its hot application does not go on, or the agent dies amid claims. Which containers were hit is noted, since only what was in them is excused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::driver::Driver;
use crate::engine;
use crate::parts::children;
use crate::places::{CONTROLLERS, PROXIES, Part, beats_dir};
use crate::pools::{self, Tier, Way};
use crate::schedule::Dice;
use crate::seen::{Hit, now};

/// Of one fault.
const KILLS: u32 = 3;
/// Between a connect and the kill of what may be given to it.
const MOMENT_MS: (u64, u64) = (0, 12);
/// For starts, beside the fault's length.
const WATCHED: Duration = Duration::from_secs(1);
/// Shorter than an execution takes.
const LOOKS_EVERY: Duration = Duration::from_micros(30);
/// From what was seen of an execution to the kill.
const LATE_US: (u64, u64) = (0, 2000);
/// Between connects and the kill of the agent that is at work on them.
const AMID_MS: (u64, u64) = (2, 40);
/// For the visitor that is sent at the same time.
const VISIT: Duration = Duration::from_secs(4);
/// For an agent to notice what became of a container, on a machine under load.
const NOTICED: Duration = Duration::from_secs(30);
const LISTED: Duration = Duration::from_secs(5);

/// A container that no session's process has written from yet.
#[derive(Debug, Clone)]
struct Waiting {
    container: String,
    init: u32,
    /// What runs ahead of its session.
    application: Option<u32>,
}

/// The oldest first, which is the next to be given.
async fn waiting(drone: u8) -> anyhow::Result<Vec<Waiting>> {
    let docker = engine::client(drone)?.negotiate_version().await?;
    let filters = HashMap::from([("label".to_owned(), vec!["jetway.role=slot".to_owned()])]);
    let running = ListContainersOptionsBuilder::default().filters(&filters).build();
    let mut listed = docker.list_containers(Some(running)).await?;
    listed.retain(|container| {
        !container.labels.as_ref().is_some_and(|labels| labels.contains_key("jetway.backend"))
    });
    listed.sort_by_key(|container| container.created);
    let mut waiting = Vec::new();
    for container in listed.into_iter().filter_map(|container| container.id) {
        let is_empty = std::fs::read_dir(beats_dir(drone).join(&container))
            .is_ok_and(|mut files| files.next().is_none());
        if !is_empty {
            continue;
        }
        // It may have ended meanwhile.
        let Ok(inspected) = docker.inspect_container(&container, None::<InspectContainerOptions>).await
        else {
            continue;
        };
        let pid = inspected.state.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
        let Some(init) = pid.filter(|pid| *pid > 1) else { continue };
        waiting.push(Waiting { container, init, application: children(init).first().copied() });
    }
    Ok(waiting)
}

fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    // It may have ended meanwhile.
    let _sent = kill(Pid::from_raw(i32::try_from(pid)?), signal);
    Ok(())
}

/// Looks all the time, until one of them has a child, or one that is another program by now; or until it is over.
fn parent_of_child(inits: &[u32], executed: bool, over: &AtomicBool) -> Option<u32> {
    let text = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let newest =
        || text("/proc/loadavg".to_owned()).trim().rsplit(' ').next().and_then(|pid| pid.parse().ok());
    let name = text(format!("/proc/{}/comm", inits.first()?));
    let of = |pid: u32| {
        let stat = text(format!("/proc/{pid}/stat"));
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parent.filter(|parent| inits.contains(parent)).map(|init| (pid, init))
    };
    let (mut seen, mut found) = (newest().unwrap_or(0_u32), None);
    while !over.load(Ordering::Relaxed) {
        let last = newest().unwrap_or(seen);
        // Numbers that have begun again are passed over.
        found = found.or_else(|| (seen.saturating_add(1)..=last).find_map(of));
        seen = last;
        if let Some((child, init)) = found
            && (!executed || text(format!("/proc/{child}/comm")) != name)
        {
            return Some(init);
        }
        std::thread::park_timeout(LOOKS_EVERY);
    }
    None
}

impl Driver {
    /// None where none waits, or where the engine does not answer just now.
    async fn next_slot(&self, drone: u8, is: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let listed = tokio::time::timeout(LISTED, waiting(drone)).await;
        listed.ok()?.ok()?.into_iter().find(is)
    }

    /// A client like any other, who has his reasons to come just now.
    async fn visit(&self, dice: &mut Dice, is: impl Fn(Way) -> bool) {
        let keys = pools::keys(&self.shore, is);
        let mut one = |end: u8| 1 + u8::try_from(dice.below(u64::from(end))).unwrap_or(0);
        let (controller, proxy) = (Part::Controller(one(CONTROLLERS)), one(PROXIES));
        let key = format!("key-{}", dice.pick(&keys));
        let _he_saw_what_he_saw =
            tokio::time::timeout(VISIT, self.shore.reach(controller, &key, proxy)).await;
    }

    /// `length`: for which it does not go on.
    fn hit(&self, slot: &Waiting, how: &'static str, length: Duration) {
        let until = now() + u64::try_from((length + NOTICED).as_nanos()).unwrap_or(u64::MAX);
        self.shore.seen.note().hit.push(Hit { container: slot.container.clone(), how, until });
    }

    pub async fn kill_slots(&self, drone: u8, length: Duration) -> anyhow::Result<()> {
        let mut dice = Dice::new(now());
        for _ in 0..KILLS {
            if let Some(slot) = self.next_slot(drone, |_| true).await {
                let moment = Duration::from_millis(dice.between(MOMENT_MS));
                let hot = slot.application.is_some();
                let killed = async {
                    tokio::time::sleep(moment).await;
                    self.hit(&slot, "killed", Duration::ZERO);
                    send(slot.init, Signal::SIGKILL)
                };
                let is = |way| match way {
                    Way::Declared(tier) => (tier == Tier::Hot) == hot,
                    Way::Learned => !hot,
                    Way::Late => false,
                };
                let ((), killed) = tokio::join!(self.visit(&mut dice, is), killed);
                killed?;
            }
            tokio::time::sleep(length / KILLS).await;
        }
        Ok(())
    }

    /// In one of three moments: it has forked, it has executed, or it is about to say so.
    pub async fn kill_at_exec(&self, drone: u8, length: Duration) -> anyhow::Result<()> {
        let mut dice = Dice::new(now());
        for _ in 0..KILLS {
            let listed = tokio::time::timeout(LISTED, waiting(drone)).await;
            let mut slots = listed.ok().and_then(Result::ok).unwrap_or_default();
            slots.retain(|slot| slot.application.is_none());
            let (executed, late) = (!dice.one_in(3), dice.between(LATE_US));
            let late = if dice.one_in(2) { Duration::ZERO } else { Duration::from_micros(late) };
            let is_over = Arc::new(AtomicBool::new(false));
            let (inits, over): (Vec<_>, _) = (slots.iter().map(|slot| slot.init).collect(), is_over.clone());
            let watched = tokio::task::spawn_blocking(move || {
                let init = parent_of_child(&inits, executed, &over);
                if let Some(init) = init {
                    std::thread::park_timeout(late);
                    send(init, Signal::SIGKILL)?;
                }
                anyhow::Ok(init)
            });
            let starts = async {
                let visit = self.visit(&mut dice, |way| !matches!(way, Way::Late | Way::Declared(Tier::Hot)));
                tokio::join!(visit, tokio::time::sleep(WATCHED + length / KILLS));
                is_over.store(true, Ordering::Relaxed);
            };
            let (killed, ()) = tokio::join!(watched, starts);
            let killed = killed??;
            if let Some(slot) = slots.iter().find(|slot| Some(slot.init) == killed) {
                self.hit(slot, "killed at its exec", Duration::ZERO);
            }
        }
        Ok(())
    }

    pub async fn freeze_init(&self, drone: u8, length: Duration) -> anyhow::Result<()> {
        let Some(slot) = self.next_slot(drone, |_| true).await else { return Ok(()) };
        self.hit(&slot, "its init frozen", length);
        self.freeze(slot.init, |way| way != Way::Late, length).await
    }

    pub async fn freeze_hot(&self, drone: u8, length: Duration) -> anyhow::Result<()> {
        let Some(slot) = self.next_slot(drone, |slot| slot.application.is_some()).await else {
            return Ok(());
        };
        self.hit(&slot, "its application frozen", length);
        let application = slot.application.context("it is hot")?;
        self.freeze(application, |way| way == Way::Declared(Tier::Hot), length).await
    }

    async fn freeze(&self, pid: u32, is: impl Fn(Way) -> bool, length: Duration) -> anyhow::Result<()> {
        send(pid, Signal::SIGSTOP)?;
        let mut dice = Dice::new(now());
        let visit = tokio::time::timeout(length, self.visit(&mut dice, is));
        let _visited = tokio::join!(visit, tokio::time::sleep(length));
        send(pid, Signal::SIGCONT)
    }

    /// The agent dies while it may be between a choice, its journal and init.
    pub async fn kill_amid_claims(&self, drone: u8, length: Duration) -> anyhow::Result<()> {
        let mut dice = Dice::new(now());
        let keys = pools::keys(&self.shore, |way| way != Way::Late);
        let visits = join_all(keys.into_iter().map(async |key| {
            let controller = Part::Controller(1 + u8::try_from(key % u64::from(CONTROLLERS)).unwrap_or(0));
            let key = format!("key-{key}");
            let asked = self.shore.connect(controller, &key, false);
            let _he_saw_what_he_saw = tokio::time::timeout(VISIT, asked).await;
        }));
        let moment = Duration::from_millis(dice.between(AMID_MS));
        let killed = async {
            tokio::time::sleep(moment).await;
            self.kill(Part::Drone(drone), length).await
        };
        tokio::join!(visits, killed).1
    }
}
