//! Three minutes of new keys that come at random (Poisson), half a one a second, with no pool declared: how many find a slot ready
//! once the first minute is over, and what the slots cost that waited.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, LEARNED, with_jetway};
use crate::measure::Samples;
use crate::peer::jetway::Jetway;
use crate::report::{Bar, Row};

const LIMIT: Duration = Duration::from_secs(300);
const LENGTH: Duration = Duration::from_secs(180);
const WARM_UP: Duration = Duration::from_secs(60);
const PER_SECOND: f64 = 0.5;
/// Sessions that live at one time.
const SESSIONS_MAX: usize = 5;

#[derive(Default)]
struct Seen {
    asked: usize,
    hits: usize,
    time: Samples,
}

pub async fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    with_jetway(bench, &[LEARNED], LIMIT, async |jetway| {
        let seen = trace(jetway).await?;
        let warm = jetway.warm_load().await?;
        let sum = |name: &str| -> f64 {
            let kinds = warm["kinds"].as_array();
            kinds.into_iter().flatten().filter_map(|kind: &Value| kind[name].as_f64()).sum()
        };
        let claims = sum("claimed");
        let waste = (claims > 0.0).then(|| sum("unused_ms") / 1e3 / claims);
        let share = seen.hits as f64 / seen.asked.max(1) as f64 * 100.0;
        let after = format!("learned pool, {PER_SECOND}/s, after {} s", WARM_UP.as_secs());
        let hits = format!("{after}: hits of {}", seen.asked);
        Ok(vec![
            Row::own(&hits, Some(share), "%", Bar::AtLeast(98.0)),
            Row::own(&format!("{after}: connect to first byte, p50"), seen.time.median(), "ms", Bar::None),
            Row::own(&format!("{after}: worst"), seen.time.worst(), "ms", Bar::None),
            Row::own("learned pool: slot-seconds unused a claim", waste, "s", Bar::None),
        ])
    })
    .await
}

async fn trace(jetway: &Jetway) -> anyhow::Result<Seen> {
    let (mut seen, begin, mut due) = (Seen::default(), Instant::now(), Duration::ZERO);
    for n in 0_u32.. {
        due += Duration::from_secs_f64(-(1.0 - rand::random::<f64>()).ln() / PER_SECOND);
        if due >= LENGTH {
            break;
        }
        tokio::time::sleep_until((begin + due).into()).await;
        let body = jetway.site.connect_body(&format!("learned-{n}"), &json!({}));
        let (time, connected) = jetway.site.first_byte(&body).await?;
        if due >= WARM_UP {
            seen.asked += 1;
            seen.hits += usize::from(matches!(jetway.tier(&connected).await?.as_str(), "parked" | "hot"));
            seen.time.push_time(time);
        }
        jetway.site.keep_newest(SESSIONS_MAX).await?;
    }
    Ok(seen)
}
