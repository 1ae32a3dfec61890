//! Whether one more backend fits. What is reserved is given back when the [`Reservation`] is dropped.

use std::sync::Arc;

use jetway_protocol::controller_api::Capacity;
use jetway_protocol::spec::Executable;
use parking_lot::Mutex;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reserved {
    pub backends: u32,
    pub cpus: f64,
    pub memory_bytes: i64,
}

impl Reserved {
    pub fn add(&mut self, other: Self) {
        self.backends = self.backends.saturating_add(other.backends);
        self.cpus += other.cpus;
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
    }

    pub fn without(self, other: Self) -> Self {
        Self {
            backends: self.backends.saturating_sub(other.backends),
            cpus: (self.cpus - other.cpus).max(0.0),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoRoom {
    #[error("the drone runs {0} backends, as many as it may")]
    Backends(u32),
    #[error("{asked} CPUs are asked for and {free} are free")]
    Cpus { asked: f64, free: f64 },
    #[error("{asked} bytes of memory are asked for and {free} are free")]
    Memory { asked: i64, free: i64 },
}

#[derive(Debug)]
pub struct Admission {
    limits: Reserved,
    reserved: Arc<Mutex<Reserved>>,
}

/// One backend's share of the drone.
#[derive(Debug)]
pub struct Reservation {
    cpus: f64,
    memory_bytes: i64,
    reserved: Arc<Mutex<Reserved>>,
}

impl Admission {
    pub fn new(capacity: &Capacity) -> Self {
        let limits = Reserved {
            backends: capacity.backends_max,
            cpus: capacity.cpus,
            memory_bytes: capacity.memory_bytes,
        };
        Self { limits, reserved: Arc::default() }
    }

    pub fn reserved(&self) -> Reserved {
        *self.reserved.lock()
    }

    pub fn admit(&self, executable: &Executable) -> Result<Reservation, NoRoom> {
        let mut reserved = self.reserved.lock();
        fits(&self.limits, &reserved, executable)?;
        Ok(self.take(&mut reserved, executable))
    }

    /// Whether it would be admitted if `away` were given back.
    pub fn would_fit(&self, executable: &Executable, away: Reserved) -> bool {
        fits(&self.limits, &self.reserved().without(away), executable).is_ok()
    }

    /// For what runs already: it is there, whether it fits or not.
    pub fn adopt(&self, executable: &Executable) -> Reservation {
        let mut reserved = self.reserved.lock();
        self.take(&mut reserved, executable)
    }

    fn take(&self, reserved: &mut Reserved, executable: &Executable) -> Reservation {
        reserved.backends = reserved.backends.saturating_add(1);
        reserved.cpus += executable.cpu_reserve;
        reserved.memory_bytes = reserved.memory_bytes.saturating_add(executable.memory_reserve_bytes);
        Reservation {
            cpus: executable.cpu_reserve,
            memory_bytes: executable.memory_reserve_bytes,
            reserved: self.reserved.clone(),
        }
    }
}

impl Reservation {
    pub fn share(&self) -> Reserved {
        Reserved { backends: 1, cpus: self.cpus, memory_bytes: self.memory_bytes }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock();
        reserved.backends = reserved.backends.saturating_sub(1);
        reserved.memory_bytes = reserved.memory_bytes.saturating_sub(self.memory_bytes);
        // Sums of fractions drift; an empty drone is exactly empty.
        reserved.cpus = if reserved.backends == 0 { 0.0 } else { (reserved.cpus - self.cpus).max(0.0) };
    }
}

fn fits(limits: &Reserved, reserved: &Reserved, executable: &Executable) -> Result<(), NoRoom> {
    /// CPUs are added up as fractions; so much may be lost on the way.
    const ROUNDING: f64 = 1e-6;
    if reserved.backends >= limits.backends {
        return Err(NoRoom::Backends(reserved.backends));
    }
    let free = limits.cpus - reserved.cpus;
    if executable.cpu_reserve > free + ROUNDING {
        return Err(NoRoom::Cpus { asked: executable.cpu_reserve, free });
    }
    let free = limits.memory_bytes.saturating_sub(reserved.memory_bytes);
    if executable.memory_reserve_bytes > free {
        return Err(NoRoom::Memory { asked: executable.memory_reserve_bytes, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(cpus: f64, memory: i64) -> Executable {
        Executable { cpu_reserve: cpus, memory_reserve_bytes: memory, ..Executable::of_image("image") }
    }

    #[test]
    fn room_is_taken_and_given_back() {
        let capacity = Capacity {
            cpus: 2.0,
            memory_bytes: 1000,
            backends_max: 3,
            mounts: false,
            networks: Vec::new(),
            no_disk_limit: false,
        };
        let admission = Admission::new(&capacity);
        let first = admission.admit(&executable(1.5, 400)).unwrap();
        assert_eq!(admission.admit(&executable(0.6, 0)).unwrap_err(), NoRoom::Cpus { asked: 0.6, free: 0.5 });
        assert_eq!(
            admission.admit(&executable(0.0, 601)).unwrap_err(),
            NoRoom::Memory { asked: 601, free: 600 }
        );
        let _second = admission.admit(&executable(0.5, 600)).unwrap();
        drop(first);
        let less = Reserved { backends: 1, cpus: 0.5, memory_bytes: 600 };
        assert!(!admission.would_fit(&executable(0.0, 601), Reserved::default()));
        assert!(!admission.would_fit(&executable(0.0, 1001), less));
        assert!(admission.would_fit(&executable(2.0, 1000), less));
        let _third = admission.adopt(&executable(0.0, 5000));
        let _fourth = admission.adopt(&executable(0.0, 0));
        assert_eq!(admission.admit(&executable(0.0, 0)).unwrap_err(), NoRoom::Backends(3));
    }
}
