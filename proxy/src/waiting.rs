//! For people who come while a session starts: a page instead of a wait without a word, and what that page asks for. Scripts and
//! WebSockets are held until the session is ready.

use std::time::Duration;

use http::header::{ACCEPT, HeaderMap};
use http::{Request, Response};
use jetway_protocol::attach::Stage;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::answer::{self, Problem};
use crate::body::OutBody;
use crate::connection::Connection;
use crate::serve::{Asking, Server};

/// Somebody who opens a URL is not kept without a word for longer.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// What the page accepts when it asks how far the start is. Nothing else of this type is ever asked for, and no application sees it.
pub const STAGE_TYPE: &str = "application/vnd.jetway.stage+json";
/// What the page knows already: it is answered when there is something else to say.
const KNOWN: &str = "x-jetway-stage";
/// Between looks at a session that is ending.
const AGAIN: Duration = Duration::from_secs(1);
/// Who is told that it is ready has this long to come in, however soon the session would be idle.
const ENTRY: Duration = Duration::from_secs(5);

/// Whether it is the page that asks.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|accept| accept == STAGE_TYPE)
}

/// What the page says that it knows.
pub fn known<B>(request: &Request<B>) -> Option<Status> {
    request.headers().get(KNOWN)?.to_str().ok()?.parse().ok()
}

impl Server {
    /// How far the start is, as soon as that is something else than what is known.
    pub async fn stage(
        &self,
        connection: &Connection,
        asking: &Asking<'_>,
        known: Option<Status>,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<OutBody>, Problem> {
        let (tell, mut told) = watch::channel(None);
        let asking = Asking { stages: Some(&tell), ..*asking };
        let news = async {
            // That it is ready is the answer's to say: only that lets anybody in.
            let is_news = |stage: &Stage| stage.status < Status::Ready && Some(stage.status) != known;
            let _the_sender_is_here = told.wait_for(|stage| stage.as_ref().is_some_and(is_news)).await;
        };
        let until = Instant::now() + self.hold;
        let admitted = async {
            loop {
                match self.admitted(connection, &asking, Instant::now(), asked_for).await {
                    // Why, is known at its end.
                    Err(Problem::Stopping) if Instant::now() < until => sleep(AGAIN).await,
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
        let stage = *tell.borrow();
        Ok(answer::stage(&json!(stage)))
    }
}
