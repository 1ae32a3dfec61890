//! The task that keeps ready what is wanted: it compares, discards what is too much or will never serve anybody, and has
//! made what is missing. Sessions that start go first: nothing is begun within a moment of one, unless that goes on and on.
//!
//! Woken by claims, by what was made, by changed images, and by a clock that finds slots that have died unseen.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jetway_protocol::ids::SlotId;
use jetway_protocol::spec::{Executable, PullPolicy};
use jetway_protocol::warm::Kind;
use jetway_service::backoff::jittered;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::allot::{Budget, allot};
use super::slot::ReadySlot;
use super::{Calm, Inner, Make, Sandbox, Settings, make};
use crate::agent::Agent;
use crate::runtime::{ContainerStatus, Found};
use crate::teardown;

/// What is made at once, at most. How many of them the engine works on is the runtime's to say.
const MAKING_MAX: u32 = 8;
/// Between looks at what waits.
const LOOK: Duration = Duration::from_secs(1);
const IMAGES_AT_ONCE: usize = 8;
/// For the engine to say what the names of images mean.
const IMAGES_SECONDS_MAX: u64 = 10;

/// What a look has found.
struct Plan {
    gone: Vec<ReadySlot>,
    make: Vec<Make>,
    /// When to look again, if nothing happens first.
    wake: Instant,
    images_changed: bool,
}

pub async fn keep(agent: Arc<Agent>) {
    let mut images = Some(agent.engine.runtime.image_changes());
    loop {
        let plan = {
            let may_make = !agent.membership.is_draining();
            let mut inner = agent.warm.inner();
            inner.plan(Instant::now(), may_make, &agent.warm.settings, agent.warm.budget)
        };
        plan.gone.into_iter().for_each(|slot| teardown::unclaimed(&agent, slot.slot, slot.address));
        plan.make.into_iter().for_each(|what| make::spawn(&agent, what));
        if plan.images_changed {
            discard_outdated(&agent).await;
        }
        tokio::select! {
            () = agent.warm.changed.notified() => {}
            () = changed(&mut images) => agent.warm.inner().images_changed = true,
            () = tokio::time::sleep_until(plan.wake) => {}
        }
    }
}

async fn changed(images: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = images
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *images = None;
    std::future::pending().await
}

impl Inner {
    fn plan(&mut self, now: Instant, may_make: bool, settings: &Settings, budget: Budget) -> Plan {
        let allotted = allot(&self.targets, budget);
        let wanted = |kind: &Kind| allotted.get(kind).copied().unwrap_or(0);
        let mut gone = self.shelf.take_dead(now);
        for kind in self.shelf.kinds() {
            while self.shelf.ready(&kind) > wanted(&kind) {
                gone.extend(self.shelf.pop(&kind));
            }
        }
        gone.iter().for_each(|slot| self.book.unused(&slot.kind, now - slot.since));
        for kind in allotted.keys().filter(|kind| self.shelf.ready(kind) >= wanted(kind)) {
            self.book.forget_claims(kind);
        }
        let images_changed = std::mem::take(&mut self.images_changed);
        let mut plan = Plan { gone, make: Vec::new(), wake: now + jittered(LOOK), images_changed };
        if self.closed || !may_make {
            self.owed_since = None;
            return plan;
        }
        loop {
            let (next, retry_at) = self.next_to_make(now, settings.sandboxes, &wanted);
            plan.wake = plan.wake.min(retry_at.unwrap_or(plan.wake));
            let Some(what) = next else {
                self.owed_since = None;
                return plan;
            };
            let owed_since = *self.owed_since.get_or_insert(now);
            let Calm { after_start, owed_max } = settings.calm;
            let calm = self.last_start.map_or(now, |last| last + after_start).min(owed_since + owed_max);
            if calm > now {
                plan.wake = plan.wake.min(calm);
                return plan;
            }
            if self.making.values().sum::<u32>() >= MAKING_MAX {
                return plan;
            }
            self.begun(what.kind());
            plan.make.push(what);
        }
    }

    /// Namespaces first, since they serve any session; then whichever kind lacks most of what it should have. Also when
    /// something that failed is to be tried again.
    fn next_to_make(
        &self,
        now: Instant,
        sandboxes: u32,
        wanted: &dyn Fn(&Kind) -> u32,
    ) -> (Option<Make>, Option<Instant>) {
        let mut retry_at: Option<Instant> = None;
        let mut may_try = |what: &Option<Kind>| {
            let at = self.retry_at(what).filter(|at| *at > now);
            retry_at = [retry_at, at].into_iter().flatten().min();
            at.is_none()
        };
        let there = u32::try_from(self.sandboxes.len()).unwrap_or(u32::MAX) + self.making(&None);
        if there < sandboxes && may_try(&None) {
            return (Some(Make::Sandbox), None);
        }
        let lacks = |kind: &Kind| {
            let there = self.shelf.ready(kind) + self.making(&Some(kind.clone()));
            let wanted = wanted(kind);
            (there < wanted).then(|| u64::from(wanted - there) * 1000 / u64::from(wanted))
        };
        let targets = self.targets.iter().filter_map(|target| Some((lacks(&target.kind)?, target)));
        let targets = targets.filter(|(_, target)| may_try(&Some(target.kind.clone())));
        let next =
            targets.max_by_key(|(lack, _)| *lack).map(|(_, target)| Make::Slot(Box::new(target.clone())));
        (next, retry_at)
    }
}

