//! `GET /internal/hosts/{host}`: whose a session's host is, and where its browsers go that may not
//! enter. It answers for as long as the host is held, so also for a while after the session's end.

use axum::Json;
use axum::extract::State;
use jetway_protocol::controller_api::HostOwner;
use jetway_protocol::error::Code;

use super::message::No;
use crate::app::App;
use crate::error::{ApiError, shown};
use crate::host_names;
use crate::http::extract::ApiPath;

pub async fn owner(State(app): State<App>, ApiPath(text): ApiPath<String>) -> Result<Json<HostOwner>, No> {
    let found = match host_names::asked(&text) {
        Some(host) => app.owners.of(host).await?,
        None => None,
    };
    let free = || ApiError::new(Code::HostNotFound, format!("no session has the host {}", shown(&text)));
    Ok(Json(found.ok_or_else(free)?))
}

#[cfg(test)]
mod tests {
    use jetway_protocol::secret::Purpose;
    use serde_json::{Value, json};

    use crate::testing::hosted::hosted;
    use crate::testing::{Answer, Harness};

    async fn ask(harness: &Harness, host: &str) -> Answer {
        let path = format!("/internal/hosts/{}", host.replace(':', "%3A"));
        harness.as_role(Purpose::ProxyToController, "GET", &path, &json!(null)).await
    }

    #[tokio::test]
    async fn a_proxy_is_told_where_a_host_leads_back_to() {
        let harness = Harness::new().await;
        harness.drone("one").await;
        let mut body = hosted("k");
        body["return_url"] = json!("https://app.example/open?doc=1");
        let with = harness.connect(&body).await.json();
        let without = harness.connect(&hosted("other")).await.json();
        let host = |answer: &Value| format!("{}.localhost:9090", answer["subdomain"].as_str().unwrap());
        let answer = ask(&harness, &host(&with)).await;
        assert_eq!(answer.json(), json!({ "return_url": "https://app.example/open?doc=1" }));
        assert_eq!(ask(&harness, &host(&without)).await.json(), json!({}));
        let upper = host(&with).to_uppercase().replace(":9090", "");
        assert_eq!(ask(&harness, &upper).await.status, 200, "names are compared as DNS does, without a port");
        for free in ["notes.localhost:9090", "localhost", "a%20b", "%00", "x", &"a".repeat(300)] {
            assert_eq!(ask(&harness, free).await.outcome(), (404, "host_not_found".into()), "{free}");
        }
        let path = "/internal/hosts/x";
        let drone = harness.as_role(Purpose::DroneToController, "GET", path, &json!(null)).await;
        assert_eq!(drone.status, 401);
    }

    #[tokio::test]
    async fn a_host_is_known_until_its_hold_is_over() {
        let harness = Harness::new().await;
        harness.drone("one").await;
        let answer = harness.connect(&hosted("k")).await.json();
        let host = format!("{}.localhost", answer["subdomain"].as_str().unwrap());
        harness.execute("update backends set ended_at = now() - interval '23 h', status = 70").await;
        assert_eq!(ask(&harness, &host).await.status, 200);
        harness.execute("update backends set ended_at = now() - interval '24 h'").await;
        assert_eq!(ask(&harness, &host).await.status, 404);
        // The row of the backend is forgotten; the time of its end is not.
        harness.execute("update hosts set ended_at = now() - interval '23 h'").await;
        harness.execute("delete from backends").await;
        assert_eq!(ask(&harness, &host).await.status, 200);
        harness.execute("update hosts set ended_at = now() - interval '24 h'").await;
        assert_eq!(ask(&harness, &host).await.status, 404);
    }

    #[tokio::test]
    async fn a_flood_of_made_up_hosts_is_read_in_few_statements() {
        let harness = Harness::new().await;
        let count = std::sync::Arc::default();
        let counting = crate::db::tests::Statements::counted_in(&count);
        let _counting = tracing::subscriber::set_default(counting);
        let asks = (0..640).map(async |n| ask(&harness, &format!("h{n}.localhost")).await.status);
        let answers = futures_util::future::join_all(asks).await;
        assert!(answers.iter().all(|status| *status == 404));
        let statements = count.load(std::sync::atomic::Ordering::Relaxed);
        assert!(statements <= 64, "{statements} statements");
        let pool = &harness.app.pools.hot;
        assert_eq!(pool.free(), pool.limits().connections);
    }
}
