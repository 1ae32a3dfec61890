//! The stack's drone, commanded by the test itself, as a controller does it. Which keys there are is not asked. What it is to keep
//! ready is declared with the controller, which would at once tell it something else.

use anyhow::ensure;
use jetway_protocol::drone_api::{DeleteBackend, PutBackend};
use jetway_protocol::ids::{BackendId, FencingToken, Term};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::spec::{BackendSpec, Executable};
use jetway_testkit::eventually::SOON;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::{Role, Stack, eventually};

pub struct Drone<'a> {
    stack: &'a Stack,
    term: Term,
}

impl<'a> Drone<'a> {
    pub async fn of(stack: &'a Stack) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect(&stack.database).await?;
        let term: i64 = sqlx::query_scalar("select term from drones").fetch_one(&mut connection).await?;
        Ok(Self { stack, term: Term(term) })
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.stack.port(Role::Drone));
        let bearer = Secret::new(&self.stack.secret)?.bearer(Purpose::ControllerToDrone);
        let request = self.stack.http.request(method.parse()?, url).bearer_auth(bearer);
        let response = request.json(&body).send().await?;
        let (status, text) = (response.status(), response.text().await?);
        ensure!(status.is_success(), "{method} {path}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// A backend without a key; its view, once it is ready.
    pub async fn put(&self, id: &BackendId, executable: Executable) -> anyhow::Result<Value> {
        let put = PutBackend {
            term: self.term,
            fencing_token: FencingToken(1),
            key: None,
            spec: BackendSpec::of(executable),
            grant: None,
            static_token: None,
            timeline: Vec::new(),
            or_never: false,
        };
        let path = format!("/b/{id}");
        self.call("PUT", &path, serde_json::to_value(put)?).await?;
        eventually("it is ready", SOON, async || {
            let view = self.call("GET", &path, Value::Null).await.map_err(|error| error.to_string())?;
            if view["status"] == "ready" { Ok(view) } else { Err(view.to_string()) }
        })
        .await
    }

    pub async fn delete(&self, id: &BackendId) -> anyhow::Result<()> {
        self.call("DELETE", &format!("/b/{id}"), serde_json::to_value(DeleteBackend { term: self.term })?)
            .await?;
        Ok(())
    }

    /// As its heartbeats say.
    pub async fn has_ready(&self, slots: u64) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.stack.database).await?;
        eventually(&format!("{slots} slots are ready"), SOON, async || {
            let asked = sqlx::query_scalar("select load->'warm' from drones");
            let warm: Value = asked.fetch_one(&mut connection).await.map_err(|error| error.to_string())?;
            let kinds = warm["kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ready: u64 = kinds.iter().filter_map(|kind| kind["ready"].as_u64()).sum();
            if ready == slots { Ok(()) } else { Err(warm.to_string()) }
        })
        .await
    }
}
