//! The faults of Postgres that are more than an outage: its host vanishes without a word, or it fails over to a standby that has not heard
//! of the last commits; afterwards two controllers compare what the drones have at the same time.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::driver::{Driver, READY};
use crate::harness::eventually;
use crate::network::{Rules, forget, ports};
use crate::places::{CONTROLLERS, Host, Part};
use crate::relay::Mischief;
use crate::seen::{LostCommits, now};
use crate::{pools, postgres};

/// Longer than any of its clients waits for an answer: none comes back to such a connection.
const VANISHED: Duration = Duration::from_secs(15);
/// Each controller compares every 10 s: two times or three.
pub const COMPARED: Duration = Duration::from_secs(24);

/// The controllers take turns to compare. Now each always has it.
const TURNS_FOR_ALL: &str = "create or replace function chaos_turn() returns trigger language plpgsql as
    $$ begin new.next_at := now() - interval '1 second'; return new; end $$;
    create or replace trigger chaos_turn before insert or update on turns for each row
    when (new.task like 'inventory%') execute function chaos_turn();
    update turns set next_at = now() where task like 'inventory%'";
const TURNS_AGAIN: &str = "drop trigger if exists chaos_turn on turns; drop function if exists chaos_turn()";

impl Driver {
    /// Every connection to Postgres falls silent; new ones reach its successor.
    pub async fn vanish(&self) -> anyhow::Result<()> {
        let (mut rules, mut silent) = (Rules::default(), Vec::new());
        for controller in (1..=CONTROLLERS).map(Host::Controller) {
            let ports = ports(controller, Host::Postgres)?;
            rules = rules.silence(controller, Host::Postgres, &ports)?;
            silent.push((controller, ports));
        }
        tokio::time::sleep(VANISHED).await;
        for (controller, ports) in silent {
            forget(Host::Postgres, controller, &ports)?;
        }
        drop(rules);
        Ok(())
    }

    /// `length`: of the time whose commits are lost.
    pub async fn fail_over(&self, length: Duration) -> anyhow::Result<()> {
        let part = Part::Postgres;
        self.parts.hold(part)?;
        let from = now();
        self.parts.signal(part, Signal::SIGSTOP)?;
        let copied = tokio::task::spawn_blocking(postgres::copy).await?;
        self.parts.signal(part, Signal::SIGCONT)?;
        copied?;
        tokio::time::sleep(length).await;
        self.end(part).await?;
        let lost = LostCommits { from, to: now() };
        self.shore.seen.note().lost_commits.push(lost);
        tokio::task::spawn_blocking(postgres::take_over).await??;
        // The address leads to it when it is the primary.
        let unreachable = Rules::default().drop_to(Host::Postgres)?;
        self.parts.start(part)?;
        let promote = async || postgres::execute("select pg_promote(true, 30)").await;
        let promoted = eventually("the standby is promoted", READY, promote).await;
        drop(unreachable);
        promoted?;
        if let Err(error) = self.parts.ready(part, READY).await {
            self.shore.seen.broken(&format!("{error:#}"));
        }
        Ok(())
    }

    /// After a failover, when there is something to be put back.
    pub async fn compare_twice(&self, drone: u8) -> anyhow::Result<()> {
        eventually("turns for all", READY, async || postgres::execute(TURNS_FOR_ALL).await).await?;
        // What the operator had declared last may be lost.
        pools::declare(&self.shore).await?;
        self.meddle(drone, Mischief::Pair, COMPARED).await?;
        eventually("turns again", READY, async || postgres::execute(TURNS_AGAIN).await).await
    }
}
