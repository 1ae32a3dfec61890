//! Who is next, as tables; and what limit is learned against an engine that is simulated.

use super::*;

fn core(limit: usize) -> Core<u32> {
    Core::new(limit)
}

fn ask(core: &mut Core<u32>, class: Class, who: u32) -> (Turn, u64) {
    let turn = core.next_turn();
    core.ask(class, turn, who)
}

fn admitted(core: &mut Core<u32>, now: Instant) -> Vec<u32> {
    std::iter::from_fn(|| core.admit(now)).map(|(_, who, _)| who).collect()
}

#[test]
fn starts_go_first_and_each_class_in_its_order() {
    let (mut core, now) = (core(3), Instant::now());
    for (class, who) in [(Class::Ahead, 10), (Class::Ahead, 11), (Class::Start, 1), (Class::Start, 2)] {
        ask(&mut core, class, who);
    }
    assert_eq!(admitted(&mut core, now), [1, 2, 10]);
    core.done(Class::Start, 1, Outcome::Nothing, now);
    ask(&mut core, Class::Start, 3);
    assert_eq!(admitted(&mut core, now), [3], "who asks later, but for a session");
}

#[test]
fn a_session_that_is_half_made_goes_before_those_that_are_not_begun() {
    let (mut core, now) = (core(1), Instant::now());
    let first = core.next_turn();
    core.ask(Class::Start, first, 1);
    assert_eq!(admitted(&mut core, now), [1]);
    ask(&mut core, Class::Start, 2);
    core.ask(Class::Start, first, 3);
    core.done(Class::Start, 1, Outcome::Nothing, now);
    assert_eq!(admitted(&mut core, now), [3]);
}

#[test]
fn what_is_made_ahead_has_half_of_the_engine_while_sessions_start_and_all_of_it_else() {
    let now = Instant::now();
    for (limit, busy, calm) in [(1, 1, 1), (2, 1, 2), (3, 1, 3), (8, 4, 8)] {
        let queued = || {
            let mut core = core(limit);
            for who in 0..20 {
                ask(&mut core, Class::Ahead, who);
            }
            core
        };
        let mut quiet = queued();
        assert_eq!(admitted(&mut quiet, now).len(), calm, "of {limit}");

        let mut core = queued();
        ask(&mut core, Class::Start, 100);
        let first = core.admit(now).unwrap();
        assert_eq!(first.1, 100);
        core.done(Class::Start, 1, Outcome::Nothing, now);
        assert_eq!(admitted(&mut core, now + CALM / 2).len(), busy, "of {limit} right after a start");
        assert_eq!(admitted(&mut core, now + CALM).len(), calm - busy, "of {limit} in the calm");
    }
}

#[test]
fn removals_go_beside_everything_a_few_at_once() {
    let now = Instant::now();
    let mut core = core(1);
    for who in 0..10 {
        ask(&mut core, Class::Removal, who);
    }
    for who in 100..110 {
        ask(&mut core, Class::Start, who);
    }
    assert_eq!(admitted(&mut core, now), [100, 0, 1], "a removal waits for no start");
    core.done(Class::Removal, 1, Outcome::Nothing, now);
    assert_eq!(admitted(&mut core, now), [2]);
    core.done(Class::Start, 1, Outcome::Nothing, now);
    let later = now + CALM * 2;
    for who in 101..110 {
        assert_eq!(admitted(&mut core, later), [who]);
        core.done(Class::Start, 1, Outcome::Nothing, later);
    }
    assert_eq!(admitted(&mut core, later + CALM), [3, 4], "in the calm there is room for more");
}

#[test]
fn who_does_not_wait_any_more_is_passed_over() {
    let (mut core, now) = (core(1), Instant::now());
    let key = ask(&mut core, Class::Start, 1);
    ask(&mut core, Class::Start, 2);
    core.forget(Class::Start, key);
    core.forget(Class::Start, key);
    assert_eq!(admitted(&mut core, now), [2]);
}

#[test]
fn failures_halve_the_limit_and_refusals_say_nothing() {
    let now = Instant::now();
    let mut core = core(16);
    for (outcome, expect) in [(Outcome::Failed, 8), (Outcome::Nothing, 8), (Outcome::Failed, 4)] {
        for _ in 0..core.limit() {
            ask(&mut core, Class::Start, 0);
            let (class, _, together) = core.admit(now).unwrap();
            core.done(class, together, outcome, now);
        }
        assert_eq!(core.limit(), expect, "{outcome:?}");
    }
    for _ in 0..100 {
        ask(&mut core, Class::Start, 0);
        let (class, _, together) = core.admit(now).unwrap();
        core.done(class, together, Outcome::Failed, now);
    }
    assert_eq!(core.limit(), LIMIT_MIN);
}

