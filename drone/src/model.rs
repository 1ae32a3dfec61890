//! What `tests/model` drives: the decisions about one backend as they are, the words between them
//! and their loop, and the journal's records. No other crate uses it.

pub use crate::backend::core::{Action, Call, Core, Done, Event, Finish, Now, Progress, TakenSlot};
pub use crate::lease::{LeaseNow, Tenure};
pub use crate::store::journal::{Place, Record, Remembered};
