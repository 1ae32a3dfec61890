//! Many new keys at once: nobody is refused while there is room, and slots are used where they are.

use std::collections::BTreeMap;

use jetway_protocol::controller_api::Load;
use jetway_protocol::spec::Executable;
use jetway_protocol::warm::{Kind, KindLoad, SlotTier, WarmLoad};

use crate::testing::{FakeDrone, Harness, keyed};

const KEYS: usize = 200;

fn load(agent: u128, ready: u32) -> Load {
    let kind = Kind::of(SlotTier::Parked, &Executable::of_image("app")).unwrap();
    let kinds = vec![KindLoad {
        kind,
        target: ready,
        ready,
        making: 0,
        asked: 0,
        claimed: 0,
        make_ms: 400,
        unused_ms: 0,
        replenish_ms: 400,
        error: String::new(),
    }];
    let warm = WarmLoad { agent: Some(uuid::Uuid::from_u128(agent)), kinds, ..WarmLoad::default() };
    Load { engine_ok: true, images: vec!["app:latest".into()], warm, ..Load::default() }
}

/// Every answer's status, and how often it was given.
async fn burst(harness: &Harness) -> BTreeMap<u16, usize> {
    let bodies: Vec<_> = (0..KEYS).map(|n| keyed(&format!("k{n}"))).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| harness.connect(body))).await;
    answers.iter().fold(BTreeMap::new(), |mut count, answer| {
        *count.entry(answer.status).or_default() += 1;
        count
    })
}

fn placed(drones: &[std::sync::Arc<FakeDrone>]) -> Vec<usize> {
    drones.iter().map(|drone| drone.ids().len()).collect()
}

#[tokio::test]
async fn two_hundred_new_keys_at_once_take_the_slots_where_they_are() {
    let harness = Harness::new().await;
    let mut drones = Vec::new();
    for (n, ready) in [(1, 100), (2, 60), (3, 40), (4, 0)] {
        let drone = harness.drone(&format!("d{n}")).await;
        harness.heartbeat(&drone, load(n, ready)).await;
        drones.push(drone);
    }
    assert_eq!(burst(&harness).await, BTreeMap::from([(200, KEYS)]));
    assert_eq!(placed(&drones), [100, 60, 40, 0], "each slot once");
}

#[tokio::test]
async fn two_hundred_new_keys_at_once_fill_what_room_there_is_and_none_is_refused() {
    let harness = Harness::new().await;
    let mut drones = Vec::new();
    for n in 0..4 {
        let small = |register: &mut jetway_protocol::controller_api::Register| {
            register.capacity.backends_max = 50;
        };
        drones.push(harness.drone_with(&format!("d{n}"), small).await);
    }
    assert_eq!(burst(&harness).await, BTreeMap::from([(200, KEYS)]));
    assert_eq!(placed(&drones), [50; 4]);
}
