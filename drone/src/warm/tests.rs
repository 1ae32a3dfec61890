//! What is kept ready, against the fake engine, under paused time.

use std::time::Duration;

use jetway_protocol::spec::{Executable, Hot};
use jetway_protocol::status::Status;
use jetway_protocol::warm::{Kind, KindLoad, SlotTier, WarmTarget, WarmTargets};
use tokio::time::Instant;

use crate::harness::{Harness, eventually, reaches};
use crate::reconcile;
use crate::runtime::fake::{Application, Container, Script};
use crate::runtime::{ContainerStatus, RuntimeError};

const MS: Duration = Duration::from_millis(1);

pub fn hot(claim_path: Option<&str>) -> Option<Hot> {
    Some(Hot { claim_path: claim_path.map(str::to_owned), claim_timeout_seconds: 1 })
}

/// Slots of the image that the harness's backends have.
pub fn target(tier: SlotTier, slots: u32, change: impl FnOnce(&mut Executable)) -> WarmTarget {
    let mut executable = Executable::of_image("image");
    change(&mut executable);
    WarmTarget { tier, executable, slots, declared: true, start_timeout_seconds: 60 }
}

impl Harness {
    pub fn keep(&self, targets: Vec<WarmTarget>) {
        self.agent.warm.set(WarmTargets { targets });
    }

    pub fn ready(&self) -> u32 {
        self.agent.warm.load().kinds.iter().map(|kind| kind.ready).sum()
    }

    pub async fn has_ready(&self, slots: u32, sandboxes: u32) {
        let is_so = || self.ready() == slots && self.agent.warm.load().sandboxes_ready == sandboxes;
        eventually(&format!("{slots} slots and {sandboxes} sandboxes are ready"), is_so).await;
    }

    async fn keeping(script: Script, slots: u32) -> Self {
        let test = Self::new(script);
        test.keep(vec![target(SlotTier::Parked, slots, |_| {})]);
        test.has_ready(slots, 0).await;
        test
    }

    fn kind(&self) -> KindLoad {
        self.agent.warm.load().kinds[0].clone()
    }
}

fn runs(container: &Container) -> bool {
    matches!(container.status, ContainerStatus::Running { .. })
}

