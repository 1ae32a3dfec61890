//! Drones that only talk: hundreds of them in this process, each with an address, a term and heartbeats of its own. They take
//! what controllers say as a drone does, and report statuses as a drone does, but nothing runs. What a controller can carry
//! is measured against them.

mod member;
mod server;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context;
use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_service::client::Client;
use jetway_service::lifecycle::Lifecycle;
use sqlx::{Connection, PgConnection};

use crate::peer::jetway::Jetway;
pub use member::Member;

/// The pool of drones that they are in, so that nothing else is placed on them.
pub const POOL: &str = "simulated";
/// Drones that register at once.
const REGISTERING_MAX: usize = 16;

pub struct Fleet {
    members: Vec<Arc<Member>>,
    lifecycle: Lifecycle,
    database: String,
}

/// What every member needs of its installation.
#[derive(Clone)]
pub struct Home {
    pub controller: String,
    pub client: Client,
    pub secret: Arc<Secret>,
    pub lifecycle: Lifecycle,
}

impl Fleet {
    pub async fn start(jetway: &Jetway, size: usize) -> anyhow::Result<Self> {
        let secret = Secret::new(&jetway.stack.secret)?;
        let lifecycle = Lifecycle::new();
        let home = Home {
            controller: jetway.stack.api.clone(),
            client: Client::new(secret.bearer(Purpose::DroneToController)),
            secret: Arc::new(secret),
            lifecycle: lifecycle.clone(),
        };
        let mut fleet = Self { members: Vec::new(), lifecycle, database: jetway.stack.database.clone() };
        for batch in (0..size).collect::<Vec<_>>().chunks(REGISTERING_MAX) {
            let joins = batch.iter().map(|number| Member::join(&home, *number));
            fleet
                .members
                .extend(futures_util::future::try_join_all(joins).await.context("a simulated drone")?);
        }
        Ok(fleet)
    }

    /// Rows of sessions that run already, `each` a drone, as the controller would have written them; and the drones know of
    /// them.
    pub async fn fill(&self, each: i64) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.database).await?;
        for statement in [include_str!("fill_backends.sql"), include_str!("fill_events.sql")] {
            sqlx::query(statement).bind(POOL).bind(each).execute(&mut connection).await?;
        }
        sqlx::query("vacuum analyze").execute(&mut connection).await?;
        let rows: Vec<(String, i64, uuid::Uuid)> =
            sqlx::query_as("select id, fencing_token, drone_id from backends where key_namespace = 'fill'")
                .fetch_all(&mut connection)
                .await?;
        let members: HashMap<_, _> = self.members.iter().map(|member| (member.id.0, member)).collect();
        for (id, token, drone) in rows {
            let member = members.get(&drone).context("a row of a drone that is not there")?;
            member.take_over(BackendId::try_from(id)?, FencingToken(token));
        }
        Ok(())
    }

    /// What went wrong with them meanwhile: then what was measured is not to be believed.
    pub fn fault(&self) -> Option<String> {
        let faulty: Vec<_> = self.members.iter().filter_map(|member| member.fault()).collect();
        faulty.first().map(|first| {
            format!("{} of {} simulated drones failed: {first}", faulty.len(), self.members.len())
        })
    }

    /// They go without a word, and their rows are taken away.
    pub async fn leave(self) -> anyhow::Result<()> {
        self.lifecycle.stop().await;
        let mut connection = PgConnection::connect(&self.database).await?;
        for statement in [
            "delete from backends where drone_id in (select id from drones where pool = $1)",
            "delete from drones where pool = $1",
        ] {
            sqlx::query(statement).bind(POOL).execute(&mut connection).await?;
        }
        Ok(())
    }
}

/// No code here panics while it holds one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
