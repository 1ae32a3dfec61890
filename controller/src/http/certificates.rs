//! `GET /ctrl/certificates`: those that are ordered, and how they are. `POST /ctrl/certificates/{id}/retry`: order one now, whatever
//! it would wait for.

use axum::Json;
use axum::extract::State;
use jetway_api::ErrorBody;
use jetway_api::certificates::{Certificate, CertificateState, Certificates, Ordered};
use jetway_protocol::error::Code;

use super::extract::ApiPath;
use crate::app::App;
use crate::db::certificates::{self, Listed};
use crate::error::{ApiError, ApiResult, shown};

const LISTED_MAX: i64 = 1000;

/// The certificates that are ordered, and how they are.
#[utoipa::path(
    get, path = "/certificates", tag = "operating",
    operation_id = "list_certificates",
    responses((status = 200, description = "Those that are least well first", body = Certificates)),
)]
pub async fn list(State(app): State<App>) -> ApiResult<Json<Certificates>> {
    let mut connection = app.pools.requests.acquire().await?;
    let listed = certificates::list(&mut connection, LISTED_MAX).await?;
    drop(connection);
    Ok(Json(Certificates {
        issuer: app.certificates.acme.as_ref().map(|acme| acme.config.directory.clone()),
        on_demand: app.certificates.acme.as_ref().is_some_and(|acme| acme.hook.is_some()),
        certificates: listed.into_iter().map(shown_certificate).collect(),
    }))
}

fn shown_certificate(listed: Listed) -> Certificate {
    let state = match (listed.is_valid, listed.failures > 0, listed.not_after_ms) {
        (true, false, _) => CertificateState::Valid,
        (true, true, _) => CertificateState::RenewalFailing,
        (false, true, _) => CertificateState::Failing,
        (false, false, Some(_)) => CertificateState::Expired,
        (false, false, None) => CertificateState::Ordered,
    };
    Certificate {
        id: listed.id,
        names: listed.names,
        on_demand: listed.on_demand,
        state,
        version: listed.version,
        expires_at: listed.not_after_ms,
        next_order_at: listed.next_ms,
        failures: listed.failures,
        problem: listed.problem,
    }
}

/// Order a certificate now, whatever it would have waited for.
#[utoipa::path(
    post, path = "/certificates/{id}/retry", tag = "operating",
    operation_id = "retry_certificate",
    params(("id" = String, Path, description = "As the list shows it, percent-encoded")),
    responses(
        (status = 200, description = "It is ordered", body = Ordered),
        (status = 404, description = "`certificate_not_found`", body = ErrorBody),
    ),
)]
pub async fn retry(State(app): State<App>, ApiPath(id): ApiPath<String>) -> ApiResult<Json<Ordered>> {
    let mut connection = app.pools.requests.acquire().await?;
    if !certificates::retry(&mut connection, &id).await? {
        let message = format!("no certificate has the id {}; see: jetway certificates", shown(&id));
        return Err(ApiError::new(Code::CertificateNotFound, message));
    }
    drop(connection);
    if let Some(acme) = &app.certificates.acme {
        acme.nudge.notify_one();
    }
    Ok(Json(Ordered { ordered: true }))
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