/// Slots of an image whose name means another one by now go; what runs stays.
async fn discard_outdated(agent: &Arc<Agent>) {
    let mut names: Vec<String> =
        agent.warm.inner().shelf.iter().map(|slot| slot.image_name.clone()).collect();
    names.sort();
    names.dedup();
    let look = stream::iter(names).for_each_concurrent(IMAGES_AT_ONCE, |name| async move {
        let executable = Executable { pull_policy: PullPolicy::Never, ..Executable::of_image(&name) };
        let Ok(image) = agent.engine.runtime.ensure_image(&executable).await else { return };
        let now = Instant::now();
        let outdated = {
            let mut inner = agent.warm.inner();
            let is_outdated = |slot: &mut ReadySlot| slot.image_name == name && slot.image.id != image.id;
            let outdated = inner.shelf.take_all_that(is_outdated);
            outdated.iter().for_each(|slot| inner.wasted(slot, now));
            outdated
        };
        if !outdated.is_empty() {
            tracing::info!(
                image = name,
                slots = outdated.len(),
                "an image has changed: its slots are made anew"
            );
            agent.warm.changed.notify_one();
        }
        outdated.into_iter().for_each(|slot| teardown::unclaimed(agent, slot.slot, slot.address));
    });
    if timeout(Duration::from_secs(IMAGES_SECONDS_MAX), look).await.is_err() {
        agent.warm.inner().images_changed = true;
    }
}

/// Something may have happened to a container of ours. If it waits for a session and does not run, it goes.
pub fn suspect(agent: &Arc<Agent>, slot: SlotId) {
    if !agent.warm.inner().shelf.iter().any(|ready| ready.slot == slot) {
        return;
    }
    let agent = agent.clone();
    let lifecycle = agent.lifecycle.clone();
    lifecycle.spawn_until_stopped(async move {
        match agent.engine.inspect(slot).await {
            Ok(ContainerStatus::Running { paused: false, .. }) | Err(_) => {}
            Ok(_) => discard(&agent, slot),
        }
    });
}

fn discard(agent: &Arc<Agent>, slot: SlotId) {
    let taken = {
        let mut inner = agent.warm.inner();
        let taken = inner.shelf.remove(slot);
        if let Some(slot) = &taken {
            inner.wasted(slot, Instant::now());
        }
        taken
    };
    if let Some(slot) = taken {
        teardown::unclaimed(agent, slot.slot, slot.address);
        agent.warm.changed.notify_one();
    }
}

/// Namespaces that wait, and that the engine's list does not show as running, will hold nobody. `asked`: when the list was asked
/// for.
pub fn compare_sandboxes(agent: &Arc<Agent>, found: &[Found], asked: Instant) {
    let runs = |sandbox: &Sandbox| {
        found.iter().any(|found| {
            found.slot == sandbox.id && matches!(found.status, ContainerStatus::Running { paused: false, .. })
        })
    };
    let dead: Vec<Sandbox> = {
        let mut inner = agent.warm.inner();
        let (dead, alive): (Vec<_>, Vec<_>) =
            inner.sandboxes.drain(..).partition(|one| one.since < asked && !runs(one));
        inner.sandboxes.extend(alive);
        dead
    };
    if !dead.is_empty() {
        agent.warm.changed.notify_one();
    }
    dead.into_iter().for_each(|sandbox| teardown::unused_sandbox(agent, sandbox.id, sandbox.address));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_page_that_was_just_opened_has_its_time_before_anything_is_made() {
        let settings = Settings { sandboxes: 1, memory_bytes: None, calm: Calm::FOR_A_BROWSER_HERE };
        let budget = Budget { memory_bytes: 1 << 30, learned_bytes: 1 << 30, slots: 10 };
        let start = Instant::now();
        let made = |inner: &mut Inner, after: u32| {
            inner.plan(start + SECOND * after, true, &settings, budget).make.len()
        };
        let mut quiet = Inner { last_start: Some(start), ..Inner::default() };
        assert_eq!([0, 7, 8].map(|after| made(&mut quiet, after)), [0, 0, 1]);
        let mut fresh = Inner::default();
        assert_eq!(made(&mut fresh, 0), 1, "nobody has started anything yet");
        let mut busy = Inner::default();
        let made = [0, 5, 10, 15, 20, 25].map(|after| {
            busy.last_start = Some(start + SECOND * after);
            made(&mut busy, after)
        });
        assert_eq!(made, [0, 0, 0, 0, 0, 1], "what has been owed for long is made all the same");
    }
}