#[tokio::test(start_paused = true)]
async fn slots_are_made_given_and_replaced_and_the_numbers_say_so() {
    let test = Harness::keeping(Script { engine_takes: 200 * MS, ..Script::default() }, 3).await;
    assert!(test.fake.containers().iter().all(|one| one.session.is_none() && one.backend.is_none()));
    tokio::time::sleep(700 * MS).await;
    let claimed = Instant::now();
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    assert_eq!(claimed.elapsed(), Duration::ZERO, "nothing was made for it");
    assert_eq!(test.ready(), 2);
    test.has_ready(3, 0).await;
    assert!(claimed.elapsed() >= 300 * MS, "a moment of calm, then the engine");
    let kind = test.kind();
    assert_eq!((kind.target, kind.ready, kind.making, kind.asked, kind.claimed), (3, 3, 0, 1, 1));
    assert!((200..220).contains(&kind.make_ms), "{kind:?}");
    assert!((300..350).contains(&kind.replenish_ms), "{kind:?}");
    assert!(kind.unused_ms >= 3 * 700, "{kind:?}");
    test.put("other", |spec| spec.executable.image = "other".to_owned());
    eventually("a kind without target is told of", || test.agent.warm.load().kinds.len() == 2).await;
    assert_eq!((test.agent.warm.load().kinds[1].asked, test.agent.warm.load().kinds[1].target), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_died_is_not_given_and_is_replaced() {
    let test = Harness::keeping(Script::default(), 2).await;
    test.agent.membership.order_draining(true);
    let dead = test.fake.containers()[0].slot;
    test.fake.dies_unseen(dead);
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    let served = test.fake.containers().into_iter().find(|one| one.session.is_some()).unwrap();
    assert_ne!(served.slot, dead);
    test.agent.membership.order_draining(false);
    test.has_ready(2, 0).await;
    eventually("the dead one is removed", || test.fake.containers().iter().all(runs)).await;

    // Also one that the engine tells of, before its line has broken.
    let silent = test.fake.containers().into_iter().find(|one| one.session.is_none()).unwrap().slot;
    test.fake.set_status(silent, ContainerStatus::Exited { code: 137, oom_killed: false });
    test.fake.hint_all();
    eventually("it is replaced", || {
        !test.fake.containers().iter().any(|one| one.slot == silent) && test.ready() == 2
    })
    .await;
    assert_eq!(backend.status(), Status::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_makes_slots_anew_and_ends_no_session() {
    for image_is_known in [false, true] {
        let test = Harness::keeping(Script { image_is_known, ..Script::default() }, 2).await;
        let backend = test.put("b", |_| {});
        reaches(&backend, Status::Ready).await;
        test.has_ready(2, 0).await;
        test.fake.image_becomes("sha256:2");
        let is_new =
            |one: &Container| one.image == if one.session.is_some() { "sha256:1" } else { "sha256:2" };
        eventually("the slots are of the new image", || {
            test.fake.containers().iter().all(is_new) && test.fake.containers().len() == 3
        })
        .await;
        assert_eq!(backend.status(), Status::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn no_slot_of_an_image_that_is_known_to_be_another_is_given() {
    let test = Harness::keeping(Script { image_is_known: true, ..Script::default() }, 2).await;
    // Nobody has told the keeper.
    test.fake.script(|script| script.image_id = "sha256:2".to_owned());
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    let served = test.fake.containers().into_iter().find(|one| one.session.is_some()).unwrap();
    assert_eq!(served.image, "sha256:2");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_while_it_drains_and_what_is_ready_stays() {
    let test = Harness::keeping(Script::default(), 2).await;
    test.agent.membership.order_draining(true);
    test.keep(vec![target(SlotTier::Parked, 5, |_| {})]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((test.ready(), test.fake.containers().len()), (2, 2));
    test.agent.membership.order_draining(false);
    test.has_ready(5, 0).await;
    test.keep(Vec::new());
    test.has_ready(0, 0).await;
    eventually("what is not wanted is removed", || test.fake.containers().is_empty()).await;
    let taken: Vec<_> = std::iter::from_fn(|| test.agent.addresses().take(Instant::now()).ok()).collect();
    assert_eq!(taken.len(), 253, "every address is free again");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_tried_again_ever_more_rarely_and_says_why() {
    let error = Some(RuntimeError::Refused("no such user".to_owned()));
    let test = Harness::new(Script { create_error: error, ..Script::default() });
    test.keep(vec![target(SlotTier::Parked, 1, |_| {})]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tries = test.fake.calls().iter().filter(|call| *call == "create").count();
    assert!((4..12).contains(&tries), "{tries}");
    assert!(test.kind().error.contains("no such user"), "{:?}", test.kind());
    test.fake.script(|script| script.create_error = None);
    test.has_ready(1, 0).await;
    assert_eq!(test.kind().error, "");
}

#[tokio::test(start_paused = true)]
async fn a_hot_slot_that_never_listens_or_ends_is_none() {
    for (application, error) in
        [(Application::NeverListens, "within 60 seconds"), (Application::ExitsAtOnce(3), "status 3")]
    {
        let test = Harness::new(Script { application, ..Script::default() });
        test.keep(vec![target(SlotTier::Hot, 1, |executable| executable.hot = hot(None))]);
        eventually("the error is told", || test.kind().error.contains(error)).await;
        assert_eq!(test.ready(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_go_first_but_not_for_ever() {
    let test = Harness::keeping(Script::default(), 30).await;
    let began = Instant::now();
    for number in 0..25 {
        reaches(&test.put(&format!("b{number}"), |_| {}), Status::Ready).await;
        if began.elapsed() < 900 * MS {
            assert_eq!(test.ready(), 29 - number, "{:?}", began.elapsed());
        }
        tokio::time::sleep(50 * MS).await;
    }
    assert!(test.ready() > 20, "{}", test.ready());
}

#[tokio::test(start_paused = true)]
async fn hot_slots_hold_room_and_give_way_to_sessions() {
    let test = Harness::new(Script::default());
    let reserve = |executable: &mut Executable| {
        (executable.hot, executable.cpu_reserve) = (hot(None), 1.0);
    };
    test.keep(vec![target(SlotTier::Hot, 4, reserve)]);
    test.has_ready(4, 0).await;
    assert_eq!(test.agent.admission.reserved().backends, 4);
    assert_eq!(test.agent.load().backends, 0, "whoever places a session may count with that room");

    // What it would use itself stays.
    let mut own = Executable::of_image("image");
    reserve(&mut own);
    let reservation = super::take::make_room(&test.agent, &own).unwrap();
    assert_eq!(test.ready(), 4);
    let other = Executable { cpu_reserve: 2.0, ..Executable::of_image("other") };
    let second = super::take::make_room(&test.agent, &other).unwrap();
    assert!(test.ready() < 4);
    let too_much = Executable { cpu_reserve: 2.0, ..Executable::of_image("other") };
    let before = test.ready();
    assert!(super::take::make_room(&test.agent, &too_much).is_err());
    assert_eq!(test.ready(), before, "nothing goes where that makes no room");
    drop((reservation, second));
    test.has_ready(4, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_removes_what_nobody_was_given_and_makes_it_anew() {
    let test = Harness::with_sandboxes(Script::default(), 2);
    test.keep(vec![target(SlotTier::Parked, 2, |_| {})]);
    test.has_ready(2, 2).await;
    let before: Vec<_> = test.fake.containers().iter().map(|one| one.slot).collect();
    let sandboxes: Vec<_> = test.fake.sandboxes().iter().map(|one| one.id).collect();
    let test = test.restarted(|_| {}).await;
    assert_eq!(test.agent.warm.load().targets, "", "a controller is to say it again");
    test.lifecycle.spawn_until_stopped(reconcile::look_at_everything(test.agent.clone()));
    let is_old = |one: &Container| before.contains(&one.slot);
    eventually("what was left is removed", || {
        !test.fake.containers().iter().any(is_old)
            && !test.fake.sandboxes().iter().any(|one| sandboxes.contains(&one.id))
    })
    .await;
    test.has_ready(0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_kept_used_once_and_removed_after_their_session() {
    let test = Harness::with_sandboxes(Script::default(), 2);
    test.has_ready(0, 2).await;
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    let container = test.fake.containers().remove(0);
    let sandbox = container.sandbox.unwrap();
    let address = test.fake.sandboxes().into_iter().find(|one| one.id == sandbox).unwrap().address;
    assert_eq!(container.address, address);
    test.has_ready(0, 2).await;
    assert_eq!(test.fake.sandboxes().len(), 3);
    test.fake.application_exits(0, false);
    reaches(&backend, Status::Terminated).await;
    eventually("it goes after its container", || {
        test.fake.containers().is_empty() && test.fake.sandboxes().iter().all(|one| one.id != sandbox)
    })
    .await;
    assert!(test.agent.holders.sandboxes.is_empty() && test.agent.holders.slots.is_empty());
    assert_eq!(test.fake.sandboxes().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_died_is_replaced_and_costs_no_session() {
    let test = Harness::with_sandboxes(Script::default(), 1);
    test.has_ready(0, 1).await;
    test.fake.kill_sandboxes();
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    let note = &backend.snapshot().timeline.iter().find(|stage| !stage.note.is_empty()).unwrap().note.clone();
    assert_eq!(note, "cold: no slot was ready; its sandbox was gone");

    test.has_ready(0, 1).await;
    test.fake.kill_sandboxes();
    test.lifecycle.spawn_until_stopped(reconcile::look_at_everything(test.agent.clone()));
    let runs =
        || test.fake.sandboxes().iter().all(|one| matches!(one.status, ContainerStatus::Running { .. }));
    eventually("dead ones are replaced", || runs() && test.agent.warm.load().sandboxes_ready == 1).await;
    assert_eq!(backend.status(), Status::Ready);
}

#[tokio::test(start_paused = true)]
async fn at_an_orderly_end_only_sessions_stay() {
    let test = Harness::with_sandboxes(Script { engine_takes: 50 * MS, ..Script::default() }, 3);
    test.keep(vec![target(SlotTier::Parked, 10, |_| {})]);
    test.has_ready(10, 3).await;
    let parked = test.put("parked", |_| {});
    let joined = test.put("joined", |spec| spec.executable.image = "other".to_owned());
    for backend in [&parked, &joined] {
        reaches(backend, Status::Ready).await;
    }
    eventually("more is being made", || test.kind().making > 0).await;
    crate::reconcile::leave::leave(&test.agent).await;
    assert!(test.fake.containers().iter().all(|one| one.session.is_some()));
    assert_eq!((test.fake.containers().len(), test.fake.sandboxes().len()), (2, 1));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((test.fake.containers().len(), test.ready()), (2, 0), "nothing is made any more");
}

#[tokio::test(start_paused = true)]
async fn targets_are_told_of_by_their_fingerprint() {
    let test = Harness::new(Script::default());
    assert_eq!(test.agent.warm.load().targets, "");
    let targets =
        vec![target(SlotTier::Parked, 1, |_| {}), target(SlotTier::Parked, 2, |e| e.read_only = true)];
    let wanted = WarmTargets { targets };
    test.agent.warm.set(wanted.clone());
    assert_eq!(test.agent.warm.load().targets, wanted.fingerprint());
    test.agent.warm.set(WarmTargets::default());
    assert_eq!(test.agent.warm.load().targets, WarmTargets::default().fingerprint());
    assert!(Kind::of(SlotTier::Parked, &Executable::of_image("image")).is_ok());
}
