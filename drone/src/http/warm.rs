//! What a controller tells a drone to keep ready. All of it each time, so repeating it changes nothing.

use axum::Json;
use jetway_protocol::drone_api::{RefusalCode, SetWarm};
use jetway_protocol::warm::KINDS_MAX;

use super::refusal::{Body, No, Serving, check_term, no};

pub async fn set(Serving(agent): Serving, Body(told): Body<SetWarm>) -> Result<Json<()>, No> {
    check_term(&agent, told.term)?;
    let targets = told.targets.targets.len();
    // More of them would not be in a heartbeat, and nobody would know how they do.
    if targets > KINDS_MAX {
        return Err(no(RefusalCode::Invalid, format!("{targets} targets: at most {KINDS_MAX}")));
    }
    agent.warm.set(told.targets);
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use jetway_protocol::drone_api::{RefusalCode, SetWarm};
    use jetway_protocol::ids::Term;
    use jetway_protocol::warm::{SlotTier, WarmTargets};

    use crate::http::harness::Server;
    use crate::runtime::fake::Script;
    use crate::warm::tests::target;

    #[tokio::test]
    async fn it_is_told_whole_in_the_present_term_and_within_bounds() {
        let server = Server::start(Script::default()).await;
        let told = |term, targets| SetWarm { term: Term(term), targets: WarmTargets { targets } };
        let one = told(1, vec![target(SlotTier::Parked, 1, |_| {})]);
        for _ in 0..2 {
            assert_eq!(server.call("PUT", "/warm", &one).await.1, "null");
        }
        server.test.has_ready(1, 0).await;
        assert_eq!(server.test.agent.warm.load().targets, one.targets.fingerprint());
        for (told, expect) in [
            (told(0, Vec::new()), (409, RefusalCode::WrongTerm)),
            (told(2, Vec::new()), (503, RefusalCode::Unavailable)),
            (told(1, vec![target(SlotTier::Parked, 1, |_| {}); 65]), (400, RefusalCode::Invalid)),
        ] {
            assert_eq!(server.refused("PUT", "/warm", &told).await, expect);
        }
        assert_eq!(server.test.ready(), 1, "what was refused changes nothing");
        server.call("PUT", "/warm", &told(1, Vec::new())).await;
        server.test.has_ready(0, 0).await;
    }
}
