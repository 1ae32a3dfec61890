//! Orders certificates that are due, one at a time over all controllers: whoever has the turn. What fails waits longer and longer,
//! and what was issued before is shown meanwhile. Between orders it asks issuers when they would like renewals.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::Account;
use jetway_protocol::at_rest::AtRest;
use jetway_protocol::certificates::Certificate;
use jetway_service::backoff::jittered;
use jetway_service::lifecycle::Lifecycle;
use tokio::time::timeout;

use crate::acme::hook::Allowed;
use crate::acme::renewal::{self, Word};
use crate::acme::{Acme, Failure, Issued, Names, ORDER_MAX, Orders};
use crate::db::certificates::{self, Due};
use crate::db::pool::Pool;
use crate::db::{DbError, acme as rows, turns};
use crate::driver::{Summary, Task, WokenBy};

const PERIOD: Duration = Duration::from_secs(5);
const TURN: &str = "certificates";
/// Longer than an order and its end.
const TURN_MAX: Duration = ORDER_MAX.saturating_add(Duration::from_secs(60));
/// One on demand is not renewed for a host that nobody has come to for so long.
const ASKED_SINCE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Nobody else asks an issuer about a certificate meanwhile.
const ASKING: Duration = Duration::from_secs(3600);
/// Certificates that an issuer is asked about in one run.
const QUESTIONS_MAX: usize = 16;

pub struct Certificates {
    orders: Orders,
    lifecycle: Lifecycle,
    /// The configured certificates have their rows.
    is_declared: bool,
}

impl Task for Certificates {
    const RUNS_AT_START: bool = true;

    fn name(&self) -> &'static str {
        "certificates"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn nudged(&mut self) -> WokenBy {
        self.orders.acme.nudge.notified().await;
        WokenBy::Nudge
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
}

impl Certificates {
    pub fn new(db: Arc<Pool>, at_rest: Arc<AtRest>, acme: Arc<Acme>, lifecycle: Lifecycle) -> Self {
        Self { orders: Orders { db, at_rest, acme }, lifecycle, is_declared: false }
    }

    async fn once(&mut self) -> Result<Summary, DbError> {
        if !self.is_declared {
            let mut connection = self.orders.db.acquire().await?;
            for names in &self.orders.acme.config.certificates {
                certificates::declare(&mut connection, &names.id(), names.all()).await?;
            }
            self.is_declared = true;
        }
        let mut count = 0;
        while let Some(due) = self.next().await? {
            count += 1;
            let done = tokio::select! {
                done = self.one(&due) => done,
                // What has begun is taken up by the next order.
                () = self.lifecycle.stopping() => Ok(()),
            };
            turns::give_back(&mut *self.orders.db.acquire().await?, TURN).await?;
            done?;
            if self.lifecycle.is_stopping() {
                break;
            }
        }
        if !self.lifecycle.is_stopping() {
            self.ask_about_renewals().await?;
            let counts = certificates::counts(&mut *self.orders.db.acquire().await?).await?;
            self.orders.acme.counts.store(Arc::new(counts));
        }
        Ok(format!("tried {count} orders"))
    }

    /// One that is due, if this controller has the turn to order it.
    async fn next(&self) -> Result<Option<Due>, DbError> {
        let mut connection = self.orders.db.acquire().await?;
        let (configured, on_demand) = (&self.orders.acme.configured, self.orders.acme.hook.is_some());
        // Nobody takes the turn for nothing.
        if certificates::due(&mut connection, configured, on_demand, ASKED_SINCE).await?.is_none()
            || !turns::take(&mut connection, TURN, TURN_MAX).await?
        {
            return Ok(None);
        }
        let due = certificates::due(&mut connection, configured, on_demand, ASKED_SINCE).await?;
        if due.is_none() {
            turns::give_back(&mut connection, TURN).await?;
        }
        Ok(due)
    }

