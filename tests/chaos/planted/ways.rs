//! Planted: what clients saw, with and without a fault on their way, in its time and out of it.

use std::time::Duration;

use jetway_protocol::lease::LeaseTerms;

use super::{Case, dropped, during, facts, hung, refused, session, turned_away};
use crate::places::{Host, Part};
use crate::schedule::Fault;
use crate::seen::{Asked, Done, Inner, LostCommits, SECOND, TurnedAway, UNCONFIRMED, Unclean, Wish};

pub fn ways() -> Vec<Case> {
    let saw = |seen| facts(vec![session("a", 1, 10 * SECOND, 20 * SECOND)], "idle", seen);
    let (kill, pause) = (Fault::Kill, Fault::Pause);
    let mut again = saw(during(pause(Part::Proxy(2)), hung(10)));
    again.seen.faults.push(Done { fault: pause(Part::Proxy(2)), from: 100 * SECOND, to: 101 * SECOND });
    again.seen.faults.push(Done { fault: pause(Part::Proxy(2)), from: 0, to: SECOND });
    vec![
        ("a WebSocket dropped", saw(dropped(15 * SECOND)), (0, 1, 0)),
        ("its proxy was killed", saw(during(kill(Part::Proxy(2)), dropped(15 * SECOND))), (0, 0, 0)),
        ("another proxy was killed", saw(during(kill(Part::Proxy(1)), dropped(15 * SECOND))), (0, 1, 0)),
        ("it was killed much earlier", saw(during(kill(Part::Proxy(2)), dropped(20 * SECOND))), (0, 1, 0)),
        ("a controller was killed", saw(during(kill(Part::Controller(1)), dropped(15 * SECOND))), (0, 1, 0)),
        ("Postgres was stopped", saw(during(pause(Part::Postgres), dropped(15 * SECOND))), (0, 1, 0)),
        ("a request that hung", saw(hung(10)), (0, 0, 1)),
        ("to a proxy that was stopped", saw(during(pause(Part::Proxy(2)), hung(10))), (0, 0, 0)),
        ("to one that was stopped for a part of it", saw(during(pause(Part::Proxy(2)), hung(0))), (0, 0, 1)),
        ("and to one that was stopped again, later", again, (0, 0, 0)),
        ("while Postgres was stopped", saw(during(pause(Part::Postgres), hung(10))), (0, 0, 1)),
    ]
}

