//! Waiting for a condition, with a deadline and the last state seen: the only way that a test
//! waits. Deadlines are real time, also where the test's clock is paused; between two looks the
//! test's clock goes on.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// For conditions that hold within moments, on however busy a machine.
pub const SOON: Duration = Duration::from_secs(30);
/// Most conditions hold within this; then the looks become rarer.
const QUICK: Duration = Duration::from_millis(100);

/// The outcome of a look at a condition.
pub trait Look {
    type Found;
    /// The state while the condition does not hold.
    type Instead: Debug;

    fn found(self) -> Result<Self::Found, Self::Instead>;
}

impl Look for bool {
    type Found = ();
    type Instead = bool;

    fn found(self) -> Result<(), bool> {
        if self { Ok(()) } else { Err(false) }
    }
}

impl<T> Look for Option<T> {
    type Found = T;
    type Instead = &'static str;

    fn found(self) -> Result<T, &'static str> {
        self.ok_or("nothing")
    }
}

impl<T, E: Debug> Look for Result<T, E> {
    type Found = T;
    type Instead = E;

    fn found(self) -> Result<T, E> {
        self
    }
}

/// Looks every few milliseconds until the condition holds; at the deadline fails with the last
/// state.
pub async fn eventually<L: Look>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> L,
) -> anyhow::Result<L::Found> {
    let start = Instant::now();
    loop {
        match look().await.found() {
            Ok(found) => return Ok(found),
            Err(last) if start.elapsed() > deadline => {
                anyhow::bail!("{what}: not within {deadline:?}; the last state was {last:?}")
            }
            Err(_) => {
                let pause = if start.elapsed() < QUICK { 1 } else { 10 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
}

/// The same for tests that panic, within [`SOON`].
pub async fn soon<L: Look>(what: &str, mut look: impl FnMut() -> L) -> L::Found {
    match eventually(what, SOON, async || look()).await {
        Ok(found) => found,
        Err(late) => panic!("{late:#}"),
    }
}

/// The same, until the state that `probe` gives is `fine`.
pub async fn soon_fine<T: Debug>(
    what: &str,
    mut probe: impl AsyncFnMut() -> T,
    mut fine: impl FnMut(&T) -> bool,
) -> T {
    let looked = eventually(what, SOON, async || {
        let seen = probe().await;
        if fine(&seen) { Ok(seen) } else { Err(seen) }
    });
    match looked.await {
        Ok(found) => found,
        Err(late) => panic!("{late:#}"),
    }
}

/// [`soon`] for tests without a runtime.
pub fn soon_blocking<L: Look>(what: &str, mut look: impl FnMut() -> L) -> L::Found {
    let start = Instant::now();
    loop {
        match look().found() {
            Ok(found) => return found,
            Err(last) => {
                assert!(start.elapsed() < SOON, "{what}: not within {SOON:?}; the last state was {last:?}");
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_looks_until_the_condition_holds() {
        let mut looks = 0;
        let found = soon("the third look", || {
            looks += 1;
            (looks == 3).then_some("found")
        });
        assert_eq!(found.await, "found");
        assert_eq!(
            soon_fine(
                "four",
                async || {
                    looks += 1;
                    looks
                },
                |looks| *looks > 3
            )
            .await,
            4
        );
    }

    #[test]
    fn it_needs_no_runtime() {
        let mut looks = 0;
        soon_blocking("the second look", || {
            looks += 1;
            looks == 2
        });
        assert_eq!(looks, 2);
    }

    #[tokio::test]
    async fn a_late_condition_is_named_with_its_last_state() {
        let late = eventually("a guest", Duration::from_millis(5), async || Err::<(), _>("nobody")).await;
        assert_eq!(late.unwrap_err().to_string(), "a guest: not within 5ms; the last state was \"nobody\"");
    }
}
