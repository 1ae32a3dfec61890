//! What this controller has placed on each drone and the drone's own numbers may not show yet. Only placement reads it: it spreads
//! bursts, and a wrong guess costs a refusal or a colder start, never correctness.
//!
//! Kept in short buckets of time, so that thousands of placements a second cost no more than a few.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jetway_protocol::ids::DroneId;
use jetway_protocol::warm::Kind;
use tokio::time::Instant;

/// Until a drone's own numbers must show a placement: two heartbeats and a refresh.
pub const LIFE: Duration = Duration::from_secs(5);
/// From a placement until the drone counts it: after that its next heartbeat has it.
const SETTLE: Duration = Duration::from_millis(500);
const BUCKET: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub struct Reservations {
    drones: HashMap<DroneId, VecDeque<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    begun: Instant,
    taken: Taken,
    slots: HashMap<Kind, u32>,
}

/// What has been placed on one drone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Taken {
    pub backends: u32,
    pub cpus: f64,
    pub memory_bytes: i64,
}

/// One placement. Giving it back makes room again where nothing came of it.
#[derive(Debug, Clone)]
pub struct Reservation {
    drone: DroneId,
    cpus: f64,
    memory_bytes: i64,
    /// Whose slot the placement counts on.
    kind: Option<Kind>,
    begun: Instant,
}

impl Reservations {
    pub fn add(
        &mut self,
        drone: DroneId,
        cpus: f64,
        memory_bytes: i64,
        kind: Option<Kind>,
        now: Instant,
    ) -> Reservation {
        let buckets = self.drones.entry(drone).or_default();
        while buckets.front().is_some_and(|bucket| bucket.begun + BUCKET + LIFE < now) {
            buckets.pop_front();
        }
        if buckets.back().is_none_or(|bucket| bucket.begun + BUCKET <= now) {
            buckets.push_back(Bucket { begun: now, taken: Taken::default(), slots: HashMap::new() });
        }
        let begun = buckets.back().map_or(now, |bucket| bucket.begun);
        let reservation = Reservation { drone, cpus, memory_bytes, kind, begun };
        if let Some(bucket) = buckets.back_mut() {
            bucket.taken.backends += 1;
            bucket.taken.cpus += cpus;
            bucket.taken.memory_bytes = bucket.taken.memory_bytes.saturating_add(memory_bytes);
            if let Some(kind) = &reservation.kind {
                *bucket.slots.entry(kind.clone()).or_default() += 1;
            }
        }
        reservation
    }

    pub fn give_back(&mut self, reservation: &Reservation) {
        let Some(buckets) = self.drones.get_mut(&reservation.drone) else { return };
        let Some(bucket) = buckets.iter_mut().find(|bucket| bucket.begun == reservation.begun) else {
            return;
        };
        bucket.taken.backends = bucket.taken.backends.saturating_sub(1);
        bucket.taken.cpus -= reservation.cpus;
        bucket.taken.memory_bytes = bucket.taken.memory_bytes.saturating_sub(reservation.memory_bytes);
        if let Some(slots) = reservation.kind.as_ref().and_then(|kind| bucket.slots.get_mut(kind)) {
            *slots = slots.saturating_sub(1);
        }
    }

    /// What a heartbeat of that moment cannot have counted yet.
    pub fn taken(&self, drone: DroneId, heartbeat: Instant, now: Instant) -> Taken {
        self.since(drone, heartbeat, now).fold(Taken::default(), |sum, bucket| Taken {
            backends: sum.backends + bucket.taken.backends,
            cpus: sum.cpus + bucket.taken.cpus,
            memory_bytes: sum.memory_bytes.saturating_add(bucket.taken.memory_bytes),
        })
    }

    /// Of those, how many count on a slot of this kind, and are not older than that.
    pub fn slots(&self, drone: DroneId, kind: &Kind, heartbeat: Instant, now: Instant, age: Duration) -> u32 {
        let recent = self.since(drone, heartbeat, now).take_while(|bucket| bucket.begun + BUCKET + age > now);
        recent.filter_map(|bucket| bucket.slots.get(kind)).sum()
    }

    fn since(&self, drone: DroneId, heartbeat: Instant, now: Instant) -> impl Iterator<Item = &Bucket> {
        let buckets = self.drones.get(&drone).into_iter().flatten().rev();
        buckets.take_while(move |bucket| {
            let end = bucket.begun + BUCKET;
            end + SETTLE > heartbeat && end + LIFE > now
        })
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::spec::Executable;
    use jetway_protocol::warm::SlotTier;

    use super::*;

    #[test]
    fn a_placement_counts_until_a_heartbeat_must_have_it_or_it_is_given_back() {
        let (mut reservations, drone) = (Reservations::default(), DroneId::random());
        let kind = Kind::of(SlotTier::Parked, &Executable::of_image("app")).unwrap();
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let first = reservations.add(drone, 1.0, 10, Some(kind.clone()), ms(0));
        reservations.add(drone, 1.0, 10, Some(kind.clone()), ms(100));
        reservations.add(drone, 1.0, 10, None, ms(1000));
        let count = |r: &Reservations, heartbeat, now| {
            (
                r.taken(drone, ms(heartbeat), ms(now)).backends,
                r.slots(drone, &kind, ms(heartbeat), ms(now), LIFE),
            )
        };
        assert_eq!(count(&reservations, 0, 1000), (3, 2));
        assert_eq!(count(&reservations, 700, 1000), (3, 2), "the heartbeat may have missed them");
        assert_eq!(count(&reservations, 1000, 1000), (1, 0), "the heartbeat has them");
        assert_eq!(count(&reservations, 0, 5500), (1, 0), "too old to be still on its way");
        assert_eq!(
            reservations.slots(drone, &kind, ms(0), ms(800), Duration::from_millis(500)),
            0,
            "replaced by now"
        );
        reservations.give_back(&first);
        assert_eq!(count(&reservations, 0, 1000), (2, 1));
        assert_eq!(reservations.taken(DroneId::random(), ms(0), ms(0)), Taken::default());
        // However many, a drone has no more buckets than its placements' life holds.
        for n in 0..100_000 {
            reservations.add(drone, 0.0, 0, None, ms(2000 + n / 2));
        }
        assert!(reservations.drones[&drone].len() < 30);
    }
}
