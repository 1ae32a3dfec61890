//! The background tasks. None takes input: each reads Postgres or a drone, compares, acts, and may
//! run at any time, twice, or after a crash. This file gives each task the handles that it needs;
//! [`crate::driver`] runs them.

mod certificates;
mod dispatch;
mod events;
mod inventory;
mod prune;
mod refresh;
pub mod release;
mod renewals;
mod return_urls;
mod stops;
pub mod warm;
pub mod watch;

#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod once;
#[cfg(test)]
mod put_back_tests;
#[cfg(test)]
mod registration_tests;
#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod warm_tests;

use std::sync::Arc;

use tokio::sync::Mutex;

use self::certificates::Certificates;
use self::dispatch::Dispatch;
use self::events::{Events, WRITERS};
use self::inventory::Compare;
use self::prune::Prune;
use self::refresh::Refresh;
use self::release::Release;
use self::renewals::Renewals;
use self::return_urls::WriteReturnUrls;
use self::stops::Stops;
use self::warm::Look;
use self::watch::Watch;
use crate::app::App;

#[cfg(test)]
pub use self::once::{dispatch_now, each_once, look_now, prune_now, release_now, return_urls_now, stops_now};

pub fn start(app: &App) {
    app.tasks.start(refresh(app));
    app.tasks.start(dispatch(app));
    app.tasks.start(stops(app));
    app.tasks.start(warm(app));
    app.tasks.start(return_urls(app));
    app.tasks.start(prune(app));
    app.tasks.start(inventory(app));
    app.tasks.start(release(app));
    app.tasks.start(watch(app));
    if let Some(certificates) = certificates(app) {
        app.tasks.start(certificates);
    }
    start_writers(app);
}

/// Apart from the others: heartbeats and reports wait for them.
pub fn start_writers(app: &App) {
    if let Some(queue) = app.leases.take_receiver() {
        let (db, leases) = (app.pools.leases.clone(), app.leases.clone());
        app.tasks.start(Renewals::new(db, leases, queue));
    }
    if let Some(queue) = app.events.take_receiver() {
        let queue = Arc::new(Mutex::new(queue));
        for name in WRITERS {
            let (db, counters) = (app.pools.internal.clone(), app.counters.clone());
            app.tasks.start(Events::new(name, db, counters, queue.clone()));
        }
    }
}

fn refresh(app: &App) -> Refresh {
    Refresh { db: app.pools.housekeeping.clone(), fleet: app.fleet.clone() }
}

fn dispatch(app: &App) -> Dispatch {
    Dispatch { db: app.pools.housekeeping.clone(), drones: app.drones.clone(), urls: app.urls.clone() }
}

fn stops(app: &App) -> Stops {
    Stops { db: app.pools.housekeeping.clone(), drones: app.drones.clone() }
}

fn warm(app: &App) -> Look {
    Look {
        db: app.pools.housekeeping.clone(),
        at_rest: app.at_rest.clone(),
        fleet: app.fleet.clone(),
        drones: app.drones.clone(),
        warm: app.warm.clone(),
        lifecycle: app.lifecycle.clone(),
    }
}

fn return_urls(app: &App) -> WriteReturnUrls {
    WriteReturnUrls { db: app.pools.housekeeping.clone(), return_urls: app.return_urls.clone() }
}

fn prune(app: &App) -> Prune {
    Prune {
        db: app.pools.housekeeping.clone(),
        host_hold: app.connects.hosts.hold,
        lifecycle: app.lifecycle.clone(),
    }
}

fn inventory(app: &App) -> Compare {
    Compare::new(
        app.pools.housekeeping.clone(),
        app.fleet.clone(),
        app.drones.clone(),
        app.leases.clone(),
        app.connects.inventory_nudge.clone(),
        app.counters.clone(),
    )
}

fn release(app: &App) -> Release {
    Release {
        db: app.pools.housekeeping.clone(),
        leases: app.leases.clone(),
        counters: app.counters.clone(),
        lifecycle: app.lifecycle.clone(),
    }
}

pub fn watch(app: &App) -> Watch {
    Watch {
        db: app.pools.leases.clone(),
        leases: app.leases.clone(),
        silence: app.silence.clone(),
        inventory_nudge: app.connects.inventory_nudge.clone(),
    }
}

/// `None`: no certificates are ordered.
fn certificates(app: &App) -> Option<Certificates> {
    let (db, at_rest) = (app.pools.housekeeping.clone(), app.at_rest.clone());
    Some(Certificates::new(db, at_rest, app.certificates.acme.clone()?, app.lifecycle.clone()))
}
