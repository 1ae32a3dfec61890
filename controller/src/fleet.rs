//! This controller's copy of the table of drones, renewed about every second, and what it has itself placed since the
//! drones last spoke: so that a burst of connects does not pile onto one drone. Only placement reads it, and wrong or
//! old entries cost a refusal, never correctness: the insert reads the drone's row again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jetway_protocol::ids::{DroneId, Term};
use jetway_protocol::image::Reference;
use jetway_protocol::warm::{Kind, KindLoad};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::db::drones::{Drone, DroneRef};
use crate::db::pool::Pool;
use crate::db::{DbError, drones};
use crate::reservations::{Reservation, Reservations};

/// A drone that has been silent for longer gets nothing new: five heartbeats.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(10);
/// A refresh on demand is skipped where the copy is younger than this.
const FRESH_ENOUGH: Duration = Duration::from_millis(100);

/// The drones as they were read, and who of them has what: a placement looks at few of them.
#[derive(Debug)]
pub struct Table {
    pub drones: Vec<Arc<Drone>>,
    pub read_at: Instant,
    everyone: Vec<usize>,
    by_id: HashMap<DroneId, usize>,
    by_image: HashMap<String, Vec<usize>>,
    by_kind: HashMap<Kind, Vec<usize>>,
}

impl Table {
    pub fn new(drones: Vec<Arc<Drone>>, read_at: Instant) -> Self {
        let mut by_image: HashMap<String, Vec<usize>> = HashMap::new();
        let mut by_kind: HashMap<Kind, Vec<usize>> = HashMap::new();
        for (n, drone) in drones.iter().enumerate() {
            for image in &drone.load.images {
                let having = by_image.entry(Reference::canonical(image)).or_default();
                if having.last() != Some(&n) {
                    having.push(n);
                }
            }
            for kind in drone.load.warm.kinds.iter().filter(|kind| kind.ready > 0 || kind.target > 0) {
                by_kind.entry(kind.kind.clone()).or_default().push(n);
            }
        }
        let by_id = drones.iter().enumerate().map(|(n, drone)| (drone.id, n)).collect();
        Self { everyone: (0..drones.len()).collect(), drones, read_at, by_id, by_image, by_kind }
    }

    pub fn by_id(&self, id: DroneId) -> Option<&Arc<Drone>> {
        self.by_id.get(&id).map(|n| &self.drones[*n])
    }

    pub fn everyone(&self) -> &[usize] {
        &self.everyone
    }

    /// Which of the drones have the image.
    pub fn with_image(&self, image: &str) -> &[usize] {
        self.by_image.get(&Reference::canonical(image)).map_or(&[], Vec::as_slice)
    }

    /// Which of the drones have slots of the kind, or are to have them.
    pub fn with_slots(&self, kind: &Kind) -> &[usize] {
        self.by_kind.get(kind).map_or(&[], Vec::as_slice)
    }

    /// When the drone last spoke, on this machine's clock.
    pub fn heartbeat_of(&self, drone: &Drone) -> Instant {
        self.read_at.checked_sub(drone.heartbeat_age).unwrap_or(self.read_at)
    }
}

#[derive(Debug)]
pub struct Fleet {
    table: ArcSwap<Table>,
    reservations: Mutex<Reservations>,
    refreshing: tokio::sync::Mutex<()>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            table: ArcSwap::from_pointee(Table::new(Vec::new(), Instant::now())),
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
        self.table.load().by_id(id).cloned()
    }

    pub async fn refresh(&self, pool: &Pool) -> Result<(), DbError> {
        let mut connection = pool.acquire().await?;
        let drones = drones::all(&mut connection).await?;
        drop(connection);
        let drones = drones.into_iter().map(Arc::new).collect();
        self.table.store(Arc::new(Table::new(drones, Instant::now())));
        Ok(())
    }

    /// A refresh that a request waits for. Many at once make one; a copy that is young enough is left alone.
    pub async fn refresh_on_demand(&self, pool: &Pool) -> Result<(), DbError> {
        let asked = Instant::now();
        let _one_at_a_time = self.refreshing.lock().await;
        if self.table.load().read_at + FRESH_ENOUGH > asked {
            return Ok(());
        }
        self.refresh(pool).await
    }

    /// Chooses and reserves in one step, so that of many at once each sees those before it.
    pub fn with_reservations<T>(&self, choose: impl FnOnce(&mut Reservations) -> T) -> T {
        choose(&mut self.reservations.lock())
    }

    /// Nothing came of it.
    pub fn give_back(&self, reservation: &Reservation) {
        self.with_reservations(|reservations| reservations.give_back(reservation));
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

    pub fn kind(&self, kind: &Kind) -> Option<&KindLoad> {
        self.load.warm.kinds.iter().find(|load| load.kind == *kind)
    }

    pub fn has_image(&self, image: &str) -> bool {
        let wanted = Reference::canonical(image);
        self.load.images.iter().any(|present| Reference::canonical(present) == wanted)
    }
}

/// Why a drone takes nothing at all now. `age` is how old the table is.
pub fn unable(drone: &Drone, age: Duration) -> Option<String> {
    if drone.draining { Some("is draining".into()) } else { unheard(drone, age) }
}

/// Why what a drone has said last does not count any more, or nothing can be told it.
pub fn unheard(drone: &Drone, age: Duration) -> Option<String> {
    if drone.lease.is_over() {
        return Some("has lost its lease, and has not registered anew".into());
    }
    let silent = drone.heartbeat_age + age;
    if silent > HEARTBEAT_AGE_MAX {
        return Some(format!("was last heard of {} s ago", silent.as_secs()));
    }
    if !drone.load.engine_ok {
        return Some("does not serve: it is just starting, or its container engine does not answer".into());
    }
    None
}
