//! Forgets backends that ended more than a day ago, with their events, hosts whose hold is over,
//! proxies that are long silent, and certificates that nobody came for. In bounded batches; one
//! controller at a time has the turn.

use std::sync::Arc;
use std::time::Duration;

use jetway_service::lifecycle::Lifecycle;

use crate::db::deadlines::LONG_STATEMENT;
use crate::db::pool::Pool;
use crate::db::{DbError, acme, backends, certificates, hosts, leases, proxies, turns};
use crate::driver::{Summary, Task, WokenBy};

const PERIOD: Duration = Duration::from_secs(60);
const ENDED_AGE_SECONDS: f64 = 24.0 * 3600.0;
const PROXY_AGE: Duration = Duration::from_secs(3600);
const CONTROLLER_AGE: Duration = Duration::from_secs(3600);
/// Since the end of a certificate on demand.
const CERTIFICATE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
const BATCH: i64 = 500;
const BATCHES_MAX: u32 = 20;

pub struct Prune {
    pub db: Arc<Pool>,
    pub host_hold: Duration,
    pub lifecycle: Lifecycle,
}

impl Prune {
    pub async fn once(&self) -> Result<Summary, DbError> {
        let mut connection = self.db.acquire().await?;
        if !turns::take(&mut connection, "prune", PERIOD).await? {
            return Ok("another controller has the turn".to_owned());
        }
        connection.set_deadline(LONG_STATEMENT);
        let (mut count, mut host_count) = (0, 0);
        for _ in 0..BATCHES_MAX {
            let pruned = backends::prune(&mut connection, ENDED_AGE_SECONDS, BATCH).await?;
            count += pruned;
            if pruned < BATCH.unsigned_abs() || self.lifecycle.is_stopping() {
                break;
            }
        }
        for _ in 0..BATCHES_MAX {
            let pruned = hosts::prune(&mut connection, self.host_hold, BATCH).await?;
            host_count += pruned;
            if pruned < BATCH.unsigned_abs() || self.lifecycle.is_stopping() {
                break;
            }
        }
        proxies::prune(&mut connection, PROXY_AGE).await?;
        leases::prune_controllers(&mut connection, CONTROLLER_AGE).await?;
        acme::prune(&mut connection).await?;
        certificates::prune(&mut connection, CERTIFICATE_AGE).await?;
        Ok(format!("deleted {count} backends and {host_count} hosts"))
    }
}

impl Task for Prune {
    fn name(&self) -> &'static str {
        "prune"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::db::tests::{Statements, plan_of};
    use crate::testing::{Harness, keyed};

    /// Backends that ended so long ago, each with an event.
    async fn ended(harness: &Harness, count: i64, age: &str) {
        let insert = "with ended as (
                          insert into backends (id, fencing_token, cluster, drone_id, drone_term, status, created_at, ended_at)
                          select $2::text || n, jetway_next('fencing_tokens'), 'localhost:9090', d.id, d.term, 70,
                                 now() - $2::text::interval, now() - $2::text::interval
                          from drones d, generate_series(1, $1) n
                          returning id
                      )
                      insert into backend_events (backend, status, at) select id, 70, 0 from ended";
        sqlx::query(insert).bind(count).bind(age).execute(&harness.sql).await.unwrap();
    }

    #[tokio::test]
    async fn a_long_history_goes_in_bounded_batches_and_what_is_young_or_lives_stays() {
        let harness = Harness::new().await;
        harness.drone("one").await;
        assert_eq!(harness.connect(&keyed("lives")).await.status, 200);
        let a_run = BATCH * i64::from(BATCHES_MAX);
        assert_eq!((BATCH, a_run), (500, 10_000));
        ended(&harness, a_run + 700, "25:00").await;
        ended(&harness, 30, "23:00").await;
        let counts = async || {
            let sql = "select concat((select count(*) from backends where ended_at < now() - interval '24 hours'), ' ',
                                     (select count(*) from backends), ' ', (select count(*) from backend_events))";
            harness.value(sql).await
        };
        assert_eq!(counts().await, format!("{0} {1} {2}", a_run + 700, a_run + 731, a_run + 730));
        let count = Arc::new(AtomicUsize::new(0));
        let counting = tracing::subscriber::set_default(Statements::counted_in(&count));
        crate::tasks::prune(&harness.app).once().await.unwrap();
        drop(counting);
        let statements = count.load(Ordering::Relaxed);
        assert!(statements <= usize::try_from(BATCHES_MAX).unwrap() + 7, "{statements} statements");
        assert_eq!(counts().await, "700 731 730", "so many in a run, and no more");
        crate::tasks::prune(&harness.app).once().await.unwrap();
        assert_eq!(counts().await, "700 731 730", "once a minute");
        harness.execute("update turns set next_at = now()").await;
        crate::tasks::prune(&harness.app).once().await.unwrap();
        assert_eq!(counts().await, "0 31 30", "with their events");
    }

    #[tokio::test]
    async fn the_row_of_a_controller_that_is_gone_goes() {
        let harness = Harness::new().await;
        harness
            .execute(
                "insert into controllers (id, last_turn)
                 values (gen_random_uuid(), now() - interval '61 minutes'), (gen_random_uuid(), now())",
            )
            .await;
        let before = harness.value("select count(*)::text from controllers").await;
        crate::tasks::prune(&harness.app).once().await.unwrap();
        let after = harness.value("select count(*)::text from controllers").await;
        assert_eq!((before.as_str(), after.as_str()), ("2", "1"));
    }

    #[tokio::test]
    async fn what_is_to_be_forgotten_is_found_by_an_index() {
        let harness = Harness::new().await;
        let mut c = harness.app.pools.requests.acquire().await.unwrap();
        backends::prune(&mut c, 1.0, 1).await.unwrap();
        hosts::prune(&mut c, Duration::from_secs(1), 1).await.unwrap();
        for (like, index) in [("with gone as%", "hosts_backend"), ("delete from hosts%", "hosts_ended")] {
            let plan = plan_of(&mut c, like).await;
            assert!(!plan.contains("Seq Scan") && plan.contains(index), "{plan}");
        }
    }
}
