//! How a start went, stage by stage: what the API shows, and where the milliseconds of a connect are found.

use serde::{Deserialize, Serialize};

use crate::time::UnixMicros;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// Controller: from the request's arrival to the choice of a drone.
    Asked,
    /// Controller: the commit of the row.
    Placed,
    /// Controller to drone: the `PUT`, until it was in the journal.
    Dispatched,
    /// Drone: the image was pulled.
    Pulled,
    /// Engine: container create.
    Created,
    /// Engine: container start.
    Started,
    /// Drone and init: from the running container to init's line (parked), and the session handed over.
    Claimed,
    /// Application: from its exec to its listening socket.
    Ready,
    /// Proxy: from the first request's arrival to the backend's first byte.
    FirstByte,
}

impl StageName {
    pub fn as_str(self) -> &'static str {
        match self {
            StageName::Asked => "asked",
            StageName::Placed => "placed",
            StageName::Dispatched => "dispatched",
            StageName::Pulled => "pulled",
            StageName::Created => "created",
            StageName::Started => "started",
            StageName::Claimed => "claimed",
            StageName::Ready => "ready",
            StageName::FirstByte => "first_byte",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub stage: StageName,
    pub start: UnixMicros,
    pub length_us: u64,
    /// A word for people where one helps: bytes pulled, the tier, the proxy's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}
