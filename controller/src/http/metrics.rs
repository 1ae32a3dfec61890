//! `GET /metrics`: a few counters of this controller in Prometheus' text format. Nothing is labelled by session.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use jetway_service::clock;

use crate::app::App;
use crate::connect::place::HEARTBEAT_AGE_MAX;
use crate::db::drones::LeaseState;

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
    line("# HELP jetway_drone_leases Drones by how their lease stands.".into());
    line("# TYPE jetway_drone_leases gauge".into());
    for (state, is_it) in [
        ("held", (|lease| matches!(lease, LeaseState::Held(_))) as fn(LeaseState) -> bool),
        ("none", |lease| lease == LeaseState::None),
        ("over", |lease| lease == LeaseState::Over),
        ("forgotten", |lease| lease == LeaseState::Forgotten),
    ] {
        let count = table.drones.iter().filter(|drone| is_it(drone.lease)).count();
        line(format!("jetway_drone_leases{{state=\"{state}\"}} {count}"));
    }
    lease_lines(&app, &mut line);
    certificate_lines(&app, &mut line);
    super::metrics_warm::lines(&app, &table, &mut line);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn certificate_lines(app: &App, line: &mut impl FnMut(String)) {
    let Some(acme) = &app.acme else { return };
    let counts = acme.counts.load();
    line("# HELP jetway_certificates Certificates that are ordered: whose time is not over, whose last order failed, that are not there yet.".into());
    line("# TYPE jetway_certificates gauge".into());
    for (state, count) in [("valid", counts.valid), ("failing", counts.failing), ("missing", counts.without)]
    {
        line(format!("jetway_certificates{{state=\"{state}\"}} {count}"));
    }
    line("# HELP jetway_certificate_left_seconds Of the certificate that ends first, of those that are renewed.".into());
    line("# TYPE jetway_certificate_left_seconds gauge".into());
    if let Some(left) = counts.seconds_left {
        line(format!("jetway_certificate_left_seconds {left}"));
    }
}

fn lease_lines(app: &App, line: &mut impl FnMut(String)) {
    let shown = app.leases.shown();
    let mut one = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        line(format!("# HELP {name} {help}"));
        line(format!("# TYPE {name} {kind}"));
        if let Some(value) = value {
            line(format!("{name} {value}"));
        }
    };
    let length = app.leases.terms.map(|terms| terms.length().as_secs_f64());
    one(
        "jetway_lease_length_seconds",
        "gauge",
        "A lease's length, from a drone's next registration on.",
        length,
    );
    #[expect(clippy::cast_precision_loss, reason = "nobody counts 2^52 drones or failures")]
    let (held, interruptions, ended) = (shown.held as f64, shown.interruptions as f64, shown.ended as f64);
    one("jetway_leases_watched", "gauge", "Drones whose lease this controller watches.", Some(held));
    one(
        "jetway_leases_ended_total",
        "counter",
        "Leases that this controller has watched to their end.",
        Some(ended),
    );
    let age = shown.last_tick.map(|last| clock::boot_time().saturating_sub(last).as_secs_f64());
    one("jetway_lease_watch_age_seconds", "gauge", "Since the last answer of Postgres to the watch.", age);
    let help = "Times that a failure of Postgres made every watch begin anew.";
    one("jetway_lease_watch_interruptions_total", "counter", help, Some(interruptions));
    let timeline = shown.timeline.map(f64::from);
    one(
        "jetway_postgres_timeline",
        "gauge",
        "The timeline that Postgres writes; it rises with each failover.",
        timeline,
    );
    let settled = shown.timeline.map(|_| f64::from(u8::from(shown.is_settled)));
    one("jetway_postgres_timeline_settled", "gauge", "1 while new keys are given out.", settled);
}
