//! The loop around tasks that do as a test says, under paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jetway_api::tasks::LastResult;
use tokio::sync::Notify;
use tokio::time::{Instant, advance};

use super::*;

const PERIOD: Duration = Duration::from_secs(10);

/// Does in each run what the test says.
struct Told<const AT_START: bool, const CUT_OFF: bool> {
    nudge: Arc<Notify>,
    runs: Arc<AtomicU32>,
    period: Option<Duration>,
    does: fn(u32) -> Does,
}

enum Does {
    Works,
    Fails,
    Panics,
    Hangs,
}

impl<const AT_START: bool, const CUT_OFF: bool> Task for Told<AT_START, CUT_OFF> {
    const RUNS_AT_START: bool = AT_START;
    const IS_CUT_OFF: bool = CUT_OFF;

    fn name(&self) -> &'static str {
        "told"
    }

    fn period(&mut self) -> Option<Duration> {
        self.period
    }

    async fn nudged(&mut self) -> WokenBy {
        self.nudge.notified().await;
        WokenBy::Nudge
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        match (self.does)(run) {
            Does::Works => Ok(format!("run {run}")),
            Does::Fails => Err(DbError::Silent),
            Does::Panics => panic!("as the test wants"),
            Does::Hangs => pending().await,
        }
    }
}

struct Started {
    driver: Driver,
    nudge: Arc<Notify>,
    lifecycle: Lifecycle,
}

impl Started {
    fn new<const AT_START: bool, const CUT_OFF: bool>(does: fn(u32) -> Does) -> Self {
        let (nudge, lifecycle) = (Arc::new(Notify::new()), Lifecycle::new());
        let driver = Driver::new(lifecycle.clone());
        driver.start(Told::<AT_START, CUT_OFF> {
            nudge: nudge.clone(),
            runs: Arc::default(),
            period: Some(PERIOD),
            does,
        });
        Self { driver, nudge, lifecycle }
    }

    /// The record once so many runs have finished.
    async fn after(&self, runs: u64) -> Record {
        loop {
            let record = self.driver.records().remove(0);
            if record.runs >= runs {
                return record;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn about(took: Duration, expect: Duration) -> bool {
    took >= expect.mul_f64(0.9) && took <= expect.mul_f64(1.1) + Duration::from_millis(10)
}

#[tokio::test(start_paused = true)]
async fn a_run_is_recorded_with_what_woke_it() {
    let begun = Instant::now();
    let started = Started::new::<false, false>(|_| Does::Works);
    let record = started.driver.records().remove(0);
    assert_eq!(
        (record.name.as_str(), record.runs, record.last_result, record.woken_by),
        ("told", 0, None, None)
    );
    assert!(record.last_started.is_none() && record.last_finished.is_none());

    let record = started.after(1).await;
    assert!(about(begun.elapsed(), PERIOD), "{:?}", begun.elapsed());
    assert_eq!(record.woken_by, Some(WokenBy::Interval));
    assert_eq!(record.last_result, Some(LastResult::Ok("run 0".into())));
    assert!(record.last_started.is_some() && record.last_started <= record.last_finished);

    let nudged = Instant::now();
    started.nudge.notify_one();
    let record = started.after(2).await;
    assert!(nudged.elapsed() < Duration::from_millis(10));
    assert_eq!((record.woken_by, record.failures), (Some(WokenBy::Nudge), 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_at_start_does_not_wait() {
    let begun = Instant::now();
    let started = Started::new::<true, false>(|_| Does::Works);
    let record = started.after(1).await;
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert_eq!(record.woken_by, Some(WokenBy::Start));
    started.after(2).await;
    assert!(about(begun.elapsed(), PERIOD), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failure_changes_neither_period_nor_nudge() {
    let started = Started::new::<true, false>(|run| if run < 3 { Does::Fails } else { Does::Works });
    let record = started.after(1).await;
    assert_eq!((record.runs, record.failures), (1, 1));
    assert_eq!(record.last_result, Some(LastResult::Error("the database has not answered in time".into())));

    let nudged = Instant::now();
    started.nudge.notify_one();
    started.after(2).await;
    assert!(nudged.elapsed() < Duration::from_millis(10), "{:?}", nudged.elapsed());

    let failed = Instant::now();
    started.after(3).await;
    assert!(about(failed.elapsed(), PERIOD), "{:?}", failed.elapsed());
    let record = started.after(4).await;
    assert_eq!((record.failures, record.last_result), (3, Some(LastResult::Ok("run 3".into()))));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_the_task_runs_again() {
    let started = Started::new::<true, false>(|run| if run == 0 { Does::Panics } else { Does::Works });
    let record = started.after(1).await;
    assert_eq!(record.failures, 1);
    assert!(matches!(record.last_result, Some(LastResult::Error(error)) if error.contains("panicked")));
    let record = started.after(2).await;
    assert_eq!((record.failures, record.last_result), (1, Some(LastResult::Ok("run 1".into()))));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_wait_and_runs_that_are_cut_off() {
    let waiting = Started::new::<false, false>(|_| Does::Works);
    assert!(waiting.lifecycle.stop().await);
    let hanging = Started::new::<true, true>(|_| Does::Hangs);
    advance(Duration::from_millis(1)).await;
    let record = hanging.driver.records().remove(0);
    assert!(record.last_started.is_some() && record.last_finished.is_none(), "a run is under way");
    assert!(hanging.lifecycle.stop().await);
    let whole = Started::new::<true, false>(|_| Does::Hangs);
    advance(Duration::from_millis(1)).await;
    assert!(!whole.lifecycle.stop().await, "a run that is not cut off is waited for");
}
