//! Does what the schedule says, each fault with its end, and keeps every part up otherwise, as a supervisor would.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nix::sys::signal::Signal;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::Instant;

use crate::failover::COMPARED;
use crate::network::{Rules, reset};
use crate::parts::Parts;
use crate::places::{CONTROLLERS, Host, Part};
use crate::relay::{Mischief, Relay};
use crate::schedule::{AT_ONCE_MAX, Fault, Planned};
use crate::seen::{Done, Unclean, now};
use crate::shore::Shore;

/// A part that was started answers in this time, or its own log says why not; the fault is over either way.
pub const READY: Duration = Duration::from_secs(40);
const SUPERVISED_EVERY: Duration = Duration::from_millis(200);
/// A supervisor's pause before it starts a part again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const LOSS: f64 = 0.3;

pub struct Driver {
    pub parts: Arc<Parts>,
    pub relay: Relay,
    pub shore: Arc<Shore>,
    held: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Driver {
    pub fn new(parts: Arc<Parts>, relay: Relay, shore: Arc<Shore>) -> Self {
        Self { parts, relay, shore, held: Mutex::default() }
    }

    /// Every fault of the schedule, at its time or as soon as there is room; returns when the last has ended.
    pub async fn drive(&self, schedule: &[Planned]) -> anyhow::Result<()> {
        let (start, mut under_way) = (Instant::now(), FuturesUnordered::new());
        for planned in schedule {
            let time = tokio::time::sleep_until(start + planned.at);
            tokio::pin!(time);
            loop {
                tokio::select! {
                    Some(done) = under_way.next(), if !under_way.is_empty() => done?,
                    () = &mut time, if under_way.len() < AT_ONCE_MAX => break,
                }
            }
            under_way.push(async { self.one(*planned).await.with_context(|| planned.fault.to_string()) });
        }
        while let Some(done) = under_way.next().await {
            done?;
        }
        Ok(())
    }

    async fn one(&self, planned: Planned) -> anyhow::Result<()> {
        let _alone = self.alone(planned.fault).await;
        self.carry_out(planned).await?;
        // What it has lost is put back by controllers that compare at the same time.
        if let Fault::FailOver(drone) = planned.fault {
            let fault = Fault::CompareTwice(drone);
            let _also = self.alone(fault).await;
            self.carry_out(Planned { fault, length: COMPARED, ..planned }).await?;
        }
        Ok(())
    }

    async fn alone(&self, fault: Fault) -> OwnedMutexGuard<()> {
        let held = self.held.lock().await.entry(fault.holds()).or_default().clone();
        held.lock_owned().await
    }

    async fn carry_out(&self, planned: Planned) -> anyhow::Result<()> {
        let (fault, from) = (planned.fault, now());
        let place = {
            let mut seen = self.shore.seen.note();
            // Not over before it is: a run that ends meanwhile counts it as at work.
            seen.faults.push(Done { fault, from, to: u64::MAX });
            seen.faults.len() - 1
        };
        let clock = self.shore.seen.clock();
        self.act(fault, planned.length).await?;
        let to = now();
        if let Some(done) = self.shore.seen.note().faults.get_mut(place) {
            done.to = to;
        }
        let length = Duration::from_nanos(to - from).as_secs_f64();
        println!("{clock} {fault}, {:.2} s, whole again after {length:.2} s", planned.length.as_secs_f64());
        Ok(())
    }

    async fn act(&self, fault: Fault, length: Duration) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(part) => self.kill(part, length).await,
            Fault::Restart(part) => self.restart(part, length).await,
            Fault::Pause(part) => {
                self.parts.signal(part, Signal::SIGSTOP)?;
                tokio::time::sleep(length).await;
                self.parts.signal(part, Signal::SIGCONT)
            }
            Fault::Cut(host) => rules(Rules::default().drop_from(host)?.drop_to(host)?, length).await,
            Fault::CutIn(host) => rules(Rules::default().drop_to(host)?, length).await,
            Fault::CutOut(host) => rules(Rules::default().drop_from(host)?, length).await,
            Fault::CutPair(one, other) => rules(Rules::default().drop_between(one, other)?, length).await,
            Fault::Lossy(host) => rules(Rules::default().lose(host, LOSS)?, length).await,
            Fault::Delay(drone) => self.meddle(drone, Mischief::Delay, length).await,
            Fault::Duplicate(drone) => self.meddle(drone, Mischief::Duplicate, length).await,
            Fault::Reorder(drone) => self.meddle(drone, Mischief::Reorder, length).await,
            Fault::LoseReplies(drone) => self.meddle(drone, Mischief::LoseReplies, length).await,
            Fault::Reset(one, other) => reset(one, other),
            Fault::KillAmidClaims(drone) => self.kill_amid_claims(drone, length).await,
            Fault::KillSlots(drone) => self.kill_slots(drone, length).await,
            Fault::FreezeInit(drone) => self.freeze_init(drone, length).await,
            Fault::FreezeHot(drone) => self.freeze_hot(drone, length).await,
            Fault::KillAtExec(drone) => self.kill_at_exec(drone, length).await,
            Fault::Vanish => self.vanish().await,
            Fault::FailOver(_) => self.fail_over(length).await,
            Fault::CompareTwice(drone) => self.compare_twice(drone).await,
            Fault::Pool(change, tier) => self.change(change, tier, length).await,
        }
    }

    pub async fn kill(&self, part: Part, length: Duration) -> anyhow::Result<()> {
        self.end(part).await?;
        tokio::time::sleep(length).await;
        self.again(part).await
    }

    /// SIGKILL, and all that belonged to it is gone.
    pub async fn end(&self, part: Part) -> anyhow::Result<()> {
        self.parts.hold(part)?;
        let children =
            if part == Part::Postgres { crate::parts::children(self.parts.pid(part)?) } else { vec![] };
        self.parts.signal(part, Signal::SIGKILL)?;
        self.parts.ended(part).await?;
        let gone =
            async || match children.iter().find(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists())
            {
                Some(pid) => Err(format!("{pid} runs")),
                None => Ok(()),
            };
        crate::harness::eventually("its children are gone", READY, gone).await
    }

    async fn restart(&self, part: Part, length: Duration) -> anyhow::Result<()> {
        self.parts.hold(part)?;
        let from = now();
        let signal = if part == Part::Postgres { Signal::SIGINT } else { Signal::SIGTERM };
        self.parts.signal(part, signal)?;
        match self.parts.ended(part).await {
            Ok(status) if status.success() || part.class() == "engine" => {}
            Ok(status) => {
                let unclean = Unclean { part, how: format!("{status} after SIGTERM"), from, at: now() };
                self.shore.seen.note().unclean.push(unclean);
            }
            Err(error) => {
                self.shore.seen.broken(&format!("{part} does not stop: {error:#}"));
                self.parts.signal(part, Signal::SIGKILL)?;
                self.parts.ended(part).await?;
            }
        }
        tokio::time::sleep(length).await;
        self.again(part).await
    }

    async fn again(&self, part: Part) -> anyhow::Result<()> {
        self.parts.start(part)?;
        if let Err(error) = self.parts.ready(part, READY).await {
            self.shore.seen.broken(&format!("{error:#}"));
        }
        Ok(())
    }

    pub async fn meddle(&self, drone: u8, mischief: Mischief, length: Duration) -> anyhow::Result<()> {
        let host = Host::Drone(drone);
        self.relay.set(drone, Some(mischief));
        let mut rules = Rules::default();
        for number in 1..=CONTROLLERS {
            rules = rules.relay(host, Host::Controller(number), self.relay.ports(drone, number))?;
            // What is open goes another way, so it has to be opened again.
            reset(host, Host::Controller(number))?;
        }
        tokio::time::sleep(length).await;
        drop(rules);
        self.relay.set(drone, None);
        Ok(())
    }

    /// Starts again whoever left by itself, until it is told to stop.
    pub async fn supervise(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            for (part, status) in self.parts.left() {
                let log = std::fs::read(part.log()).unwrap_or_default();
                let said = String::from_utf8_lossy(&log).lines().last().unwrap_or_default().to_owned();
                self.shore.seen.broken(&format!("{part} left by itself: {status}: {said}"));
                tokio::time::sleep(RESTART_PAUSE).await;
                if let Err(error) = self.parts.start_if_down(part) {
                    self.shore.seen.say(&format!("{part} cannot be started: {error:#}"));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(SUPERVISED_EVERY) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }
}

/// They stand for so long.
async fn rules(rules: Rules, length: Duration) -> anyhow::Result<()> {
    tokio::time::sleep(length).await;
    drop(rules);
    Ok(())
}