/// Where fewer wait than may, nothing is learned about more.
#[test]
fn an_idle_drone_does_not_raise_its_limit() {
    let (mut core, now) = (core(3), Instant::now());
    for _ in 0..200 {
        ask(&mut core, Class::Start, 0);
        let (class, _, together) = core.admit(now).unwrap();
        core.done(class, together, Outcome::Took(Call::Start, Duration::from_millis(100)), now);
    }
    assert_eq!(core.limit(), 3);
}

/// An engine that works on `knee` calls at full speed, and shares that among more.
struct Engine {
    knee: f64,
    /// Seconds of work left, when it began, and what the core said of it.
    calls: Vec<(f64, f64, usize)>,
    now: f64,
    began: Instant,
    noise: u64,
}

impl Engine {
    fn new(knee: f64) -> Self {
        Self { knee, calls: Vec::new(), now: 0.0, began: Instant::now(), noise: 1 }
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_secs_f64(self.now)
    }

    /// 100 ms, more or less a fifth.
    fn work(&mut self) -> f64 {
        self.noise =
            self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        0.08 + 0.04 * ((self.noise >> 33) as f64 / f64::from(u32::MAX >> 1))
    }

    /// `clients` ask again and again, until so many calls are done. Returns calls a second.
    fn serve(&mut self, core: &mut Core<u32>, clients: usize, calls: usize) -> f64 {
        let (start, mut done) = (self.now, 0);
        for _ in 0..clients {
            ask(core, Class::Start, 0);
        }
        while done < calls {
            while let Some((_, _, together)) = core.admit(self.instant()) {
                let work = self.work();
                self.calls.push((work, self.now, together));
            }
            let rate = (self.knee / self.calls.len() as f64).min(1.0);
            let least = self.calls.iter().map(|(left, ..)| *left).fold(f64::INFINITY, f64::min);
            self.now += least / rate;
            let mut ended = Vec::new();
            self.calls.retain_mut(|(left, began, together)| {
                *left -= least;
                let goes_on = *left > 1e-9;
                if !goes_on {
                    ended.push((*began, *together));
                }
                goes_on
            });
            for (began, together) in ended {
                let latency = Duration::from_secs_f64(self.now - began);
                core.done(Class::Start, together, Outcome::Took(Call::Start, latency), self.instant());
                ask(core, Class::Start, 0);
                done += 1;
            }
        }
        done as f64 / (self.now - start)
    }
}

/// Whatever was left in the queue goes away.
fn clear(core: &mut Core<u32>) {
    core.waiting[Class::Start as usize].clear();
}

#[test]
fn the_limit_is_learned_near_the_engines_knee() {
    for knee in [1.0, 2.0, 4.0, 8.0, 20.0] {
        let (mut core, mut engine) = (core(3), Engine::new(knee));
        // As a drone begins: now and then a session, alone.
        engine.serve(&mut core, 1, 8);
        clear(&mut core);
        engine.serve(&mut core, 100, 2000);
        let learned = core.limit() as f64;
        assert!((knee..=knee + 4.0).contains(&learned), "{learned} for an engine of {knee}");
        // So it does as much as it can, and nothing waits long in it.
        let rate = engine.serve(&mut core, 100, 500);
        assert!(rate > 0.9 * knee / 0.1, "{rate} calls a second from an engine of {knee}");
    }
}

#[test]
fn it_follows_an_engine_that_gets_slower_and_quicker() {
    let (mut core, mut engine) = (core(3), Engine::new(12.0));
    engine.serve(&mut core, 1, 8);
    clear(&mut core);
    for knee in [12.0, 3.0, 9.0] {
        engine.knee = knee;
        engine.serve(&mut core, 100, 2000);
        let learned = core.limit() as f64;
        assert!((knee..=knee + 4.0).contains(&learned), "{learned} for an engine of {knee}");
    }
}

/// A burst right at the start of an agent, with nothing known: the limit stays bounded all the same.
#[test]
fn without_a_quiet_moment_the_limit_does_not_run_away() {
    let (mut core, mut engine) = (core(3), Engine::new(1.0));
    engine.serve(&mut core, 200, 3000);
    assert!(core.limit() <= 8, "{}", core.limit());
    clear(&mut core);
    while let Some((_, began, together)) = engine.calls.pop() {
        let latency = Duration::from_secs_f64(engine.now - began);
        core.done(Class::Start, together, Outcome::Took(Call::Start, latency), engine.instant());
    }
    engine.serve(&mut core, 1, 8);
    clear(&mut core);
    engine.serve(&mut core, 100, 500);
    assert!(core.limit() <= 5, "one quiet moment later: {}", core.limit());
}
