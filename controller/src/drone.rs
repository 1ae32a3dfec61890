//! Calls to a drone's own server, each with its deadline. What an answer means for a row is the caller's to decide.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use jetway_protocol::drone_api::{
    AddGrant, AddGrants, BackendView, DeleteBackend, DeleteReply, Draining, Followed, GrantReply,
    GrantsReply, Inventory, PutBackend, Refusal, RefusalCode, Revoke, RevokeReply, SetWarm, StatusView, Stop,
};
use jetway_protocol::ids::{BackendId, GrantId, Term};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::warm::WarmTargets;
use jetway_service::client::{CallError, Client};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use crate::db::drones::DroneRef;

/// The whole exchange that adds a grant. After it the caller has its URL anyway.
pub const GRANT_DEADLINE: Duration = Duration::from_millis(250);
/// A drone answers a `PUT` once it is in its journal: milliseconds, unless its disk is in trouble.
pub const PUT_DEADLINE: Duration = Duration::from_millis(1500);
pub const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// For how a backend is now, which Postgres may know a little later.
pub const LOOK_DEADLINE: Duration = Duration::from_millis(250);
/// Bytes of one line of a followed backend: an end with its output is far below it.
const LINE_BYTES_MAX: usize = 64 * 1024;

pub struct DroneCalls {
    client: Client,
}

impl DroneCalls {
    pub fn new(secret: &Secret) -> Self {
        Self { client: Client::new(secret.bearer(Purpose::ControllerToDrone)) }
    }

    pub async fn put(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        body: &PutBackend,
    ) -> Result<BackendView, CallError> {
        self.client.put(&url(drone, &format!("/b/{id}")), body, PUT_DEADLINE).await
    }

    pub async fn grant(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        body: &AddGrant,
        deadline: Duration,
    ) -> Result<GrantReply, CallError> {
        self.client.post(&url(drone, &format!("/b/{id}/grants")), body, deadline).await
    }

    pub async fn grants(
        &self,
        drone: &DroneRef,
        body: &AddGrants,
        deadline: Duration,
    ) -> Result<GrantsReply, CallError> {
        self.client.post(&url(drone, "/grants"), body, deadline).await
    }

    pub async fn stop(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        body: &Stop,
    ) -> Result<BackendView, CallError> {
        self.client.post(&url(drone, &format!("/b/{id}/stop")), body, CALL_DEADLINE).await
    }

    pub async fn revoke(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        user: &str,
    ) -> Result<RevokeReply, CallError> {
        let body = Revoke { term: Some(drone.term), user: user.to_owned() };
        self.client.post(&url(drone, &format!("/b/{id}/revoke")), &body, CALL_DEADLINE).await
    }

    pub async fn delete(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        term: Term,
    ) -> Result<DeleteReply, CallError> {
        self.client.delete(&url(drone, &format!("/b/{id}")), &DeleteBackend { term }, CALL_DEADLINE).await
    }

    /// With its newest grants, or one of them alone.
    pub async fn view(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        grant: Option<GrantId>,
        deadline: Duration,
    ) -> Result<BackendView, CallError> {
        let query = grant.map_or_else(String::new, |grant| format!("?grant={grant}"));
        self.client.get(&url(drone, &format!("/b/{id}{query}")), deadline).await
    }

    /// How far it is, also where it has ended.
    pub async fn status(&self, drone: &DroneRef, id: &BackendId) -> Result<StatusView, CallError> {
        self.client.get(&url(drone, &format!("/b/{id}/status")), LOOK_DEADLINE).await
    }

    pub async fn inventory(&self, drone: &DroneRef) -> Result<Inventory, CallError> {
        self.client.get(&url(drone, "/b"), CALL_DEADLINE).await
    }

    pub async fn draining(&self, drone: &DroneRef, draining: bool) -> Result<(), CallError> {
        let body = Draining { term: Some(drone.term), draining };
        let _nothing: Option<()> = self.client.put(&url(drone, "/draining"), &body, CALL_DEADLINE).await?;
        Ok(())
    }

    pub async fn warm(&self, drone: &DroneRef, targets: &WarmTargets) -> Result<(), CallError> {
        let body = SetWarm { term: drone.term, targets: targets.clone() };
        let _nothing: Option<()> = self.client.put(&url(drone, "/warm"), &body, CALL_DEADLINE).await?;
        Ok(())
    }

    /// A backend's statuses, and hints: history first, then as they come. Ends after `terminated`,
    /// or where the line breaks.
    pub async fn follow(
        &self,
        drone: &DroneRef,
        id: &BackendId,
    ) -> Result<impl Stream<Item = Option<Followed>> + Send + Unpin + use<>, CallError> {
        let response = self.client.stream(&url(drone, &format!("/b/{id}/follow")), CALL_DEADLINE).await?;
        let bytes = response.bytes_stream().map_err(std::io::Error::other);
        let lines =
            FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(LINE_BYTES_MAX));
        Ok(Box::pin(lines.map(|line| serde_json::from_str(&line.ok()?).ok())))
    }

    /// The container's output as it comes; of an ended backend, what its drone has kept.
    pub async fn logs(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        query: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + use<>, CallError> {
        let response =
            self.client.stream(&url(drone, &format!("/b/{id}/logs?{query}")), CALL_DEADLINE).await?;
        Ok(response.bytes_stream())
    }
}

fn url(drone: &DroneRef, path: &str) -> String {
    format!("http://{}{path}", drone.advertise)
}

/// What a failed call says about the drone's side, as far as anyone would act on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It said no, and why.
    Refused(RefusalCode, String),
    /// It never saw the call.
    NotSent(String),
    /// It may or may not have acted.
    Unclear(String),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error.refusal::<Refusal>() {
            // It failed, or cannot say: what it has written down by then is not known.
            Some((500.., refusal)) => return Failure::Unclear(refusal.message),
            Some((_, refusal)) => return Failure::Refused(refusal.code, refusal.message),
            None => {}
        }
        match &error {
            CallError::NotSent { .. } => Failure::NotSent(error.to_string()),
            CallError::Refused { status: 404, .. } => {
                Failure::Refused(RefusalCode::Unknown, error.to_string())
            }
            CallError::Refused { status: 410, .. } => Failure::Refused(RefusalCode::Ended, error.to_string()),
            CallError::Refused { .. }
            | CallError::TimedOut { .. }
            | CallError::Broken { .. }
            | CallError::Unreadable { .. } => Failure::Unclear(error.to_string()),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Refused(_, message) | Failure::NotSent(message) | Failure::Unclear(message) => {
                f.write_str(message)
            }
        }
    }
}
