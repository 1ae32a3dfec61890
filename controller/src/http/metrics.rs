//! `GET /metrics`: a few counters of this controller in Prometheus' text format. Nothing is labelled by session.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::app::App;
use crate::connect::place::HEARTBEAT_AGE_MAX;

pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &app.counters;
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a string cannot fail.
        let _always_fine = writeln!(text, "{line}");
    };
    line("# HELP jetway_connects_total Answers to connect, by outcome.".into());
    line("# TYPE jetway_connects_total counter".into());
    for (outcome, counter) in [
        ("spawned", &counters.connects_spawned),
        ("joined", &counters.connects_joined),
        ("refused", &counters.connects_refused),
        ("failed", &counters.connects_failed),
    ] {
        line(format!("jetway_connects_total{{outcome=\"{outcome}\"}} {}", read(counter)));
    }
    line("# HELP jetway_events_total Events that drones have reported.".into());
    line("# TYPE jetway_events_total counter".into());
    line(format!("jetway_events_total {}", read(&counters.events)));
    line("# HELP jetway_backends_lost_total Backends found to be gone without a report.".into());
    line("# TYPE jetway_backends_lost_total counter".into());
    line(format!("jetway_backends_lost_total {}", read(&counters.rows_lost)));
    let table = app.fleet.table();
    let age = table.read_at.elapsed();
    let silent = table.drones.iter().filter(|drone| drone.heartbeat_age + age > HEARTBEAT_AGE_MAX).count();
    line("# HELP jetway_drones Drones by whether they are heard of.".into());
    line("# TYPE jetway_drones gauge".into());
    line(format!("jetway_drones{{state=\"heard\"}} {}", table.drones.len() - silent));
    line(format!("jetway_drones{{state=\"silent\"}} {silent}"));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
