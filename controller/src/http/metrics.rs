//! `GET /metrics`: what this controller counts, in Prometheus' text format. No label names a
//! session, so the number of lines is bounded.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use jetway_service::clock;

use super::metrics_page::{Labels, Page};
use crate::app::App;
use crate::db::drones::LeaseState;
use crate::fleet::{HEARTBEAT_AGE_MAX, Table};

/// Counters in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operating",
    responses((status = 200, description = "Counters and gauges", body = String, content_type = "text/plain")),
)]
pub async fn metrics(State(app): State<App>) -> Page {
    let mut page = Page::new();
    let table = app.fleet.table();
    answers(&app, &mut page);
    drones(&table, &mut page);
    leases(&app, &mut page);
    certificates(&app, &mut page);
    super::metrics_warm::add(&app, &table, &mut page);
    page
}

fn no_labels() -> Labels {
    Labels::new()
}

fn state(name: &str) -> Labels {
    vec![("state", name.to_owned())]
}

fn answers(app: &App, page: &mut Page) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &app.counters;
    let connects = [
        ("spawned", &counters.connects_spawned),
        ("joined", &counters.connects_joined),
        ("refused", &counters.connects_refused),
        ("failed", &counters.connects_failed),
    ];
    let connects = connects.map(|(outcome, counter)| (vec![("outcome", outcome.to_owned())], read(counter)));
    page.counter("connects", "Answers to connect, by outcome.", connects);
    let events = [(no_labels(), read(&counters.events))];
    page.counter("events", "Events that drones have reported.", events);
    let lost = [(no_labels(), read(&counters.rows_lost))];
    page.counter("backends_lost", "Backends found to be gone without a report.", lost);
}

fn drones(table: &Table, page: &mut Page) {
    let age = table.read_at.elapsed();
    let silent = table.drones.iter().filter(|drone| drone.heartbeat_age + age > HEARTBEAT_AGE_MAX).count();
    let heard = [("heard", table.drones.len() - silent), ("silent", silent)];
    let heard = heard.map(|(name, count)| (state(name), count as u64));
    page.gauge("drones", "Drones by whether they are heard of.", heard);
    type Is = fn(LeaseState) -> bool;
    let states: [(&str, Is); 4] = [
        ("held", |lease| matches!(lease, LeaseState::Held(_))),
        ("none", |lease| lease == LeaseState::None),
        ("over", |lease| lease == LeaseState::Over),
        ("forgotten", |lease| lease == LeaseState::Forgotten),
    ];
    let count = |is_it: Is| table.drones.iter().filter(|drone| is_it(drone.lease)).count();
    let leases = states.map(|(name, is_it)| (state(name), count(is_it) as u64));
    page.gauge("drone_leases", "Drones by how their lease stands.", leases);
}

fn certificates(app: &App, page: &mut Page) {
    let Some(acme) = &app.certificates.acme else { return };
    let counts = acme.counts.load();
    let states = [("valid", counts.valid), ("failing", counts.failing), ("missing", counts.without)];
    let help = "Certificates that are ordered: valid, with a last order that failed, not there yet.";
    page.gauge("certificates", help, states.map(|(name, count)| (state(name), count as u64)));
    let left = counts.seconds_left.map(|left| (no_labels(), left));
    let help = "Of the certificate that ends first, of those that are renewed.";
    page.gauge("certificate_left_seconds", help, left);
}

fn leases(app: &App, page: &mut Page) {
    let shown = app.leases.shown();
    let length = app.leases.terms.map(|terms| (no_labels(), terms.length().as_secs_f64()));
    page.gauge("lease_length_seconds", "A lease's length, from a drone's next registration on.", length);
    let held = [(no_labels(), shown.held as u64)];
    page.gauge("leases_watched", "Drones whose lease this controller watches.", held);
    let ended = [(no_labels(), shown.ended)];
    page.counter("leases_ended", "Leases that this controller has watched to their end.", ended);
    let age = shown.last_tick.map(|last| clock::boot_time().saturating_sub(last).as_secs_f64());
    let age = age.map(|age| (no_labels(), age));
    page.gauge("lease_watch_age_seconds", "Since the last answer of Postgres to the watch.", age);
    let help = "Times that a failure of Postgres made every watch begin anew.";
    page.counter("lease_watch_interruptions", help, [(no_labels(), shown.interruptions)]);
    let timeline = shown.timeline.map(|timeline| (no_labels(), u64::from(timeline)));
    let help = "The timeline that Postgres writes; it rises with each failover.";
    page.gauge("postgres_timeline", help, timeline);
    let settled = shown.timeline.map(|_| (no_labels(), u64::from(shown.is_settled)));
    page.gauge("postgres_timeline_settled", "1 while new keys are given out.", settled);
}
