//! A connect to a key whose backend lives: one exchange with its drone, and no write but of hosts that
//! it does not have yet. Where the backend is ending, a bounded wait for its end instead, which holds
//! no connection to the database.

use jetway_protocol::error::Code;
use jetway_protocol::grant::Grant;
use tokio::time::Instant;

use super::context::Connects;
use super::offer::Offered;
use super::respond::Connected;
use super::round::{Round, grant, static_grant, stopping};
use super::validate::{Wanted, check_static};
use crate::db::backends::LiveBackend;
use crate::error::{ApiError, ApiResult};

/// `offered`: a grant that was offered to this backend already, and what came of it.
pub async fn join(
    app: &Connects,
    wanted: &Wanted,
    live: LiveBackend,
    offered: Option<(Grant, Offered)>,
    deadline: Instant,
) -> ApiResult<Round> {
    if wanted.key.as_ref().is_some_and(|key| key.tag != live.tag) {
        return Err(
            ApiError::new(Code::KeyHeld, "the key is held by a backend with another tag").about(&live.id)
        );
    }
    if live.status.is_ending() || live.stop_requested || live.is_released {
        return until_ended(app, &live, deadline).await;
    }
    if live.use_static_token {
        check_static(wanted)?;
    }
    let form = wanted.host_form.as_ref();
    let hosted = match form {
        // On the heap, so that the path form does not carry its room about.
        Some(form) => Some(Box::pin(app.hosts.of_live(wanted, form, &live)).await?),
        None => None,
    };
    let was_offered = offered.is_some();
    let (grant, offered) = match offered {
        Some(offered) => offered,
        None => {
            let grant = if live.use_static_token { static_grant() } else { grant(wanted) };
            let offered = app.grants.offers.offer(&live, &grant).await;
            (grant, offered)
        }
    };
    let (mut holds_key, mut hint) = (false, None);
    let (status, drone_answered) = match offered {
        Offered::Taken(reply) if reply.status.is_ending() => return until_ended(app, &live, deadline).await,
        Offered::Taken(reply) => {
            (holds_key, hint) = (reply.holds_key, reply.hint);
            (reply.status.max(live.status), true)
        }
        Offered::Gone => return until_ended(app, &live, deadline).await,
        Offered::Unknown if live.acknowledged => {
            // The drone had it and has it no more: the inventory's comparison finds out, and frees the key.
            app.inventory_nudge.notify_one();
            return until_ended(app, &live, deadline).await.map_err(|_| unhealthy(&live));
        }
        Offered::Refused(message) => {
            app.grants.deliveries.note_refusal(&live.id, &live.drone, &message);
            return Err(unhealthy(&live));
        }
        Offered::Unknown | Offered::NotYet => {
            app.grants.deliver_later(&live, &grant);
            (live.status, false)
        }
    };
    if drone_answered
        && live.acknowledged
        && !live.use_static_token
        && !was_offered
        && let Some(key) = &wanted.key
    {
        app.keys.recent.note(key, live.clone(), holds_key);
    }
    app.hosts.return_later(form, hosted.as_ref(), &live.id);
    Ok(Round::Done(Box::new(Connected {
        id: live.id,
        fencing_token: live.fencing_token,
        spawned: false,
        status,
        cluster: live.cluster,
        subdomain: live.subdomain,
        drone: live.drone,
        grant,
        drone_answered,
        hint,
        hosted,
    })))
}

fn unhealthy(live: &LiveBackend) -> ApiError {
    ApiError::new(
        Code::KeyUnhealthy,
        format!("the key's backend {} is on the drone {}, which does not have it", live.id, live.drone.name),
    )
    .retry_after_ms(1000)
    .about(&live.id)
}

/// Waits until the row has ended; then the connect looks again.
async fn until_ended(app: &Connects, live: &LiveBackend, deadline: Instant) -> ApiResult<Round> {
    let drone = (!live.is_released).then_some(&live.drone);
    let ended = Box::pin(app.waits.until_row_ended(drone, &live.id, deadline)).await?;
    if ended { Ok(Round::Again) } else { Err(stopping().about(&live.id)) }
}
