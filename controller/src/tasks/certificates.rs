//! Orders certificates that are due, one at a time over all controllers: whoever has the turn. What fails waits longer and longer,
//! and what was issued before is shown meanwhile. Between orders it asks issuers when they would like renewals.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::Account;
use jetway_protocol::certificates::Certificate;
use jetway_service::backoff::jittered;
use tokio::time::timeout;

use crate::acme::account::account;
use crate::acme::hook::Allowed;
use crate::acme::renewal::{self, Word};
use crate::acme::{Acme, Failure, Issued, Names, ORDER_MAX, order};
use crate::app::App;
use crate::db::certificates::{self, Due};
use crate::db::{DbError, acme as rows, turns};

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

pub fn start(app: &App) {
    let Some(acme) = app.acme.clone() else { return };
    let app_ = app.clone();
    acme.nudge.notify_one();
    app.lifecycle.spawn(async move {
        let app = app_;
        let (mut failures, mut is_declared) = (0, false);
        while super::nudge_or_pause(&app, &acme.nudge, jittered(PERIOD)).await.is_some() {
            failures = super::report("certificates", run(&app, &acme, &mut is_declared).await, failures);
        }
    });
}

async fn run(app: &App, acme: &Arc<Acme>, is_declared: &mut bool) -> Result<(), DbError> {
    if !*is_declared {
        let mut connection = app.housekeeping.acquire().await?;
        for names in &acme.config.certificates {
            certificates::declare(&mut connection, &names.id(), names.all()).await?;
        }
        *is_declared = true;
    }
    while let Some(due) = next(app, acme).await? {
        let done = tokio::select! {
            done = one(app, acme, &due) => done,
            // What has begun is taken up by the next order.
            () = app.lifecycle.stopping() => Ok(()),
        };
        turns::give_back(&mut *app.housekeeping.acquire().await?, TURN).await?;
        done?;
        if app.lifecycle.is_stopping() {
            return Ok(());
        }
    }
    ask_about_renewals(app, acme).await?;
    let counts = certificates::counts(&mut *app.housekeeping.acquire().await?).await?;
    acme.counts.store(Arc::new(counts));
    Ok(())
}

/// One that is due, if this controller has the turn to order it.
async fn next(app: &App, acme: &Acme) -> Result<Option<Due>, DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    let (configured, on_demand) = (&acme.configured, acme.hook.is_some());
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

async fn one(app: &App, acme: &Arc<Acme>, due: &Due) -> Result<(), DbError> {
    let made = match still_allowed(acme, due).await {
        Allowed::Yes => made(app, acme, due).await,
        Allowed::Unknown => {
            Err(Failure::Away("the hook for certificates on demand does not answer".to_owned()))
        }
        Allowed::No => {
            tracing::info!(certificate = due.id, "not renewed: the hook does not allow it any more");
            let mut connection = app.housekeeping.acquire().await?;
            certificates::failed(&mut connection, &due.id, "the hook does not allow it any more", None)
                .await?;
            return Ok(());
        }
    };
    let made = match made {
        Ok(issued) => keep(app, due, &issued).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = made {
        let wait = jittered(failure.wait(u32::try_from(due.failures).unwrap_or(u32::MAX)));
        let has_one = due.chain.is_some();
        tracing::warn!(certificate = due.id, %failure, again_in = ?wait, has_one, "a certificate could not be ordered");
        let mut connection = app.housekeeping.acquire().await?;
        if matches!(failure, Failure::NoAccount(_)) {
            rows::forget_account(&mut connection, &acme.config.directory).await?;
        }
        certificates::failed(&mut connection, &due.id, &failure.to_string(), Some(wait)).await?;
    }
    acme.news.notify_waiters();
    Ok(())
}

/// Whoever came for the first one has been asked about a moment ago.
async fn still_allowed(acme: &Acme, due: &Due) -> Allowed {
    let host = due.names.first().and_then(|name| name.parse().ok());
    match (&acme.hook, host) {
        (Some(hook), Some(host)) if due.on_demand && due.chain.is_some() => hook.asks(&host).await,
        _ => Allowed::Yes,
    }
}

async fn made(app: &App, acme: &Acme, due: &Due) -> Result<Issued, Failure> {
    let names = Names::stored(&due.names).map_err(|error| Failure::Unusable(error.to_string()))?;
    let late =
        |_| Err(Failure::Away(format!("the order has not come to its end within {} s", ORDER_MAX.as_secs())));
    timeout(ORDER_MAX, order(app, acme, &names, due.chain.as_deref())).await.unwrap_or_else(late)
}

async fn keep(app: &App, due: &Due, issued: &Issued) -> Result<(), Failure> {
    let sealed_key = app.at_rest.seal(&Certificate::place(&due.id), issued.key.as_bytes());
    let row = certificates::Issued {
        chain: &issued.chain,
        sealed_key: &sealed_key,
        not_before: issued.not_before,
        not_after: issued.not_after,
        next_at: renewal::due(issued),
    };
    let mut connection = app.housekeeping.acquire().await.map_err(DbError::from)?;
    if !certificates::issued(&mut connection, &due.id, &row).await? {
        return Err(Failure::Refused("what it issued is over already; do the clocks agree?".to_owned()));
    }
    let days = issued.not_after.since(issued.not_before) / 86_400_000_000;
    tracing::info!(certificate = due.id, days, "a certificate was issued");
    Ok(())
}

async fn ask_about_renewals(app: &App, acme: &Acme) -> Result<(), DbError> {
    let mut known: Option<Account> = None;
    for _ in 0..QUESTIONS_MAX {
        let mut connection = app.housekeeping.acquire().await?;
        let row = certificates::to_ask_about(&mut connection, &acme.configured, ASKING).await?;
        drop(connection);
        let Some((id, chain)) = row else { return Ok(()) };
        if known.is_none() {
            match account(app, acme).await {
                Ok(account) => known = Some(account),
                Err(failure) => {
                    tracing::debug!(%failure, "the issuer is asked later when to renew");
                    return Ok(());
                }
            }
        }
        let Some(account) = &known else { return Ok(()) };
        let word = renewal::ask(account, &chain).await;
        let mut connection = app.housekeeping.acquire().await?;
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
