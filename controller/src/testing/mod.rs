//! For this crate's tests: a controller without a listener, over a database of its own, and a drone that does as told.

mod database;
mod hook;
pub mod hosted;
mod member;
mod rows;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use jetway_protocol::controller_api::{Capacity, Load, Register};
use jetway_protocol::host::LabelKey;
use jetway_protocol::ids::{BootId, DroneId, InstallationId, Term};
use jetway_protocol::lease::LeaseTerms;
use jetway_protocol::secret::{Purpose, Secret};
use jetway_service::lifecycle::Lifecycle;
pub use jetway_testkit::drone::{FakeDrone, Mode, end, made_up};
use jetway_testkit::relay::Relay;
pub use jetway_testkit::soon_fine as eventually;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tower::ServiceExt;

pub use self::database::Database;
pub use self::hook::Hook;
pub use self::member::Member;
pub use self::rows::{drone_row, warm_drone_row};
use crate::acme::{self, Acme};
use crate::app::{Access, App, Settings, Shared};
use crate::db::deadlines::STATEMENT;
use crate::db::installation::{self, Installation};
use crate::db::{self, Connection};
use crate::lease::statement_deadline;

pub const CLUSTER: &str = "localhost:9090";
pub const SECRET: &str = "a secret that is only used in tests";
const GIB: i64 = 1 << 30;

pub struct Harness {
    pub app: App,
    router: Router,
    /// For what a test itself asks of Postgres.
    pub sql: PgPool,
    options: PgConnectOptions,
    /// Dropped, with the database, at the test's end.
    _database: Option<Database>,
    lifecycle: Lifecycle,
}

impl Harness {
    pub async fn new() -> Self {
        Self::with_access(Access::Loopback { public_host: None }).await
    }

    pub async fn with_access(access: Access) -> Self {
        let database = Database::new().await;
        Self::over(Some(database), access).await
    }

    /// Its database's socket is nowhere.
    pub async fn without_database() -> Self {
        Self::over(None, Access::Loopback { public_host: None }).await
    }

    /// Another controller, over the same database.
    pub async fn beside(&self) -> Self {
        let access = Access::Loopback { public_host: None };
        let installation = Installation {
            id: self.app.identity.installation,
            label_key: self.app.connects.hosts.labels.clone(),
        };
        Self::of(self.options.clone(), installation, access, None).await
    }

    /// Customers' hosts are allowed by this hook.
    pub async fn asking(url: &str) -> Self {
        let database = Database::new().await;
        let config = acme::Config {
            directory: "https://acme.example/dir".into(),
            contact: None,
            external_account: None,
            ca: None,
            certificates: Vec::new(),
            challenge: jetway_protocol::certificates::Challenge::Http01,
            ask_url: Some(url.to_owned()),
        };
        let (acme, options) = (Acme::new(config).unwrap(), database.options());
        Self::to(database, options, Access::Loopback { public_host: None }, Some(acme)).await
    }

    /// Its way to Postgres leads through a relay.
    pub async fn behind_a_relay() -> (Self, Relay) {
        let database = Database::new().await;
        let (relay, options) = database.relay().await;
        (Self::to(database, options, Access::Loopback { public_host: None }, None).await, relay)
    }

    async fn over(database: Option<Database>, access: Access) -> Self {
        let Some(database) = database else {
            let nowhere = "postgres://nobody@localhost/none?host=/nowhere".parse().unwrap();
            let label_key = LabelKey::new([0; 32]);
            let installation = Installation { id: InstallationId::random(), label_key };
            return Self::of(nowhere, installation, access, None).await;
        };
        let options = database.options();
        Self::to(database, options, access, None).await
    }