    async fn one(&self, due: &Due) -> Result<(), DbError> {
        let made = match still_allowed(&self.orders.acme, due).await {
            Allowed::Yes => self.made(due).await,
            Allowed::Unknown => {
                Err(Failure::Away("the hook for certificates on demand does not answer".to_owned()))
            }
            Allowed::No => {
                tracing::info!(certificate = due.id, "not renewed: the hook does not allow it any more");
                let mut connection = self.orders.db.acquire().await?;
                certificates::failed(&mut connection, &due.id, "the hook does not allow it any more", None)
                    .await?;
                return Ok(());
            }
        };
        let made = match made {
            Ok(issued) => self.keep(due, &issued).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = made {
            let wait = jittered(failure.wait(u32::try_from(due.failures).unwrap_or(u32::MAX)));
            let has_one = due.chain.is_some();
            tracing::warn!(certificate = due.id, %failure, again_in = ?wait, has_one, "a certificate could not be ordered");
            let mut connection = self.orders.db.acquire().await?;
            if matches!(failure, Failure::NoAccount(_)) {
                rows::forget_account(&mut connection, &self.orders.acme.config.directory).await?;
            }
            certificates::failed(&mut connection, &due.id, &failure.to_string(), Some(wait)).await?;
        }
        self.orders.acme.news.notify_waiters();
        Ok(())
    }

    async fn made(&self, due: &Due) -> Result<Issued, Failure> {
        let names = Names::stored(&due.names).map_err(|error| Failure::Unusable(error.to_string()))?;
        let late = |_| {
            Err(Failure::Away(format!("the order has not come to its end within {} s", ORDER_MAX.as_secs())))
        };
        timeout(ORDER_MAX, self.orders.order(&names, due.chain.as_deref())).await.unwrap_or_else(late)
    }

    async fn keep(&self, due: &Due, issued: &Issued) -> Result<(), Failure> {
        let sealed_key = self.orders.at_rest.seal(&Certificate::place(&due.id), issued.key.as_bytes());
        let row = certificates::Issued {
            chain: &issued.chain,
            sealed_key: &sealed_key,
            not_before: issued.not_before,
            not_after: issued.not_after,
            next_at: renewal::due(issued),
        };
        let mut connection = self.orders.db.acquire().await?;
        if !certificates::issued(&mut connection, &due.id, &row).await? {
            return Err(Failure::Refused("what it issued is over already; do the clocks agree?".to_owned()));
        }
        let days = issued.not_after.since(issued.not_before) / 86_400_000_000;
        tracing::info!(certificate = due.id, days, "a certificate was issued");
        Ok(())
    }

    async fn ask_about_renewals(&self) -> Result<(), DbError> {
        let mut known: Option<Account> = None;
        for _ in 0..QUESTIONS_MAX {
            let mut connection = self.orders.db.acquire().await?;
            let row =
                certificates::to_ask_about(&mut connection, &self.orders.acme.configured, ASKING).await?;
            drop(connection);
            let Some((id, chain)) = row else { return Ok(()) };
            if known.is_none() {
                match self.orders.account().await {
                    Ok(account) => known = Some(account),
                    Err(failure) => {
                        tracing::debug!(%failure, "the issuer is asked later when to renew");
                        return Ok(());
                    }
                }
            }
            let Some(account) = &known else { return Ok(()) };
            let word = renewal::ask(account, &chain).await;
            let mut connection = self.orders.db.acquire().await?;
            match word {
                Word::Window { start, end, ask_again } => {
                    let moment = renewal::moment(start, end);
                    certificates::suggested(&mut connection, &id, (start, end), moment, ask_again).await?;
                }
                Word::None { ask_again } => certificates::ask_again(&mut connection, &id, ask_again).await?,
            }
        }
        Ok(())
    }
}

/// Whoever came for the first one has been asked about a moment ago.
async fn still_allowed(acme: &Acme, due: &Due) -> Allowed {
    let host = due.names.first().and_then(|name| name.parse().ok());
    match (&acme.hook, host) {
        (Some(hook), Some(host)) if due.on_demand && due.chain.is_some() => hook.asks(&host).await,
        _ => Allowed::Yes,
    }
}
