//! What is kept ready in the installation under test: one declared pool of parked slots and one of hot ones, the rest is learned;
//! which key asks for what; and the faults that only pools have: another size or image, deleted and put again, a
//! tag that moves. None of them excuses anything but a connect that names a pool while there is none.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::driver::Driver;
use crate::engine::{self, TAG};
use crate::harness::eventually;
use crate::places::{CONTROLLERS, DRONES, Part};
use crate::shore::Shore;

/// Network namespaces that each drone keeps.
pub const SANDBOXES: usize = 3;
/// Slots of a pool, and of a pool that was made larger: for all drones.
const SLOTS: (u32, u32) = (3, 6);
const MORE_SLOTS: (u32, u32) = (6, 9);
/// Shorter than the longest fault, so that an application that is frozen may be too late.
const CLAIM_SECONDS: u32 = 3;
/// For a controller to take a change, whatever else is wrong.
const TAKEN: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    Parked,
    Hot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    Size,
    Image,
    /// Deleted, and put again.
    Again,
    /// The tag that the pool names means another image.
    Tag,
}

/// How a key's sessions begin, where everything is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing can be made ahead but a network namespace.
    Late,
    Declared(Tier),
    /// Nobody declares it.
    Learned,
}

impl Tier {
    pub const BOTH: [Self; 2] = [Self::Parked, Self::Hot];

    pub fn pool(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Hot => "hot",
        }
    }

    fn executable(self, image: &str, env: &Value) -> Value {
        let mut executable = json!({ "image": image, "env": env });
        if self == Self::Hot {
            executable["hot"] = json!({ "claim_path": "/claim", "claim_timeout_seconds": CLAIM_SECONDS });
        }
        executable
    }
}

impl Way {
    pub fn of(key: u64) -> Self {
        match key % 4 {
            0 => Self::Late,
            1 => Self::Declared(Tier::Parked),
            2 => Self::Declared(Tier::Hot),
            _ => Self::Learned,
        }
    }
}

/// Keys whose sessions may get a slot.
pub fn keys(shore: &Shore, is: impl Fn(Way) -> bool) -> Vec<u64> {
    (0..shore.keys).filter(|key| is(Way::of(*key))).collect()
}

/// What each session is given, idle or not.
pub const FIRST_CONNECTION_SECONDS: u64 = 10;
pub const LINGER_SECONDS: u64 = 1;
/// Of a session whose spec is its pool's.
const IDLE_OF_POOL_SECONDS: u64 = 1;

fn spawn_config(executable: Value, idle: u64) -> Value {
    json!({
        "executable": executable, "max_idle_seconds": idle,
        "first_connection_seconds": FIRST_CONNECTION_SECONDS, "linger_seconds": LINGER_SECONDS, "stop_grace_seconds": 2,
    })
}

/// Every other key of a pool names it.
fn names_its_pool(number: u64) -> Option<Tier> {
    match Way::of(number) {
        Way::Declared(tier) if (number / 4).is_multiple_of(2) => Some(tier),
        Way::Late | Way::Declared(_) | Way::Learned => None,
    }
}

