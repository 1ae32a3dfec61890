//! `POST /internal/certificates`: what a host's clients are to be shown; where that is allowed on demand, it is ordered, and waited
//! for. `POST /internal/challenges/pending`: the answers of all orders under way;
//! `POST /internal/challenges`: those for one name, for proxies of the version before.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jetway_protocol::certificates::{
    Certificate, ChallengeAnswers, ChallengeWanted, Given, HostName, Pending, PendingWanted, Wanted,
};
use tokio::time::{Instant, timeout_at};

use super::message::{Message, No};
use crate::acme::Acme;
use crate::acme::hook::Allowed;
use crate::app::App;
use crate::db::certificates::{self, Found};
use crate::db::{DbError, acme};

/// A proxy holds a client's handshake as long.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Another controller may have ordered it: that is not heard here.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Hosts that a certificate is ordered for, for the first time.
const WAITING_MAX: i64 = 100;
const NOT_OURS_MS: u64 = 30_000;
const LATER_MS: u64 = 5_000;
const ASK_EVERY_MIN: Duration = Duration::from_secs(1);
const ASK_EVERY_MAX: Duration = Duration::from_secs(60);
/// In a certificate's time, at least.
const TIMES_ASKED: u32 = 40;

pub async fn wanted(State(app): State<App>, Message(wanted): Message<Wanted>) -> Result<Json<Given>, No> {
    let until = Instant::now() + Duration::from_millis(wanted.wait_ms).min(WAIT_MAX);
    let mut is_asked = false;
    loop {
        let found = certificates::covering(&mut *app.pools.requests.acquire().await?, &wanted.host).await?;
        let answer =
            |found: Option<Found>, nothing| found.map_or(nothing, |found| given(found, wanted.known));
        let Some(acme) = &app.certificates.acme else { return Ok(Json(answer(found, not_ours()))) };
        // Nobody will order it but for somebody who comes.
        if !is_asked && found.as_ref().is_none_or(|found| found.is_wanting && is_nobodys(acme, found)) {
            is_asked = true;
            if let Err(nothing) = ordered(&app, acme, &wanted.host).await? {
                return Ok(Json(answer(found, nothing)));
            }
            continue;
        }
        let is_settled = found.as_ref().is_none_or(|found| !found.is_wanting || found.failures > 0);
        if is_settled || Instant::now() >= until {
            return Ok(Json(answer(found, not_ours())));
        }
        pause(acme, until).await;
    }
}

fn is_nobodys(acme: &Acme, found: &Found) -> bool {
    found.is_given_up || !(found.on_demand || acme.configured.contains(&found.id))
}

/// Until there may be news of it.
async fn pause(acme: &Acme, until: Instant) {
    let look = (Instant::now() + LOOK_EVERY).min(until);
    let _news_or_time = timeout_at(look, acme.news.notified()).await;
}

fn not_ours() -> Given {
    nothing("no certificate is for this host", NOT_OURS_MS)
}

fn nothing(reason: &str, ask_again_ms: u64) -> Given {
    Given::Nothing { reason: reason.to_owned(), ask_again_ms }
}

/// A short part of its time, so that proxies show the next one long before the end of this.
fn ask_again_ms(found: &Found) -> u64 {
    let part = Duration::try_from_secs_f64(found.seconds).unwrap_or_default() / TIMES_ASKED;
    u64::try_from(part.clamp(ASK_EVERY_MIN, ASK_EVERY_MAX).as_millis()).unwrap_or(LATER_MS)
}

fn given(found: Found, known: Option<i64>) -> Given {
    let ask_again_ms = ask_again_ms(&found);
    match (found.chain, found.sealed_key) {
        (Some(_), Some(_)) if known == Some(found.version) => Given::Unchanged { ask_again_ms },
        (Some(chain), Some(sealed_key)) => Given::Certificate(Certificate {
            id: found.id,
            version: found.version,
            chain,
            sealed_key,
            ask_again_ms,
        }),
        _ => nothing(found.problem.as_deref().unwrap_or("it is on order"), LATER_MS),
    }
}

/// Has it ordered for somebody who came, if the operator's hook allows that.
async fn ordered(app: &App, acme: &Acme, host: &HostName) -> Result<Result<(), Given>, DbError> {
    let Some(hook) = &acme.hook else {
        return Ok(Err(not_ours()));
    };
    match hook.asks(host).await {
        Allowed::Yes => {}
        Allowed::No => return Ok(Err(nothing("the hook does not allow one for this host", NOT_OURS_MS))),
        Allowed::Unknown => return Ok(Err(nothing("the hook does not answer", LATER_MS))),
    }
    let mut connection = app.pools.requests.acquire().await?;
    if !certificates::wish(&mut connection, host, WAITING_MAX).await?
        && certificates::covering(&mut connection, host).await?.is_none()
    {
        return Ok(Err(nothing("too many hosts wait for their first certificate", LATER_MS)));
    }
    acme.nudge.notify_one();
    Ok(Ok(()))
}

