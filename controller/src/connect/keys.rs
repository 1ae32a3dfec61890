//! Which backend a key means.

use std::pin::pin;
use std::sync::Arc;

use jetway_protocol::grant::Grant;
use jetway_protocol::key::Key;

use super::offer::{Offered, Offers};
use super::recent::{Guess, Recent};
use super::round::grant;
use super::validate::Wanted;
use crate::db::DbError;
use crate::db::backends::{self, Found, FoundTogether, LiveBackend};
use crate::db::pool::Pool;
use crate::error::ApiResult;
use crate::gather::Gather;

pub struct Keys {
    hot: Arc<Pool>,
    /// Keys that connects look up now.
    reads: Arc<Gather<Key, FoundTogether>>,
    pub recent: Recent,
}

impl Keys {
    pub fn new(hot: Arc<Pool>) -> Self {
        Self { hot, reads: Arc::default(), recent: Recent::default() }
    }

    /// Which backend the key means, and what came of a grant that was offered to it meanwhile.
    pub async fn look(
        &self,
        offers: &Offers,
        wanted: &Wanted,
        key: &Key,
    ) -> ApiResult<(Option<LiveBackend>, Option<(Grant, Offered)>)> {
        let Some(Guess { live: guess, .. }) = self.recent.guess(key) else {
            return Ok((self.live_by_key(key).await?, None));
        };
        let grant = grant(wanted);
        let (live, offered) = {
            let mut reading = pin!(self.live_by_key(key));
            let mut offering = pin!(offers.offer(&guess, &grant));
            tokio::select! {
                biased;
                live = &mut reading => {
                    let live = live?;
                    let is_right = live.as_ref().is_some_and(|live| live.is_same_as(&guess));
                    (live, if is_right { Some(offering.await) } else { None })
                }
                offered = &mut offering => {
                    let live = reading.await?;
                    let is_right = live.as_ref().is_some_and(|live| live.is_same_as(&guess));
                    (live, is_right.then_some(offered))
                }
            }
        };
        if offered.is_none() {
            self.recent.forget(key);
        }
        Ok((live, offered.map(|offered| (grant, offered))))
    }

    /// A read, and so sent once more where its connection turns out to be broken: after a restart
    /// of Postgres each that was idle is.
    async fn live_by_key(&self, key: &Key) -> Found {
        let together = self.reads.answer(key.clone(), async |keys| self.live_by_keys(&keys).await);
        if let Some(found) = together.await {
            return found.map_err(DbError::Together);
        }
        // Those that were idle went with it: this one is new.
        backends::live_by_key(&mut *self.hot.acquire().await?, key).await
    }

    /// Nothing where it is better asked again.
    async fn live_by_keys(&self, keys: &[Key]) -> Vec<Option<FoundTogether>> {
        let each: Vec<&Key> = keys.iter().collect();
        let found = async {
            let mut connection = self.hot.acquire().await?;
            backends::live_by_keys(&mut connection, &each).await
        };
        match found.await {
            Ok(found) => found.into_iter().map(|found| Some(found.map_err(Arc::new))).collect(),
            Err(error) if error.is_broken() => Vec::new(),
            Err(error) => vec![Some(Err(Arc::new(error))); keys.len()],
        }
    }
}
