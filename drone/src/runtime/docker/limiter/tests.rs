//! Places are given, and given back, whatever becomes of who has them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::*;

const CALL: Duration = Duration::from_millis(100);

/// A call that counts how many are under way.
async fn counted(now: &AtomicUsize, most: &AtomicUsize) -> Result<(), RuntimeError> {
    most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    sleep(CALL).await;
    now.fetch_sub(1, Ordering::Relaxed);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_the_limit_and_all_of_them_in_the_end() {
    let limiter = Limiter::new(2);
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let one = || limiter.call(Class::Start, limiter.next_turn(), Call::Create, counted(&now, &most));
    assert!(join_all((0..3).map(|_| one())).await.into_iter().all(|done| done.is_ok()));
    assert_eq!(most.load(Ordering::Relaxed), 3);
    join_all((0..200).map(|_| one())).await;
    // Every call takes the same time however many there are, so more and more are tried.
    assert!(limiter.limit() > 10 && most.load(Ordering::Relaxed) <= limiter.limit(), "{}", limiter.limit());
    let counters = limiter.counters();
    assert_eq!((counters.starts_under_way, counters.starts_waiting, counters.failures), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_gives_its_place_back() {
    let limiter = Limiter::new(0);
    let hangs = || limiter.call(Class::Start, 0, Call::Start, std::future::pending::<Result<(), _>>());
    let under_way = hangs();
    let waiting = hangs();
    let both = async { tokio::join!(under_way, waiting) };
    assert!(timeout(CALL, both).await.is_err());
    let counters = limiter.counters();
    assert_eq!((counters.starts_under_way, counters.starts_waiting), (0, 0));
    // A permit that was sent, and never taken.
    let first = limiter.acquire(Class::Start, 0).await.unwrap();
    let mut second = Box::pin(limiter.acquire(Class::Start, 1));
    assert!(timeout(CALL, &mut second).await.is_err());
    drop(first);
    assert_eq!(limiter.counters().starts_under_way, 1, "it is the second's, who does not look");
    drop(second);
    assert_eq!(limiter.counters().starts_under_way, 0);
    assert!(limiter.acquire(Class::Ahead, 2).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn removals_never_starve() {
    let limiter = Limiter::new(1);
    let call = || async {
        sleep(CALL).await;
        Ok(())
    };
    // Four who start sessions without an end, so that one always waits.
    let client = || async {
        loop {
            let turn = limiter.next_turn();
            let _started: Result<(), _> = limiter.call(Class::Start, turn, Call::Start, call()).await;
        }
    };
    let removals = join_all((0..50).map(|_| limiter.removal(call())));
    let done = async {
        tokio::select! {
            ((), (), (), ()) = async { tokio::join!(client(), client(), client(), client()) } => unreachable!("no end"),
            done = removals => done,
        }
    };
    let done = timeout(Duration::from_secs(10), done).await.expect("all are removed");
    assert!(done.into_iter().all(|outcome| outcome.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_fails_is_asked_less_and_its_errors_are_passed_on() {
    let limiter = Limiter::new(15);
    assert_eq!(limiter.limit(), 16);
    let failing = || async { Err::<(), _>(RuntimeError::Engine("overloaded".to_owned())) };
    for _ in 0..16 {
        let outcome = limiter.call(Class::Start, 0, Call::Create, failing()).await;
        assert!(matches!(outcome, Err(RuntimeError::Engine(_))));
    }
    assert_eq!((limiter.limit(), limiter.counters().failures), (8, 16));
    let refusing = || async { Err::<(), _>(RuntimeError::Refused("no".to_owned())) };
    for _ in 0..16 {
        let outcome = limiter.call(Class::Start, 0, Call::Create, refusing()).await;
        assert!(matches!(outcome, Err(RuntimeError::Refused(_))));
    }
    assert_eq!(limiter.limit(), 8);
}
