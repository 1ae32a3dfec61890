//! A connect to a key whose drone holds it: one exchange, and its answer is all. While the drone
//! holds the key under its lease nobody else can have it, so there is nothing that Postgres could
//! add, and nothing to wait for where it is away.
//!
//! Whatever else the drone says, or does not say, is the others' to judge: they begin with a read.

use std::time::Duration;

use jetway_protocol::drone_api::GrantReply;
use jetway_protocol::status::Status;
use tokio::time::timeout;

use super::context::Connects;
use super::offer::Offered;
use super::respond::Connected;
use super::round::grant;
use super::validate::Wanted;
use crate::db::backends::LiveBackend;
use crate::db::drones::LeaseState;

/// A drone that lives answers in a millisecond, and in a crowd in some.
const PATIENCE: Duration = Duration::from_millis(50);

/// May be dropped anywhere: a grant that nobody was given is all that it leaves, and a return URL
/// that is on its way. `None`: the key is not known to be held, or no longer; or not all of its
/// hosts are known to be written.
pub async fn ask(app: &Connects, wanted: &Wanted) -> Option<Connected> {
    let key = wanted.key.as_ref()?;
    let guess = app.keys.recent.guess(key).filter(|guess| guess.is_held)?;
    let live = &*guess.live;
    if !is_leased(app, live) {
        return None;
    }
    let form = wanted.host_form.as_ref();
    let hosted = match form {
        Some(form) => Some(app.hosts.known_of(wanted, form, live)?),
        None => None,
    };
    let grant = grant(wanted);
    let Ok(Offered::Taken(GrantReply { status, holds_key: true, hint })) =
        timeout(PATIENCE, app.grants.offers.offer(live, &grant)).await
    else {
        app.keys.recent.forget(key);
        return None;
    };
    // Who waits for more does so elsewhere.
    if wanted.wait.is_some() && status != Status::Ready {
        return None;
    }
    app.hosts.return_later(form, hosted.as_ref(), &live.id);
    Some(Connected {
        id: live.id.clone(),
        fencing_token: live.fencing_token,
        spawned: false,
        status,
        cluster: live.cluster.clone(),
        subdomain: live.subdomain.clone(),
        drone: live.drone.clone(),
        grant,
        drone_answered: true,
        hint,
        hosted,
    })
}

/// As far as this controller has heard, its drone is who it was, and has a lease.
fn is_leased(app: &Connects, live: &LiveBackend) -> bool {
    app.fleet
        .by_id(live.drone.id)
        .is_some_and(|drone| drone.term == live.drone.term && matches!(drone.lease, LeaseState::Held(_)))
}
