//! What is measured, one file a measure. Each starts what it needs, bounds it, and ends it whatever came of it.
//!
//! | part | what may make its numbers look better or worse | what is done about it |
//! |---|---|---|
//! | `first_byte` | starts follow each other within a second: caches and connections are hot | `sporadic` has the same starts 1.5 s apart and after a silence |
//! | `sporadic` | few samples | the worst stands beside the median |
//! | `live` | load keeps everything hot; many keys hide what one costs | one key has rows of its own; `sporadic` has rare connects |
//! | `close` | nothing: one close at a time, on the application's clock | |
//! | `burst` | the pool was filled just before; one round has 50 samples | `--rounds` |
//! | `claims` | drones and client are in one process, on the same processors | only Jetway's own bar is held against it |
//! | `scale` | tables grow from round to round | the small installation is measured before and after the large one |
//! | `learned` | nothing: arrivals are at random, two seconds apart | |
//! | `edge` | the client takes the same processors; who comes first finds them cool | processor times of the proxy alone; the order turns round |
//! | `idle` | a heap that was filled before has room | a new process for each count; a slope over three counts |
//! | `crowd` | a client that is late starts its clock late | times count from when a visit was due |

pub mod burst;
pub mod claims;
pub mod close;
pub mod crowd;
pub mod edge;
pub mod first_byte;
pub mod idle;
pub mod learned;
pub mod live;
pub mod scale;
pub mod sporadic;

use std::time::Duration;

use anyhow::{Context, bail};
use bollard::Docker;

use crate::peer::jetway::Jetway;
use crate::peer::plane::Plane;
use crate::settings::Settings;

pub struct Bench {
    pub settings: Settings,
    pub docker: Docker,
    /// Of the application.
    pub image: String,
}

pub const LEARNED: (&str, &str) = ("JETWAY_WARM_LEARN", "true");
/// No slots but those that are declared.
pub const NOT_LEARNED: (&str, &str) = ("JETWAY_WARM_LEARN", "false");

/// A Jetway of its own for the body, which is given up after `limit` or at Ctrl-C.
pub async fn with_jetway<T>(
    bench: &Bench,
    variables: &[(&str, &str)],
    limit: Duration,
    body: impl AsyncFnOnce(&Jetway) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let jetway = Jetway::start(&bench.image, variables).await.context("Jetway does not start")?;
    match bounded(limit, body(&jetway)).await {
        Ok(measured) => {
            if let Err(error) = jetway.end().await {
                eprintln!("after a measure: {error:#}");
            }
            Ok(measured)
        }
        Err(error) => {
            eprintln!("{}", jetway.stack.logs());
            jetway.stack.abandon().await;
            Err(error)
        }
    }
}

/// What a peer fails at is missing from the table, and the rest is measured without it.
pub fn lost_peer<T>(plane: &Plane, error: &anyhow::Error) -> Option<T> {
    eprintln!("{}\nPlane: {error:#}", plane.logs());
    None
}

/// Plane beside it, where it is installed.
pub async fn with_plane<T>(
    bench: &Bench,
    body: impl AsyncFnOnce(Option<&Plane>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let plane = Plane::start(&bench.docker, &bench.image).await?;
    let measured = body(plane.as_ref()).await;
    if let Some(plane) = plane
        && let Err(error) = plane.end().await
    {
        eprintln!("after a measure, Plane: {error:#}");
    }
    measured
}

async fn bounded<T>(limit: Duration, body: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        measured = tokio::time::timeout(limit, body) => {
            measured.with_context(|| format!("not within {limit:?}"))?
        }
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}