    async fn to(
        database: Database,
        options: PgConnectOptions,
        access: Access,
        acme: Option<Arc<Acme>>,
    ) -> Self {
        let mut connection = Connection::open(&database.options(), STATEMENT).await.unwrap();
        let installation = installation::read_or_make(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let mut harness = Self::of(options, installation, access, acme).await;
        harness.sql = PgPoolOptions::new().connect_lazy_with(database.options());
        harness._database = Some(database);
        harness
    }

    async fn of(
        options: PgConnectOptions,
        installation: Installation,
        access: Access,
        acme: Option<Arc<Acme>>,
    ) -> Self {
        let pools = db::pools(&options, statement_deadline(Some(LeaseTerms::default())));
        let sql = PgPoolOptions::new().connect_lazy_with(options.clone());
        let lifecycle = Lifecycle::new();
        let settings = Settings {
            cluster: CLUSTER.parse().unwrap(),
            secret: Secret::new(SECRET).unwrap(),
            access,
            public_url: "http://127.0.0.1:8080".into(),
            lease: Some(LeaseTerms::default()),
            warm_learn: true,
            acme,
            host_hold: crate::HOST_HOLD,
            lifecycle: lifecycle.clone(),
        };
        let app = Shared::new(pools, installation, settings);
        crate::tasks::start_writers(&app);
        let router = crate::http::router(&app, None);
        Self { app, router, sql, options, _database: None, lifecycle }
    }

    /// A fake drone, registered and heard of.
    pub async fn drone(&self, name: &str) -> Arc<FakeDrone> {
        self.drone_with(name, |_| {}).await
    }

    /// A fake drone that nobody knows yet.
    pub async fn fake(&self, name: &str) -> Arc<FakeDrone> {
        FakeDrone::start(name, &self.lifecycle).await
    }

    pub async fn drone_with(&self, name: &str, change: impl FnOnce(&mut Register)) -> Arc<FakeDrone> {
        let drone = FakeDrone::start(name, &self.lifecycle).await;
        let mut register = registration(name, &drone.address);
        change(&mut register);
        let answer = self.internal("/internal/drones/register", &json!(register)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let term = Term(answer.json()["term"].as_i64().unwrap());
        drone.set_identity(register.drone, term);
        let load = Load { engine_ok: true, images: vec!["app:latest".into()], ..Load::default() };
        self.heartbeat(&drone, load).await;
        drone
    }

    pub async fn heartbeat(&self, drone: &FakeDrone, load: Load) {
        let (id, term) = drone.identity();
        let body = json!({ "term": term, "renewal": 1, "load": load });
        let answer = self.internal(&format!("/internal/drones/{id}/heartbeat"), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.app.fleet.refresh(&self.app.pools.housekeeping).await.unwrap();
    }

    /// Everything that the drone has to report reaches Postgres.
    pub async fn report(&self, drone: &FakeDrone) {
        let (id, term) = drone.identity();
        let body = json!({ "term": term, "events": drone.events() });
        let answer = self.internal(&format!("/internal/drones/{id}/events"), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    pub async fn internal(&self, path: &str, body: &Value) -> Answer {
        self.as_role(Purpose::DroneToController, "POST", path, body).await
    }

    pub async fn as_role(&self, role: Purpose, method: &str, path: &str, body: &Value) -> Answer {
        let bearer = Secret::new(SECRET).unwrap().bearer(role);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {bearer}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.send(request).await
    }

    pub async fn connect(&self, body: &Value) -> Answer {
        self.send(request("POST", "/ctrl/connect", &body.to_string())).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, "")).await
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    /// The response with its body still open.
    pub async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn rows(&self) -> i64 {
        sqlx::query_scalar("select count(*) from backends").fetch_one(&self.sql).await.unwrap()
    }

    /// One value of one row, as text.
    pub async fn value(&self, sql: &'static str) -> String {
        sqlx::query_scalar(sql).fetch_one(&self.sql).await.unwrap()
    }

    pub async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.sql).await.unwrap();
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.lifecycle.token().cancel();
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Status and code, for tables.
    pub fn outcome(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or("-").to_owned())
    }
}

/// As a program on this machine sends it.
pub fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8080");
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

pub fn registration(name: &str, advertise: &str) -> Register {
    Register {
        protocol: jetway_protocol::PROTOCOL_VERSION,
        version: "0.1.0".into(),
        drone: DroneId::random(),
        name: name.parse().unwrap(),
        boot_id: BootId::random(),
        uptime_ms: 1000,
        cluster: None,
        pool: String::new().parse().unwrap(),
        advertise: advertise.to_owned(),
        capacity: Capacity {
            cpus: 4.0,
            memory_bytes: 16 * GIB,
            backends_max: 1000,
            mounts: false,
            networks: Vec::new(),
            no_disk_limit: false,
        },
        installation: None,
        holds_lease: false,
        replaces: None,
        agent: None,
    }
}

/// A connect for a key, with the least that starts something.
pub fn keyed(key: &str) -> Value {
    json!({ "key": { "name": key }, "spawn_config": { "executable": { "image": "app" } } })
}