/// The session is on drone 2 and lives until second 30.
pub fn answers() -> Vec<Case> {
    let saw = |seen| facts(vec![session("a", 1, 10 * SECOND, 30 * SECOND)], "idle", seen);
    let kill = |part, seen| saw(during(Fault::Kill(part), seen));
    let (open, connect) = ("502 backend_unreachable", "503 no_drone");
    let (proxy, controller) = (Part::Proxy(2), Part::Controller(1));
    let stopped = |part| Inner {
        unclean: vec![Unclean { part, how: "status 1".to_owned(), from: 14 * SECOND, at: 22 * SECOND }],
        ..Inner::default()
    };
    let pause = |seen| saw(during(Fault::Pause(Part::Postgres), seen));
    let apart = Fault::CutPair(Host::Drone(2), Host::Controller(1));
    let late_news = |reason: &str| {
        let mut facts = saw(refused(false));
        facts.sessions.clear();
        facts.rows.values_mut().for_each(|row| row.end_reason = reason.to_owned());
        facts.seen.faults.push(Done { fault: Fault::Pause(Part::Postgres), from: 0, to: 11 * SECOND });
        facts
    };
    vec![
        ("a start that failed", saw(refused(false)), (0, 1, 0)),
        ("its engine was killed", kill(Part::Engine(2), refused(false)), (0, 0, 0)),
        ("its drone was killed", kill(Part::Drone(2), refused(false)), (0, 0, 0)),
        ("a controller could not tell its drone", saw(during(apart, refused(false))), (0, 0, 0)),
        (
            "the controller that he asked was cut off",
            saw(during(Fault::Cut(Host::Controller(1)), refused(false))),
            (0, 0, 0),
        ),
        (
            "another controller was cut off",
            saw(during(Fault::Cut(Host::Controller(2)), refused(false))),
            (0, 1, 0),
        ),
        ("another's engine was killed", kill(Part::Engine(3), refused(false)), (0, 1, 0)),
        ("Postgres was killed", kill(Part::Postgres, refused(false)), (0, 1, 0)),
        ("Postgres came back just before, and the lease was over", late_news("lease_expired"), (0, 0, 0)),
        ("Postgres came back just before, and it was idle", late_news("idle"), (0, 1, 0)),
        ("a URL that was not confirmed", saw(refused(true)), (0, 1, 0)),
        ("one that was not, and Postgres was killed", kill(Part::Postgres, refused(true)), (0, 0, 0)),
        ("one that was not, and a proxy was killed", kill(proxy, refused(true)), (0, 1, 0)),
        ("an open that failed", saw(turned_away(proxy, open)), (0, 1, 0)),
        ("its proxy was killed, too", kill(proxy, turned_away(proxy, open)), (0, 0, 0)),
        ("its drone was killed, too", kill(Part::Drone(2), turned_away(proxy, open)), (0, 0, 0)),
        ("another drone was killed", kill(Part::Drone(1), turned_away(proxy, open)), (0, 1, 0)),
        (
            "Postgres was killed, which no open needs",
            kill(Part::Postgres, turned_away(proxy, open)),
            (0, 1, 0),
        ),
        (
            "which a proxy's start needs",
            kill(Part::Postgres, turned_away(proxy, "503 proxy_not_ready")),
            (0, 0, 0),
        ),
        ("a connect that failed", saw(turned_away(controller, connect)), (0, 1, 0)),
        ("which needs Postgres", kill(Part::Postgres, turned_away(controller, connect)), (0, 0, 0)),
        ("a controller that did not stop in order", saw(stopped(controller)), (0, 1, 0)),
        ("which Postgres did not let end", pause(stopped(controller)), (0, 0, 0)),
        ("a drone, which has no Postgres", pause(stopped(Part::Drone(2))), (0, 1, 0)),
        ("which needs no proxy", kill(proxy, turned_away(controller, connect)), (0, 1, 0)),
    ]
}

/// Of URLs: the proxy that one was opened by, and grants that no drone had taken yet.
pub fn urls() -> Vec<Case> {
    let saw = |seen| facts(vec![session("a", 1, 10 * SECOND, 30 * SECOND)], "idle", seen);
    let kill = |part, seen| saw(during(Fault::Kill(part), seen));
    let (proxy, controller) = (Part::Proxy(2), Part::Controller(1));
    let came_by = |proxy| {
        let mut seen = refused(false);
        seen.refused[0].through = Some(proxy);
        seen
    };
    let not_ready = "an open: 504 backend_not_ready";
    let unconfirmed = format!("{not_ready}{UNCONFIRMED}");
    vec![
        ("its proxy was paused", saw(during(Fault::Pause(proxy), came_by(2))), (0, 0, 0)),
        ("another proxy was paused", saw(during(Fault::Pause(proxy), came_by(1))), (0, 1, 0)),
        ("its controller was killed", kill(controller, turned_away(proxy, not_ready)), (0, 1, 0)),
        (
            "its controller was killed, and the drone had not been heard",
            kill(controller, turned_away(proxy, &unconfirmed)),
            (0, 0, 0),
        ),
        ("the drone had not been heard", saw(turned_away(proxy, &unconfirmed)), (0, 1, 0)),
    ]
}

/// A start that failed while inits were killed on a host, and has no row.
pub fn rowless() -> Vec<Case> {
    let rowless = |lost_commits| {
        let mut facts = facts(vec![], "idle", during(Fault::KillAtExec(1), refused(false)));
        facts.seen.lost_commits = lost_commits;
        facts
    };
    vec![
        ("its row was lost", rowless(vec![LostCommits { from: 11 * SECOND, to: 13 * SECOND }]), (0, 0, 0)),
        ("it has no row, and none was lost", rowless(vec![]), (0, 1, 0)),
    ]
}

