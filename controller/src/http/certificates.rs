//! `GET /ctrl/certificates`: those that are ordered, and how they are. `POST /ctrl/certificates/{id}/retry`: order one now, whatever
//! it would wait for.

use axum::Json;
use axum::extract::State;
use jetway_protocol::error::Code;
use serde_json::{Value, json};

use super::extract::ApiPath;
use crate::app::App;
use crate::db::certificates::{self, Listed};
use crate::error::{ApiError, ApiResult, shown};

const LISTED_MAX: i64 = 1000;

pub async fn list(State(app): State<App>) -> ApiResult<Json<Value>> {
    let mut connection = app.db.acquire().await?;
    let listed = certificates::list(&mut connection, LISTED_MAX).await?;
    drop(connection);
    let issuer = app.acme.as_ref().map(|acme| &acme.config.directory);
    let on_demand = app.acme.as_ref().is_some_and(|acme| acme.hook.is_some());
    Ok(Json(json!({
        "issuer": issuer,
        "on_demand": on_demand,
        "certificates": listed.iter().map(shown_certificate).collect::<Vec<_>>(),
    })))
}

fn shown_certificate(listed: &Listed) -> Value {
    let state = match (listed.is_valid, listed.failures > 0, listed.not_after_ms) {
        (true, false, _) => "valid",
        (true, true, _) => "renewal_failing",
        (false, true, _) => "failing",
        (false, false, Some(_)) => "expired",
        (false, false, None) => "ordered",
    };
    json!({
        "id": listed.id,
        "names": listed.names,
        "on_demand": listed.on_demand,
        "state": state,
        "version": listed.version,
        "expires_at": listed.not_after_ms,
        "next_order_at": listed.next_ms,
        "failures": listed.failures,
        "problem": listed.problem,
    })
}

pub async fn retry(State(app): State<App>, ApiPath(id): ApiPath<String>) -> ApiResult<Json<Value>> {
    let mut connection = app.db.acquire().await?;
    if !certificates::retry(&mut connection, &id).await? {
        let message = format!("no certificate has the id {}; see: jetway certificates", shown(&id));
        return Err(ApiError::new(Code::CertificateNotFound, message));
    }
    drop(connection);
    if let Some(acme) = &app.acme {
        acme.nudge.notify_one();
    }
    Ok(Json(json!({ "ordered": true })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Harness, request};

    #[tokio::test]
    async fn they_are_listed_with_how_they_are_and_one_can_be_ordered_at_once() {
        let harness = Harness::new().await;
        let empty = harness.get("/ctrl/certificates").await.json();
        assert_eq!(empty, json!({ "issuer": null, "on_demand": false, "certificates": [] }));
        harness
            .execute(
                "insert into certificates (id, names, on_demand, version, chain, not_after, next_at, failures, problem) values
                 ('a.example+*.a.example', '{a.example,*.a.example}', false, 2, 'c', now() + '1 day', 'infinity', 0, null),
                 ('b.example', '{b.example}', true, 1, 'c', now() + '1 day', now(), 3, 'why'),
                 ('c.example', '{c.example}', true, 0, null, null, now(), 1, 'why'),
                 ('d.example', '{d.example}', false, 0, null, null, now(), 0, null),
                 ('e.example', '{e.example}', false, 1, 'c', now() - interval '1 day', now(), 0, null)",
            )
            .await;
        let all = harness.get("/ctrl/certificates").await.json();
        let states: Vec<_> = all["certificates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["id"].as_str().unwrap(), one["state"].as_str().unwrap()))
            .collect();
        assert_eq!(
            states,
            [
                ("c.example", "failing"),
                ("b.example", "renewal_failing"),
                ("d.example", "ordered"),
                ("e.example", "expired"),
                ("a.example+*.a.example", "valid"),
            ]
        );
        assert!(!harness.get("/ctrl/certificates").await.text().contains("sealed"));
        let retry = async |id: &str| {
            harness.send(request("POST", &format!("/ctrl/certificates/{id}/retry"), "{}")).await.outcome()
        };
        assert_eq!(retry("a.example%2B%2A.a.example").await.0, 200);
        assert_eq!(
            harness.value("select count(*)::text from certificates where next_at <= now()").await,
            "5"
        );
        assert_eq!(retry("nobodys").await, (404, "certificate_not_found".into()));
    }
}
