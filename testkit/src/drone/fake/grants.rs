//! Grants, as the fake drone takes them.

use axum::Json;
use axum::extract::{Path, State};
use jetway_protocol::drone_api::{
    AddGrant, AddGrants, GrantAnswer, GrantReply, GrantTo, GrantsReply, RefusalCode, Revoke, RevokeReply,
};
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;

use super::words::{Mode, no, refusal};
use super::{Answer, Fake, called};

pub async fn add_grant(
    State(drone): State<Fake>,
    Path(id): Path<BackendId>,
    Json(body): Json<AddGrant>,
) -> Answer<GrantReply> {
    called(&drone, format!("GRANT {id}")).await;
    let mut inside = drone.lock();
    inside.check_term(body.term)?;
    if inside.mode == Mode::TakesNoGrants {
        return Err(no(RefusalCode::Unavailable));
    }
    let kept = inside.kept(&id)?;
    let status = kept.history.last().unwrap().status;
    if status == Status::Terminated {
        return Err(no(RefusalCode::Ended));
    }
    if !status.is_ending() {
        kept.grants.push(body.grant);
    }
    Ok(Json(GrantReply {
        status,
        holds_key: inside.holds_keys && !status.is_ending(),
        hint: inside.hint.clone(),
    }))
}

pub async fn add_grants(State(drone): State<Fake>, Json(body): Json<AddGrants>) -> Answer<GrantsReply> {
    called(&drone, format!("GRANTS {}", body.grants.len())).await;
    let mut inside = drone.lock();
    if inside.mode == Mode::BeforeGrantsTogether {
        return Err(no(RefusalCode::Unknown));
    }
    inside.check_term(body.term)?;
    let (holds_key, takes_none) = (inside.holds_keys, inside.mode == Mode::TakesNoGrants);
    let answer = |one: GrantTo| match inside.backends.get_mut(&one.backend) {
        Some(_) if takes_none => GrantAnswer::Refused(refusal(RefusalCode::Unavailable)),
        Some(kept) => {
            kept.grants.push(one.grant);
            GrantAnswer::Added(GrantReply {
                status: kept.history.last().unwrap().status,
                holds_key,
                hint: None,
            })
        }
        None => GrantAnswer::Refused(refusal(RefusalCode::Unknown)),
    };
    Ok(Json(GrantsReply { answers: body.grants.into_iter().map(answer).collect() }))
}

pub async fn revoke(
    State(drone): State<Fake>,
    Path(id): Path<BackendId>,
    Json(body): Json<Revoke>,
) -> Answer<RevokeReply> {
    called(&drone, format!("REVOKE {id}")).await;
    let mut inside = drone.lock();
    let kept = inside.kept(&id)?;
    let before = kept.grants.len();
    kept.grants.retain(|grant| grant.user.as_deref() != Some(body.user.as_str()));
    Ok(Json(RevokeReply { revoked: u32::try_from(before - kept.grants.len()).unwrap() }))
}