pub async fn pending(
    State(app): State<App>,
    Message(PendingWanted {}): Message<PendingWanted>,
) -> Result<Json<Pending>, No> {
    let read = async || {
        let shown = acme::pending(&mut *app.pools.internal.acquire().await?).await?;
        Ok::<_, DbError>(Pending { shown })
    };
    Ok(Json(app.certificates.pending.get(read).await?))
}

pub async fn challenge(
    State(app): State<App>,
    Message(wanted): Message<ChallengeWanted>,
) -> Result<Json<ChallengeAnswers>, No> {
    let mut connection = app.pools.requests.acquire().await?;
    let values = acme::answers(&mut connection, wanted.challenge, &wanted.name).await?;
    Ok(Json(ChallengeAnswers { values }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jetway_protocol::certificates::{Certificate, Given, PENDING_READ};
    use jetway_protocol::secret::Purpose;
    use serde_json::json;
    use tokio::time::Instant;

    use crate::db::tests::Statements;
    use crate::testing::Harness;

    #[tokio::test]
    async fn a_proxy_is_given_what_is_there_and_nobody_else_anything() {
        let harness = Harness::new().await;
        let sealed = harness.app.at_rest.seal(&Certificate::place("a.example"), b"the key");
        sqlx::query(
            "insert into certificates (id, names, on_demand, version, chain, sealed_key, not_before, not_after)
             values ('a.example', '{a.example}', false, 3, 'PEM', $1, now(), now() + interval '80 s')",
        )
        .bind(sealed)
        .execute(&harness.sql)
        .await
        .unwrap();
        let ask = async |role, body| harness.as_role(role, "POST", "/internal/certificates", &body).await;
        let given = async |body| {
            let answer = ask(Purpose::ProxyToController, body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            serde_json::from_value::<Given>(answer.json()).unwrap()
        };
        let Given::Certificate(found) = given(json!({ "host": "A.example" })).await else {
            panic!("nothing")
        };
        assert_eq!((found.version, found.chain.as_str(), found.ask_again_ms), (3, "PEM", 2000));
        let key = harness.app.at_rest.open(&Certificate::place(&found.id), &found.sealed_key).unwrap();
        assert_eq!(key, b"the key");
        assert!(matches!(given(json!({ "host": "a.example", "known": 3 })).await, Given::Unchanged { .. }));
        assert!(matches!(
            given(json!({ "host": "b.example", "wait_ms": 9999 })).await,
            Given::Nothing { .. }
        ));
        for host in ["127.0.0.1", "localhost", "", "a.example' or 1=1", "*.a.example"] {
            assert_eq!(ask(Purpose::ProxyToController, json!({ "host": host })).await.status, 422, "{host}");
        }
        assert_eq!(ask(Purpose::DroneToController, json!({ "host": "a.example" })).await.status, 401);

        harness
            .execute(
                "insert into acme_challenges values ('http-01', 't', 'shown', now() + interval '1 min'),
                      ('http-01', 'old', 'shown', now() - interval '1 s')",
            )
            .await;
        let shown = async |challenge, name| {
            let body = json!({ "challenge": challenge, "name": name });
            let answer =
                harness.as_role(Purpose::ProxyToController, "POST", "/internal/challenges", &body).await;
            answer.json()["values"].clone()
        };
        assert_eq!(shown("http-01", "t").await, json!(["shown"]));
        for (challenge, name) in [("http-01", "old"), ("dns-01", "t"), ("http-01", "T")] {
            assert_eq!(shown(challenge, name).await, json!([]), "{challenge} {name}");
        }
    }

    #[tokio::test]
    async fn proxies_fetch_what_all_orders_show_by_few_reads() {
        let harness = Harness::new().await;
        harness
            .execute(
                "insert into acme_challenges values ('http-01', 't', 'shown', now() + interval '1 min'),
                      ('dns-01', 'a.example', 'text', now() + interval '2 min'),
                      ('of-tomorrow', 'a.example', 'text', now() + interval '2 min'),
                      ('http-01', 'old', 'shown', now() - interval '1 s')",
            )
            .await;
        let path = "/internal/challenges/pending";
        let (count, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let _counting = tracing::subscriber::set_default(Statements::counted_in(&count));
        for _ in 0..300 {
            let answer = harness.as_role(Purpose::ProxyToController, "POST", path, &json!({})).await;
            let expected = json!({ "shown": [
                { "challenge": "dns-01", "name": "a.example", "value": "text" },
                { "challenge": "http-01", "name": "t", "value": "shown" },
            ] });
            assert_eq!((answer.status, answer.json()), (200, expected));
        }
        let most = 1 + begun.elapsed().as_millis() / PENDING_READ.as_millis();
        assert!(count.load(Ordering::Relaxed) as u128 <= most, "{count:?} statements, at most {most}");
        let stranger = harness.as_role(Purpose::DroneToController, "POST", path, &json!({})).await;
        assert_eq!(stranger.status, 401);
    }
}
