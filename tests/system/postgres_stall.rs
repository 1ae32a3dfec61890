//! Postgres that takes connections and answers nothing for a while: what is asked ends in time with a word of when to come
//! again, nobody's session ends, and nothing stampedes afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jetway_testkit::relay::Relay;
use serde_json::json;

use crate::harness::{Options, Session, block_on, database, eventually, over_stack};

/// Longer than many a failover.
const STALL: Duration = Duration::from_secs(15);
/// Any answer of a controller, whatever Postgres does: 6 s to know that it is silent, and 3 s more.
const ANSWERED: Duration = Duration::from_secs(12);
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_stall_of_postgres_for_fifteen_seconds_ends_no_session_and_no_request_hangs() {
    block_on(async {
        let name = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let url = database::create(&name).await.expect("a database");
        let (_, socket) = url.split_once("host=").expect("the test Postgres has a socket");
        let relay = Relay::start(&PathBuf::from(socket).join(".s.PGSQL.5432")).await.expect("a relay");
        let options = Options { database: Some(relay.url(&name)), ..Options::default() };
        over_stack(options, async |stack| {
            let request = stack.request("steady", &json!({}), &json!({}));
            let answer = stack.connect(&request).await?;
            let url = answer["url"].as_str().context("url")?.to_owned();
            let mut session = Session::open(&url).await?;
            relay.stall(true);
            let begun = Instant::now();
            let (mut asked, mut longest) = (0, Duration::ZERO);
            while begun.elapsed() < STALL {
                session.echo("it never noticed").await?;
                let mut known = Session::open(&url).await?;
                known.echo("a known URL").await?;
                for key in ["steady", "new"] {
                    let since = Instant::now();
                    let body = stack.request(key, &json!({}), &json!({}));
                    let connect = stack.post("/ctrl/connect", &body);
                    let (status, said) =
                        tokio::time::timeout(ANSWERED, connect).await.context("a connect hangs")??;
                    ensure!(status == 503 && said["retry_after_ms"].is_number(), "{key}: {status}: {said}");
                    (asked, longest) = (asked + 1, longest.max(since.elapsed()));
                }
            }
            relay.stall(false);
            println!(
                "figure: {asked} connects while Postgres was silent, the longest answer after {} ms",
                longest.as_millis()
            );
            let again = eventually("the key is given again", SOON, async || {
                match stack.post("/ctrl/connect", &request).await.map_err(|error| error.to_string())? {
                    (200, again) => Ok(again),
                    (status, said) => Err(format!("{status}: {said}")),
                }
            })
            .await?;
            ensure!(again["backend_id"] == answer["backend_id"] && again["spawned"] == false, "{again}");
            // What was begun in the silence goes on: the other key has its session by now, or gets it here.
            let body = stack.request("new", &json!({}), &json!({}));
            eventually("so is the other one", SOON, async || {
                match stack.post("/ctrl/connect", &body).await.map_err(|error| error.to_string())? {
                    (200, _) => Ok(()),
                    (status, said) => Err(format!("{status}: {said}")),
                }
            })
            .await?;
            session.echo("and still").await
        })
        .await;
        database::drop(&name).await.expect("its database goes");
    });
}
