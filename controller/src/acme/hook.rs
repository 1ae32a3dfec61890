//! The operator's hook: whether a host that a client came to may have a certificate, and whether a
//! connect may have a customer's host. Anyone can point a name at a proxy; without this question
//! they could have certificates ordered without end.

use std::time::Duration;

use jetway_protocol::certificates::HostName;
use jetway_service::client;
use jetway_service::lines::Lines;
use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::time::timeout;

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Questions at a time.
const QUESTIONS_MAX: usize = 32;
/// Those of connects, apart: a crowd of them holds up no certificate.
const OF_CONNECTS_MAX: usize = 16;
/// A connect waits so long for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);
static FAILURES: Lines = Lines::new(5, Duration::from_secs(30));

#[derive(Debug)]
pub struct Hook {
    url: Url,
    http: reqwest::Client,
    questions: Semaphore,
    of_connects: Semaphore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    Yes,
    No,
    /// It does not answer, or not as it should.
    Unknown,
}

impl Hook {
    pub fn new(url: Url) -> Self {
        let http =
            client::builder().timeout(ANSWER_MAX).build().expect("the client's settings are constants");
        Self {
            url,
            http,
            questions: Semaphore::new(QUESTIONS_MAX),
            of_connects: Semaphore::new(OF_CONNECTS_MAX),
        }
    }

    /// For a certificate. Beyond its share of questions nothing is asked.
    pub async fn asks(&self, host: &HostName) -> Allowed {
        let Ok(_one_of_few) = self.questions.try_acquire() else { return Allowed::Unknown };
        self.ask(host).await
    }

    /// `None`: too many other connects wait for an answer.
    pub async fn asks_for_connect(&self, host: &HostName) -> Option<Allowed> {
        let _one_of_few = timeout(TURN_MAX, self.of_connects.acquire()).await.ok()?.ok()?;
        Some(self.ask(host).await)
    }

    /// `GET <url>?domain=<host>`: 2xx is yes, 4xx is no.
    async fn ask(&self, host: &HostName) -> Allowed {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("domain", host.as_str());
        match self.http.get(url).send().await {
            Ok(answer) if answer.status().is_success() => Allowed::Yes,
            Ok(answer) if answer.status().is_client_error() => Allowed::No,
            Ok(answer) => {
                if let Some(left_out) = FAILURES.tell() {
                    tracing::warn!(%host, status = %answer.status(), left_out, "the hook for hosts and their certificates answers neither 2xx nor 4xx");
                }
                Allowed::Unknown
            }
            Err(error) => {
                let reason = client::root_cause(&error);
                if let Some(left_out) = FAILURES.tell() {
                    tracing::warn!(%host, reason, left_out, "the hook for hosts and their certificates does not answer");
                }
                Allowed::Unknown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_crowd_of_connects_holds_up_no_certificate() {
        let operator = testing::Hook::start().await;
        let hook = Hook::new(operator.url.parse().unwrap());
        let hosts: Vec<HostName> =
            (0..40).map(|n| format!("h{n}.customer.example").parse().unwrap()).collect();
        let crowd = join_all(hosts.iter().map(|host| hook.asks_for_connect(host)));
        let certificate = async {
            tokio::task::yield_now().await;
            assert_eq!(hook.of_connects.available_permits(), 0, "the crowd is there");
            hook.asks(&hosts[0]).await
        };
        let (crowd, certificate) = tokio::join!(crowd, certificate);
        assert_eq!(certificate, Allowed::Yes);
        // More than there are turns, and each gets one.
        assert!(crowd.iter().all(|answer| *answer == Some(Allowed::Yes)), "{crowd:?}");
        assert_eq!(operator.questions(), 41);
    }
}
