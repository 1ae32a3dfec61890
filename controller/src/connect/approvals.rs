//! Whether customers' hosts may be had: the operator's hook is asked. Connects that need the same
//! answer at the same time share one question, and a yes counts for some seconds more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use jetway_protocol::certificates::HostName;
use jetway_protocol::error::Code;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::acme::Acme;
use crate::acme::hook::{Allowed, Hook};
use crate::coalesce::Coalesce;
use crate::error::{ApiError, ApiResult};

/// A crowd that comes for one key is spread over some seconds.
const YES_COUNTS: Duration = Duration::from_secs(10);
/// Answers that are remembered, at most.
const REMEMBERED_MAX: usize = 4096;
const RETRY_MS: u64 = 5000;

pub struct Approvals {
    acme: Option<Arc<Acme>>,
    /// `None`: there was no turn for the question.
    asking: Coalesce<HostName, Option<Allowed>>,
    /// When the hook said yes.
    approved: Mutex<HashMap<HostName, Instant>>,
}

impl Approvals {
    pub fn new(acme: Option<Arc<Acme>>) -> Self {
        Self { acme, asking: Coalesce::default(), approved: Mutex::default() }
    }

    fn hook(&self) -> Option<&Hook> {
        self.acme.as_ref()?.hook.as_ref()
    }

    /// Without a hook no customer's host is served.
    pub fn check_hook(&self, hosts: &[HostName]) -> ApiResult<()> {
        if hosts.is_empty() || self.hook().is_some() { Ok(()) } else { Err(no_hook()) }
    }

    pub async fn approve(&self, hosts: &[HostName]) -> ApiResult<()> {
        try_join_all(hosts.iter().map(|host| self.approve_one(host))).await.map(drop)
    }

    async fn approve_one(&self, host: &HostName) -> ApiResult<()> {
        if self.is_remembered(host) {
            return Ok(());
        }
        let hook = self.hook().ok_or_else(no_hook)?;
        let answer = self.asking.share(host.clone(), async || {
            let answer = hook.asks_for_connect(host).await;
            if answer == Some(Allowed::Yes) {
                self.remember(host);
            }
            answer
        });
        match answer.await {
            Some(Allowed::Yes) => Ok(()),
            Some(Allowed::No) => Err(ApiError::invalid(format!(
                "hosts: the operator's hook (--acme-ask-url) does not allow {host}: allow it there first"
            ))),
            Some(Allowed::Unknown) => Err(busy(&format!(
                "whether {host} is allowed is not known: the operator's hook (--acme-ask-url) does not answer"
            ))),
            None => {
                Err(busy("more hosts wait for the operator's hook (--acme-ask-url) than it answers in time"))
            }
        }
    }

    fn is_remembered(&self, host: &HostName) -> bool {
        self.approved.lock().get(host).is_some_and(|at| at.elapsed() < YES_COUNTS)
    }

    fn remember(&self, host: &HostName) {
        let mut approved = self.approved.lock();
        if approved.len() >= REMEMBERED_MAX {
            approved.retain(|_, at| at.elapsed() < YES_COUNTS);
        }
        if approved.len() < REMEMBERED_MAX {
            approved.insert(host.clone(), Instant::now());
        }
    }
}

fn no_hook() -> ApiError {
    ApiError::invalid(
        "hosts needs the operator's hook, which says what hosts are allowed, and this controller has none (--acme-ask-url)",
    )
}

fn busy(message: &str) -> ApiError {
    ApiError::new(Code::Busy, message).retry_after_ms(RETRY_MS)
}
