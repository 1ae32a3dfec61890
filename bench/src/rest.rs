//! A machine that has come to rest: what the start before has left to do is no part of the next one.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::{Instant, sleep};

const WINDOW: Duration = Duration::from_millis(100);
/// Of all processors' time.
const IDLE_SHARE: f64 = 0.9;
const REST_MAX: Duration = Duration::from_secs(20);

/// Returns once the machine was idle for a window.
pub async fn rest() -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut before = times()?;
    loop {
        sleep(WINDOW).await;
        let now = times()?;
        if now.0 - before.0 >= IDLE_SHARE * (now.1 - before.1) {
            return Ok(());
        }
        ensure!(begin.elapsed() < REST_MAX, "the machine did not come to rest in {REST_MAX:?}");
        before = now;
    }
}

/// Idle time, waiting for disks among it, and all time, in ticks since the boot (proc_stat(5)).
fn times() -> anyhow::Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    let (idle, waiting) = (ticks.get(3).context("idle")?, ticks.get(4).context("iowait")?);
    // Guests' time is in the users' already.
    Ok((idle + waiting, ticks.iter().take(8).sum()))
}
