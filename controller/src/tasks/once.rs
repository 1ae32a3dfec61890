//! For tests: tasks that run when a test says so, and not by themselves.

use std::time::Duration;

use crate::app::App;

/// Each task once: but for heartbeats, all that an idle installation asks of Postgres.
pub async fn each_once(app: &App, now: Duration) {
    super::refresh(app).once().await.unwrap();
    dispatch_now(app).await;
    stops_now(app).await;
    look_now(app).await;
    prune_now(app).await;
    return_urls_now(app).await;
    release_now(app).await;
    super::watch(app).tick(|| now).await.unwrap();
    super::inventory(app).once(true).await.unwrap();
}

pub async fn dispatch_now(app: &App) {
    super::dispatch(app).once().await.unwrap();
}

pub async fn stops_now(app: &App) {
    super::stops(app).once().await.unwrap();
}

pub async fn look_now(app: &App) {
    super::warm(app).once().await.unwrap();
}

pub async fn release_now(app: &App) {
    super::release(app).once().await.unwrap();
}

pub async fn prune_now(app: &App) -> String {
    super::prune(app).once().await.unwrap()
}

pub async fn return_urls_now(app: &App) -> String {
    super::return_urls(app).once().await.unwrap()
}
