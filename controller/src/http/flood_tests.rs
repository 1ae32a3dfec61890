//! More callers than there is room for: they are told so, and others are served.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::testing::{Harness, keyed, request};

/// Takes all that is free, until it is dropped.
async fn all_of(room: &Arc<Semaphore>) -> tokio::sync::OwnedSemaphorePermit {
    let free = u32::try_from(room.available_permits()).unwrap();
    room.clone().acquire_many_owned(free).await.unwrap()
}

#[tokio::test]
async fn connects_beyond_their_room_are_told_to_come_back() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    let taken = all_of(&harness.app.connects.permits).await;
    let answer = harness.connect(&keyed("k")).await;
    assert_eq!(answer.outcome(), (503, "busy".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(harness.send(request("GET", "/ctrl/backends", "")).await.status, 200, "others are served");
    drop(taken);
    assert_eq!(harness.connect(&keyed("k")).await.status, 200);
}

#[tokio::test]
async fn streams_beyond_their_room_are_told_to_come_back() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    let connected = harness.connect(&keyed("k")).await.json();
    let id = connected["backend_id"].as_str().unwrap();
    let status = format!("/pub/b/{id}/status-stream");
    let logs = format!("/ctrl/backends/{id}/logs");
    let browsers = all_of(&harness.app.streams.statuses).await;
    assert_eq!(harness.send(request("GET", &status, "")).await.outcome(), (503, "busy".into()));
    // Browsers keep no operator out.
    let answer = harness.send(request("GET", &logs, "")).await;
    assert!(!answer.text().contains("too many streams"), "{}", answer.text());
    drop(browsers);
    let _operators = all_of(&harness.app.streams.logs).await;
    assert_eq!(harness.send(request("GET", &logs, "")).await.outcome(), (503, "busy".into()));
}
