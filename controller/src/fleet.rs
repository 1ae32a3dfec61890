//! This controller's copy of the table of drones, renewed about every second, and what it has itself placed since the
//! drones last spoke: so that a burst of connects does not pile onto one drone. Only placement reads it, and wrong or
//! old entries cost a refusal, never correctness: the insert reads the drone's row again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jetway_protocol::ids::{DroneId, Term};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::db::drones::{Drone, DroneRef};
use crate::db::{DbError, drones};

/// Until a drone's own numbers must show a placement: two heartbeats and a refresh.
const RESERVATION_LIFE: Duration = Duration::from_secs(5);
/// A refresh on demand is skipped where the copy is younger than this.
const FRESH_ENOUGH: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Table {
    pub drones: Vec<Arc<Drone>>,
    pub read_at: Instant,
}

#[derive(Debug)]
pub struct Fleet {
    table: ArcSwap<Table>,
    reservations: Mutex<Vec<Reservation>>,
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reservation {
    pub drone: DroneId,
    pub cpus: f64,
    pub memory_bytes: i64,
    made: Instant,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            table: ArcSwap::from_pointee(Table { drones: Vec::new(), read_at: Instant::now() }),
            reservations: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }
    }
}

impl Fleet {
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub fn by_id(&self, id: DroneId) -> Option<Arc<Drone>> {
        self.table.load().drones.iter().find(|drone| drone.id == id).cloned()
    }

    pub async fn refresh(&self, pool: &PgPool) -> Result<(), DbError> {
        let mut connection = pool.acquire().await?;
        let drones = drones::all(&mut connection).await?;
        let drones = drones.into_iter().map(Arc::new).collect();
        self.table.store(Arc::new(Table { drones, read_at: Instant::now() }));
        Ok(())
    }

    /// A refresh that a request waits for. Many at once make one; a copy that is young enough is left alone.
    pub async fn refresh_on_demand(&self, pool: &PgPool) -> Result<(), DbError> {
        let asked = Instant::now();
        let _one_at_a_time = self.refreshing.lock().await;
        if self.table.load().read_at + FRESH_ENOUGH > asked {
            return Ok(());
        }
        self.refresh(pool).await
    }

    pub fn reserve(&self, drone: DroneId, cpus: f64, memory_bytes: i64) {
        let mut reservations = self.lock();
        let now = Instant::now();
        reservations.retain(|reservation| reservation.made + RESERVATION_LIFE > now);
        reservations.push(Reservation { drone, cpus, memory_bytes, made: now });
    }

    /// What was reserved and is not yet in the drones' own numbers.
    pub fn reservations(&self) -> Vec<Reservation> {
        let now = Instant::now();
        self.lock().iter().filter(|reservation| reservation.made + RESERVATION_LIFE > now).copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Reservation>> {
        self.reservations.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Reservation {
    #[cfg(test)]
    pub fn of(drone: DroneId, cpus: f64, memory_bytes: i64) -> Self {
        Self { drone, cpus, memory_bytes, made: Instant::now() }
    }
}

impl Drone {
    pub fn reach(&self) -> DroneRef {
        DroneRef { id: self.id, name: self.name.clone(), term: self.term, advertise: self.advertise.clone() }
    }

    /// The same drone, reached under this term.
    pub fn reach_under(&self, term: Term, advertise: String) -> DroneRef {
        DroneRef { id: self.id, name: self.name.clone(), term, advertise }
    }
}
