//! A drone that keeps a lease, as far as a controller can tell: it registers by saying what it replaces, and renews.

use std::sync::Arc;

use jetway_protocol::controller_api::{Load, Register};
use jetway_protocol::ids::{BootId, Term};
use jetway_protocol::lease::{LeaseTerms, Replaces};
use serde_json::json;

use super::{Answer, FakeDrone, Harness, registration};

pub struct Member {
    pub drone: Arc<FakeDrone>,
    pub register: Register,
    pub renewal: i64,
    pub lease: Option<LeaseTerms>,
}

impl Member {
    /// Registered, and heard of.
    pub async fn join(harness: &Harness, name: &str) -> Self {
        let drone = harness.fake(name).await;
        let register = Register {
            holds_lease: true,
            agent: Some(uuid::Uuid::new_v4()),
            ..registration(name, &drone.address)
        };
        let mut member = Self { drone, register, renewal: 0, lease: None };
        let answer = member.register(harness).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(member.beat(harness).await.status, 200);
        member
    }

    /// One try with what was handed out last.
    pub async fn register_once(&mut self, harness: &Harness) -> Answer {
        let answer = harness.internal("/internal/drones/register", &json!(self.register)).await;
        let said = answer.json();
        if answer.status == 200 {
            let term = Term(said["term"].as_i64().unwrap());
            self.drone.set_identity(self.register.drone, term);
            self.lease = serde_json::from_value(said["lease"].clone()).unwrap();
            (self.renewal, self.register.replaces) = (0, None);
        } else if said["code"] == "moved" {
            self.register.replaces =
                serde_json::from_value::<Option<Replaces>>(said["present"].clone()).unwrap();
        }
        answer
    }

    /// As a drone does: again with what it is told.
    pub async fn register(&mut self, harness: &Harness) -> Answer {
        let answer = self.register_once(harness).await;
        if answer.outcome() == (409, "moved".into()) { self.register_once(harness).await } else { answer }
    }

    /// From another boot, `uptime_ms` ago.
    pub fn booted(&mut self, uptime_ms: u64) {
        (self.register.boot_id, self.register.uptime_ms) = (BootId::random(), uptime_ms);
    }

    pub async fn beat(&mut self, harness: &Harness) -> Answer {
        self.renewal += 1;
        let answer = self.beat_as(harness, self.renewal).await;
        harness.app.fleet.refresh(&harness.app.pools.housekeeping).await.unwrap();
        answer
    }

    pub async fn beat_as(&self, harness: &Harness, renewal: i64) -> Answer {
        let (id, term) = self.drone.identity();
        let load = Load { engine_ok: true, images: vec!["app:latest".into()], ..Load::default() };
        let body = json!({ "term": term, "renewal": renewal, "lease": self.lease, "load": load });
        harness.internal(&format!("/internal/drones/{id}/heartbeat"), &body).await
    }
}
