//! Drones without an engine. [`FakeDrone`] is one as controllers see it, [`AttachedDrone`] as
//! proxies do. Not here: the drones that load a controller in measurements (`bench/src/drones/`),
//! which must cost as little as they can, and note nothing.

mod attached;
mod fake;

pub use attached::{AttachedDrone, FENCING, an_end};
pub use fake::{FakeDrone, Kept, Mode, end, made_up};