pub fn number_of(key: &str) -> u64 {
    key.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn idle_of(number: u64) -> u64 {
    if names_its_pool(number).is_some() { IDLE_OF_POOL_SECONDS } else { number % 3 }
}

/// After its last use a key's session is stopped, and not earlier.
pub fn idle_seconds(key: &str) -> u64 {
    idle_of(number_of(key))
}

/// The connect for a key. Every other key of a pool names it; the rest ask for the same thing, with an environment of
/// their own.
pub fn request(shore: &Shore, number: u64) -> Value {
    let mut env = json!({ "STOP_DELAY_MS": (number * 70 % 400).to_string() });
    if matches!(number, 0 | 5 | 6) {
        env["DEAF"] = json!("1");
    }
    if let Some(tier) = names_its_pool(number) {
        return json!({ "warm_pool": tier.pool() });
    }
    let executable = match Way::of(number) {
        Way::Late => json!({ "image": shore.images[0], "env": env, "mount": "beats" }),
        Way::Declared(tier) => tier.executable(TAG, &env),
        Way::Learned => json!({ "image": shore.images[0], "env": env, "shm_size_bytes": 1 << 20 }),
    };
    json!({ "spawn_config": spawn_config(executable, idle_of(number)) })
}

/// True if a controller has answered; whether with yes or no is `accepted`'s to say.
async fn tell(
    shore: &Shore,
    method: &reqwest::Method,
    tier: Tier,
    body: &Value,
    accepted: impl Fn(u16) -> bool,
) -> anyhow::Result<()> {
    let what = format!("{method} of the pool {}", tier.pool());
    eventually(&what, TAKEN, async || {
        let mut said = String::new();
        for number in 1..=CONTROLLERS {
            let controller = Part::Controller(number);
            let url = format!("http://{}/ctrl/pools/{}", controller.address(), tier.pool());
            let asked = shore.http.request(method.clone(), url).json(body).timeout(ANSWER).send();
            let Ok(answer) = asked.await else { continue };
            let status = answer.status().as_u16();
            if accepted(status) {
                return Ok(());
            }
            said = format!("{controller} says {status} {}", answer.text().await.unwrap_or_default());
            if status == 500 {
                shore.seen.broken(&format!("{what}: {said}"));
            }
        }
        Err(said)
    })
    .await
}

/// Idempotent, like the product's own.
pub async fn put(shore: &Shore, tier: Tier, image: &str, (min, max): (u32, u32)) -> anyhow::Result<()> {
    let config =
        spawn_config(tier.executable(image, &json!({ "STOP_DELAY_MS": "70" })), IDLE_OF_POOL_SECONDS);
    let body = json!({ "spawn_config": config, "tier": tier.pool(), "min": min, "max": max });
    tell(shore, &reqwest::Method::PUT, tier, &body, |status| status == 200).await
}

pub async fn declare(shore: &Shore) -> anyhow::Result<()> {
    for tier in Tier::BOTH {
        put(shore, tier, TAG, SLOTS).await?;
    }
    Ok(())
}

/// On every engine that answers just now.
async fn tag(image: &str) {
    for number in 1..=DRONES {
        let _down_or_done = tokio::time::timeout(ANSWER, engine::tag(number, image, TAG)).await;
    }
}

impl Driver {
    /// For so long; then it is as it was.
    pub async fn change(&self, change: Change, tier: Tier, length: Duration) -> anyhow::Result<()> {
        let shore = &self.shore;
        match change {
            Change::Size => put(shore, tier, TAG, MORE_SLOTS).await?,
            Change::Image => put(shore, tier, &shore.images[1], SLOTS).await?,
            Change::Again => {
                let gone = |status| matches!(status, 200 | 404);
                tell(shore, &reqwest::Method::DELETE, tier, &Value::Null, gone).await?;
            }
            Change::Tag => tag(&shore.images[1]).await,
        }
        tokio::time::sleep(length).await;
        if change == Change::Tag {
            tag(&shore.images[0]).await;
            return Ok(());
        }
        put(shore, tier, TAG, SLOTS).await
    }
}

/// What a drone is to keep, by what a controller shows of pools and of what was learned.
pub fn wanted(pools: &Value, drone: u8) -> anyhow::Result<u64> {
    let name = format!("d{drone}");
    let mut wanted = 0;
    for list in ["pools", "learned"] {
        for kind in pools[list].as_array().context("a list")? {
            let drones = kind["drones"].as_array().context("drones")?;
            for shown in drones.iter().filter(|shown| shown["drone"] == name.as_str()) {
                let Some(target) = shown["target"].as_u64() else { bail!("no target: {shown}") };
                wanted += target;
            }
        }
    }
    Ok(wanted)
}
