//! The operator's hook: whether a host that somebody came to may have a certificate. Anybody can point a name at a proxy; without this
//! question they could have certificates ordered without end.

use std::time::Duration;

use jetway_protocol::certificates::HostName;
use jetway_service::client;
use jetway_service::lines::Lines;
use reqwest::Url;
use tokio::sync::Semaphore;

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Questions at a time.
const QUESTIONS_MAX: usize = 32;
static FAILURES: Lines = Lines::new(5, Duration::from_secs(30));

#[derive(Debug)]
pub struct Hook {
    url: Url,
    http: reqwest::Client,
    questions: Semaphore,
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
        Self { url, http, questions: Semaphore::new(QUESTIONS_MAX) }
    }

    /// `GET <url>?domain=<host>`: 2xx is yes, 4xx is no.
    pub async fn asks(&self, host: &HostName) -> Allowed {
        let Ok(_one_of_few) = self.questions.try_acquire() else { return Allowed::Unknown };
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("domain", host.as_str());
        match self.http.get(url).send().await {
            Ok(answer) if answer.status().is_success() => Allowed::Yes,
            Ok(answer) if answer.status().is_client_error() => Allowed::No,
            Ok(answer) => {
                if let Some(left_out) = FAILURES.tell() {
                    tracing::warn!(%host, status = %answer.status(), left_out, "the hook for certificates on demand answers neither 2xx nor 4xx");
                }
                Allowed::Unknown
            }
            Err(error) => {
                let reason = client::root_cause(&error);
                if let Some(left_out) = FAILURES.tell() {
                    tracing::warn!(%host, reason, left_out, "the hook for certificates on demand does not answer");
                }
                Allowed::Unknown
            }
        }
    }
}
