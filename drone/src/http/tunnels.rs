//! Limits of dialled tunnels. Visitors open them through proxies on other hosts, and each tunnel
//! takes two open files. Tunnels get a part of the server's connections and of the process's files,
//! and one backend's tunnels get half of that part; controllers and attach streams have the rest.

use std::collections::HashMap;
use std::sync::Arc;

use jetway_protocol::ids::BackendId;
use jetway_service::files;
use parking_lot::{Mutex, MutexGuard};

/// Tunnels at once, at most, and their part of the files that this process may open.
const TUNNELS_MAX: usize = 12 * 1024;
const FILES_PER_TUNNEL: usize = 2;
const PART_OF_FILES: (usize, usize) = (3, 4);

#[derive(Debug)]
pub struct Tunnels {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_backend: HashMap<BackendId, usize>,
}

/// One tunnel's place, until it is dropped.
#[derive(Debug)]
pub struct Tunnel {
    tunnels: Arc<Tunnels>,
    backend: BackendId,
}

impl Tunnels {
    /// As many as the process's files allow.
    pub fn for_this_process() -> Self {
        let (part, whole) = PART_OF_FILES;
        let by_files = files::limit().map(|files| files / whole * part / FILES_PER_TUNNEL);
        Self::at_most(by_files.map_or(TUNNELS_MAX, |by_files| by_files.clamp(1, TUNNELS_MAX)))
    }

    pub fn at_most(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// `None`: there is no room, or this backend has its part.
    pub fn enter(self: &Arc<Self>, backend: &BackendId) -> Option<Tunnel> {
        let mut open = self.open();
        let of_backend = open.by_backend.get(backend).copied().unwrap_or(0);
        if open.all >= self.most || of_backend >= self.most.div_ceil(2) {
            return None;
        }
        open.all += 1;
        open.by_backend.insert(backend.clone(), of_backend + 1);
        Some(Tunnel { tunnels: self.clone(), backend: backend.clone() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut open = self.tunnels.open();
        open.all -= 1;
        match open.by_backend.get_mut(&self.backend) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.by_backend.remove(&self.backend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_backend_has_half_of_the_room_and_gives_it_back() {
        let tunnels = Arc::new(Tunnels::at_most(5));
        let (one, other, third) = ("a".parse().unwrap(), "b".parse().unwrap(), "c".parse().unwrap());
        let mut of_one: Vec<_> = (0..5).filter_map(|_| tunnels.enter(&one)).collect();
        assert_eq!(of_one.len(), 3);
        let of_other: Vec<_> = (0..5).filter_map(|_| tunnels.enter(&other)).collect();
        assert_eq!(of_other.len(), 2);
        assert!(tunnels.enter(&third).is_none(), "there is no room");
        of_one.pop();
        let of_third = tunnels.enter(&third).unwrap();
        drop((of_one, of_other, of_third));
        let open = tunnels.open();
        assert_eq!((open.all, open.by_backend.len()), (0, 0));
    }

    #[test]
    fn the_files_of_a_process_suffice_for_its_tunnels() {
        let most = Tunnels::for_this_process().most;
        assert!(most <= TUNNELS_MAX);
        assert!(files::limit().is_none_or(|files| most * FILES_PER_TUNNEL <= files));
    }
}
