//! The controller: owns names. Which backend a key means, on which drone it lives, who may ask.
//! Stateless: what another replica needs is in Postgres; it is never in the path of a session's
//! bytes.
//!
//! Tasks that it spawns; `driver` runs those of the rows, and `GET /ctrl/status` shows
//! what each did last:
//!
//! | task | wakes | reads | writes |
//! |---|---|---|---|
//! | `refresh` | every second, and when a connect finds no room | `drones` | this process's copy of them |
//! | `dispatch` | every second | rows that no drone acknowledged, taken for a few seconds each | `PUT`, later a look and a `DELETE`, at the drone; acknowledges or ends the row |
//! | `stops` | every second | wishes to stop that the status does not show | `POST …/stop` at the drone |
//! | `inventory` | every 10 s by one controller, and when a connect met a drone without its backend | `GET /b` of each drone, then its rows | ends rows whose drone says gone, or twice ended; puts back or deletes backends without a row |
//! | `renewals` | heartbeats, gathered for 50 ms | – | their renewals, one statement a batch |
//! | `events` (two) | drones' reports, whatever gathered while the last batch was under way | rows of backends | their events and statuses, one statement a batch; a row that is locked waits for the next batch |
//! | `watch` | every 2 s, more often for a short lease | every drone's renewal number | its turn; ends leases that it has watched to their end |
//! | `release` | every second, and when a drone is known to be dead | rows of terms that are over | ends them |
//! | `warm` | every second | pools, demand and drones, by the controller that has the lock | demand; `PUT /warm` at drones whose heartbeats show other targets |
//! | `certificates` | every 5 s, and when a host asks for one | certificates that are due | orders, one at a time of all controllers; what was issued |
//! | `return-urls` | a connect to a live key that gives one, once a second at most | – | return URLs that are new, one statement a batch |
//! | `prune` | every minute by one controller | – | deletes old ended backends, hosts whose hold is over, silent proxies and certificates that nobody came for |
//! | a connect | a request | – | one row; a `PUT` or a grant at the drone |
//! | a grant's delivery | a connect whose drone did not answer | – | the grant, at the drone, for 30 s |
//! | the server | a connection | – | answers; at the end it closes the pools |
//! | a status stream | a request | the drone's statuses | the response |

pub mod acme;
mod app;
mod coalesce;
mod connect;
mod counters;
mod database;
mod db;
mod driver;
mod drone;
mod error;
mod events;
mod fleet;
mod fresh;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gather;
mod generations;
mod host_names;
mod http;
mod lease;
mod owners;
mod reservations;
mod return_urls;
mod silence;
mod start;
mod tasks;
#[cfg(test)]
mod testing;
mod urls;
mod warm;

pub use start::{Config, Controller, HOST_HOLD, StartError, start};