/// The session ends at second 20, and was told so a second before: what excuses an answer then excuses none a minute later.
pub fn late_answers() -> Vec<Case> {
    let saw = |seen, reason| facts(vec![session("a", 1, 10 * SECOND, 20 * SECOND)], reason, seen);
    let wish = |wish, at| vec![Asked { backend: "a".to_owned(), wish, at: at * SECOND }];
    let away = |from: u64, at: u64| {
        let (what, backend) = ("502 backend_unreachable".to_owned(), Some("a".to_owned()));
        let away = TurnedAway { what, to: Part::Proxy(2), backend, from: from * SECOND, at: at * SECOND };
        Inner { turned_away: vec![away], ..Inner::default() }
    };
    let stopped = |away: Inner| saw(Inner { asked: wish(Wish::Stop, 18), ..away }, "external");
    let asked_in_vain = |from, at| {
        let asked = Inner { asked: wish(Wish::Exit, 12), ..away(from, at) };
        facts(vec![session("a", 1, 10 * SECOND, 300 * SECOND)], "idle", asked)
    };
    let drop = |at| saw(Inner { asked: wish(Wish::Stop, 18), ..dropped(at * SECOND) }, "external");
    // Half of a vanished Postgres' time is after the promised one.
    let vanished = |from, at| {
        let (what, fault) = ("503 database_error".to_owned(), Fault::Vanish);
        let away =
            TurnedAway { what, to: Part::Controller(1), backend: None, from: from * SECOND, at: at * SECOND };
        let faults = vec![Done { fault, from: 0, to: 15 * SECOND }];
        saw(Inner { turned_away: vec![away], faults, ..Inner::default() }, "idle")
    };
    let outwaited = |what: &str, at: u64| {
        let what = format!("503 {what}");
        let away =
            TurnedAway { what, to: Part::Controller(1), backend: None, from: at * SECOND, at: at * SECOND };
        let lost_commits = vec![LostCommits { from: 0, to: 2 * SECOND }];
        let mut facts = saw(Inner { turned_away: vec![away], lost_commits, ..Inner::default() }, "idle");
        facts.terms = LeaseTerms::of_length(Duration::from_secs(12)).unwrap_or_default();
        facts
    };
    let forgotten = |from, to, at| {
        let (what, backend) = ("404 backend_not_found".to_owned(), Some("a".to_owned()));
        let at = at * SECOND;
        let away = TurnedAway { what, to: Part::Controller(1), backend, from: at, at };
        let lost_commits = vec![LostCommits { from: from * SECOND, to: to * SECOND }];
        let mut facts = saw(Inner { turned_away: vec![away], lost_commits, ..Inner::default() }, "idle");
        facts.terms = LeaseTerms::of_length(Duration::from_secs(12)).unwrap_or_default();
        facts
    };
    vec![
        ("a stop of one whose row was lost", forgotten(9, 12, 15), (0, 0, 0)),
        ("a stop of one whose row was lost, and must be back", forgotten(9, 12, 50), (0, 1, 0)),
        ("a stop of one whose row was written before", forgotten(11, 12, 15), (0, 1, 0)),
        ("a connect after Postgres has vanished", vanished(9, 12), (0, 0, 0)),
        ("a connect when its successor must have served", vanished(14, 15), (0, 1, 0)),
        ("a new key soon after commits were lost", outwaited("busy", 15), (0, 0, 0)),
        ("a new key long after", outwaited("busy", 40), (0, 1, 0)),
        ("no drone soon after commits were lost", outwaited("no_drone", 15), (0, 1, 0)),
        ("a WebSocket that dropped with its session", drop(20), (0, 0, 0)),
        ("one that dropped half a minute after its session", drop(50), (0, 1, 0)),
        ("an open while its session stopped", stopped(away(19, 20)), (0, 0, 0)),
        ("an open just after its session had ended", stopped(away(23, 24)), (0, 0, 0)),
        ("an open long after, which must be told that it is over", stopped(away(40, 41)), (0, 1, 0)),
        ("an open just after its session was asked to leave", asked_in_vain(13, 14), (0, 0, 0)),
        ("an open long after that, and the session lives", asked_in_vain(100, 101), (0, 1, 0)),
    ]
}
