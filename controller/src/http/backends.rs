//! `GET /ctrl/backends`: backends newest first, by key, namespace, state or drone, in pages.

use axum::Json;
use axum::extract::State;
use jetway_api::ErrorBody;
use jetway_api::backends::{BackendSummary, Backends, ListQuery};
use jetway_protocol::ids::FencingToken;
use jetway_protocol::status::Status;
use jetway_protocol::time::UnixMicros;

use super::extract::{ApiQuery, without_nul};
use crate::app::App;
use crate::db::list::{Filter, Summary, page};
use crate::error::{ApiError, ApiResult, shown};

const LIMIT: i64 = 50;
const LIMIT_MAX: i64 = 200;

/// Backends, newest first, by key, namespace, state or drone, in pages.
#[utoipa::path(
    get, path = "/backends", tag = "sessions",
    operation_id = "list_backends",
    params(ListQuery),
    responses(
        (status = 200, description = "A page, as of Postgres", body = Backends),
        (status = 422, description = "`invalid_request`: the message names the parameter", body = ErrorBody),
    ),
)]
pub async fn list(State(app): State<App>, ApiQuery(query): ApiQuery<ListQuery>) -> ApiResult<Json<Backends>> {
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!("limit must be between 1 and {LIMIT_MAX}")));
    }
    let before = match query.cursor.as_deref() {
        None => FencingToken(i64::MAX),
        Some(cursor) => i64::from_str_radix(cursor, 16)
            .map(FencingToken)
            .map_err(|_| ApiError::invalid("cursor is not one that this list gave"))?,
    };
    for (field, text) in [("key", &query.key), ("namespace", &query.namespace)] {
        without_nul(field, text.as_deref().unwrap_or_default())?;
    }
    let drone = query.drone.map(|drone| drone.parse()).transpose();
    let filter = Filter {
        key: query.key,
        namespace: query.namespace,
        drone: drone.map_err(|error| ApiError::invalid(format!("drone: {error}")))?,
        ranks: query.state.as_deref().map(ranks).transpose()?,
    };
    let mut connection = app.pools.requests.acquire().await?;
    let found = page(&mut connection, &filter, before, limit).await?;
    drop(connection);
    let full = i64::try_from(found.len()).is_ok_and(|found| found == limit);
    let next_cursor = found.last().filter(|_| full).map(|last| format!("{:x}", last.fencing_token.0));
    Ok(Json(Backends { backends: found.iter().map(shown_summary).collect(), next_cursor }))
}

fn ranks(state: &str) -> ApiResult<Vec<i16>> {
    let of = |wanted: fn(Status) -> bool| {
        Status::ALL.into_iter().filter(|status| wanted(*status)).map(Status::rank).collect()
    };
    match state {
        "live" => Ok(of(|status| status != Status::Terminated)),
        "ended" => Ok(of(|status| status == Status::Terminated)),
        status => match status.parse::<Status>() {
            Ok(status) => Ok(vec![status.rank()]),
            Err(_) => Err(ApiError::invalid(format!(
                "state {} is not one of live, ended or a status",
                shown(status)
            ))),
        },
    }
}

/// What the list says of a backend; the details begin with it.
pub fn shown_summary(summary: &Summary) -> BackendSummary {
    let end = summary.end.as_ref();
    BackendSummary {
        backend_id: summary.id.clone(),
        key: summary.key.clone(),
        status: summary.status,
        drone: summary.drone.clone(),
        cluster: summary.cluster.clone(),
        subdomain: summary.subdomain.clone(),
        fencing_token: summary.fencing_token,
        created_at: summary.created_at.millis(),
        ended_at: summary.ended_at.map(UnixMicros::millis),
        termination_reason: end.and_then(|end| end.reason.termination_reason()),
        end_reason: end.map(|end| end.reason),
        exit_code: end.and_then(|end| end.exit_code),
        oom_killed: end.map(|end| end.oom_killed),
        message: end.map(|end| &end.message).filter(|message| !message.is_empty()).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Harness, keyed};

    #[tokio::test]
    async fn pages_go_from_new_to_old_and_filters_narrow_them() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        for n in 0..5 {
            let mut body = keyed(&format!("k{n}"));
            body["key"]["namespace"] = json!(if n < 2 { "a" } else { "b" });
            body["spawn_config"]["executable"]["env"] = json!({ "PASSWORD": "hunter2" });
            body["spawn_config"]["executable"]["credentials"] =
                json!({ "username": "u", "password": "hunter3" });
            harness.connect(&body).await;
        }
        let keys = async |query: &str| {
            let page = harness.get(&format!("/ctrl/backends?{query}")).await.json();
            let names = page["backends"].as_array().unwrap_or_else(|| panic!("{query}: {page}")).iter();
            let names: Vec<_> = names.map(|b| b["key"]["name"].as_str().unwrap().to_owned()).collect();
            (names, page["next_cursor"].as_str().map(str::to_owned))
        };
        let (first, cursor) = keys("limit=3").await;
        assert_eq!(first, ["k4", "k3", "k2"]);
        let (rest, end) = keys(&format!("limit=3&cursor={}", cursor.unwrap())).await;
        assert_eq!((rest, end), (vec!["k1".to_owned(), "k0".to_owned()], None));
        assert_eq!(keys("namespace=a&drone=one&state=live").await.0, ["k1", "k0"]);
        assert_eq!(keys("key=k3").await.0, ["k3"]);
        assert!(keys("state=ready").await.0.is_empty());
        for bad in [
            "limit=0",
            "limit=201",
            "cursor=!",
            "state=happy",
            "drone=A_B",
            "colour=red",
            "limit=x",
            "key=a%00b",
            "namespace=%00",
            "drone=%00",
        ] {
            assert_eq!(
                harness.get(&format!("/ctrl/backends?{bad}")).await.outcome(),
                (422, "invalid_request".into()),
                "{bad}"
            );
        }

        // Secrets are shown neither before nor after the drone has acknowledged, and then they are not even kept.
        let id = drone.ids()[0].clone();
        let details = harness.get(&format!("/ctrl/backends/{id}")).await;
        assert_eq!(details.json()["spec"]["executable"]["env"], json!(["PASSWORD"]));
        assert!(!details.text().contains("hunter"), "{}", details.text());
        harness.report(&drone).await;
        let kept: String = sqlx::query_scalar("select string_agg(spec::text, '') from backends")
            .fetch_one(&harness.sql)
            .await
            .unwrap();
        assert!(!kept.contains("hunter") && kept.contains("PASSWORD"));
        assert_eq!(
            harness.get(&format!("/ctrl/backends/{id}/logs")).await.text(),
            "hello from the container\n"
        );
    }
}
