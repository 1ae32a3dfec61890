//! Waiting for a condition, with a deadline and the last state seen: the only way that a test waits.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Asks until the answer is `Ok`, every few milliseconds; at the deadline fails with the last `Err`.
pub async fn eventually<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() > deadline => {
                anyhow::bail!("{what}: not within {deadline:?}; the last state was {last:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
