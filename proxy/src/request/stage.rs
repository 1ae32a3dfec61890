//! The start of a session, as its waiting page sees it: the page asks for the next stage and is
//! answered when there is one. Scripts and WebSockets do not get a page; they are held until the
//! session is ready.

use std::time::Duration;

use http::header::{ACCEPT, HeaderMap};
use http::{Request, Response};
use jetway_protocol::attach::{ENTRY, Stage};
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::client::connection::Connection;
use crate::forward::response_body::ResponseBody;
use crate::pages::answer;
use crate::pages::page::STAGE_TYPE;
use crate::problem::Problem;
use crate::request::admitted::Asking;
use crate::request::server::Server;

/// The stage that the page shows already: it is answered when there is another one.
const KNOWN: &str = "x-jetway-stage";
/// The code of the hint that it shows already.
const KNOWN_HINT: &str = "x-jetway-hint";
/// Between looks at a session that is ending.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether it is the page that asks.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|accept| accept == STAGE_TYPE)
}

/// The stage and hint that the page shows.
#[derive(Debug, Default)]
pub struct Seen {
    status: Option<Status>,
    hint: Option<String>,
}

impl Seen {
    pub fn of<B>(request: &Request<B>) -> Self {
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let hint = text(KNOWN_HINT).filter(|hint| !hint.is_empty()).map(str::to_owned);
        Self { status: text(KNOWN).and_then(|status| status.parse().ok()), hint }
    }

    /// That it is ready is the answer's to say: only that lets anybody in.
    fn is_old(&self, stage: &Stage) -> bool {
        let hint = stage.hint.as_ref().map(|hint| hint.code.as_str());
        stage.status >= Status::Ready || (self.status == Some(stage.status) && self.hint.as_deref() == hint)
    }
}

impl Server {
    /// The stage of the start, as soon as it is another than the one that the page shows.
    pub async fn stage(
        &self,
        connection: &Connection,
        asking: &Asking<'_>,
        known: Seen,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let (tell, mut told) = watch::channel(None);
        let asking = Asking { stages: Some(&tell), ..*asking };
        let news = async {
            let is_news = |stage: &Stage| !known.is_old(stage);
            let _the_sender_is_here = told.wait_for(|stage| stage.as_ref().is_some_and(is_news)).await;
        };
        let until = Instant::now() + self.hold;
        let admitted = async {
            loop {
                match self.admitted(connection, &asking, Instant::now(), asked_for).await {
                    // Why, is known at its end.
                    Err(Problem::Stopping(_)) if Instant::now() < until => sleep(AGAIN).await,
                    admitted => return admitted,
                }
            }
        };
        tokio::select! {
            biased;
            admitted = admitted => {
                let mut admitted = admitted?;
                let linger = Duration::from_secs(admitted.admission.entry.linger_seconds.into());
                admitted.admission.using.linger = Some(linger.max(ENTRY));
                return Ok(answer::stage(&json!({ "status": Status::Ready })));
            }
            () = news => {}
        }
        let stage = tell.borrow().clone();
        Ok(answer::stage(&json!(stage)))
    }
}
