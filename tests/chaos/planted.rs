//! Proof that the checker sees what it is there for: planted records, one of each wrong, and what is right beside it.

mod idle;
mod ways;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::ensure;
use jetway_protocol::lease::LeaseTerms;

use crate::beats::Beats;
use crate::check::{Facts, Findings, Row, Session, check};
use crate::forgotten;
use crate::places::{Host, Part};
use crate::records::counts_empty_files;
use crate::schedule::Fault;
use crate::seen::{Asked, Done, Dropped, Hit, Hung, Inner, LostCommits, Refused, SECOND, TurnedAway, Wish};

/// Told to stop a second before it ended.
fn session(backend: &str, fence: u64, first: u64, last: u64) -> Session {
    let (key, backend) = ("planted".to_owned(), backend.to_owned());
    let beats =
        Beats { fence, first, last, count: 1, told_to_stop: last - SECOND, key, backend, ..Beats::default() };
    Session { drone: 2, container: format!("of {}", beats.backend), beats }
}

/// Each of them has been entered by a client that was seen no more.
fn facts(sessions: Vec<Session>, reason: &str, mut seen: Inner) -> Facts {
    for Session { beats, .. } in &sessions {
        seen.tried.entry(beats.backend.clone()).or_insert(beats.first);
    }
    let row = |session: &Session| {
        let (status, tier) = ("terminated".to_owned(), "cold".to_owned());
        let (end_reason, message) = (reason.to_owned(), String::new());
        let row = Row { status, end_reason, message, drone: Some(2), tier };
        (session.beats.backend.clone(), row)
    };
    let rows: HashMap<_, _> = sessions.iter().map(row).collect();
    Facts { start: 0, terms: LeaseTerms::default(), sessions, rows, words: HashMap::new(), seen }
}

fn counts(findings: &Findings) -> (usize, usize, usize) {
    (findings.overlaps.len(), findings.lost.len(), findings.hung.len())
}

fn dropped(at: u64) -> Inner {
    let how = "the end".to_owned();
    let dropped = vec![Dropped { backend: "a".into(), proxy: 2, opened: 0, at, how }];
    Inner { dropped, ..Inner::default() }
}

fn hung(from: u64) -> Inner {
    let (what, to, bound) = ("an open".to_owned(), Part::Proxy(2), 10 * SECOND);
    let hung = Hung { what, to, backend: None, starts: false, bound, from: from * SECOND, at: 25 * SECOND };
    Inner { hung: vec![hung], ..Inner::default() }
}

fn asked(wish: Wish) -> Inner {
    let asked = vec![Asked { backend: "a".to_owned(), wish, at: 15 * SECOND }];
    Inner { asked, ..Inner::default() }
}

fn refused(unconfirmed: bool) -> Inner {
    let (what, backend, from) = ("did not start".to_owned(), "a".to_owned(), 12 * SECOND);
    let by = Part::Controller(1);
    let refused = Refused { what, by, through: None, unconfirmed, backend, from, at: 15 * SECOND };
    Inner { refused: vec![refused], ..Inner::default() }
}

fn turned_away(to: Part, what: &str) -> Inner {
    let (what, backend) = (what.to_owned(), Some("a".to_owned()));
    let away = TurnedAway { what, to, backend, from: 12 * SECOND, at: 15 * SECOND };
    Inner { turned_away: vec![away], ..Inner::default() }
}

/// The same, with a fault from second 14 to 16.
fn during(fault: Fault, mut seen: Inner) -> Inner {
    seen.faults.push(Done { fault, from: 14 * SECOND, to: 16 * SECOND });
    seen
}

fn overlaps() -> Vec<Case> {
    let with = |others: &[(&str, u64, u64, u64)]| {
        let mut sessions = vec![session("a", 1, 10 * SECOND, 20 * SECOND)];
        let others = others
            .iter()
            .map(|(backend, fence, first, last)| session(backend, *fence, first * SECOND, last * SECOND));
        sessions.extend(others);
        facts(sessions, "idle", Inner::default())
    };
    let within_a_beat = |beside| {
        let mut facts = with(&[("b", 2, 20, 22)]);
        facts.sessions[1].beats.first += SECOND / 200;
        facts.sessions[1].beats.beside = beside;
        facts
    };
    let killed_and_seen_alive = {
        let mut facts = with(&[("b", 2, 21, 22)]);
        facts.sessions[0].beats.gap_max = 2 * SECOND;
        facts.sessions[1].beats.beside = 1;
        facts
    };
    let both = {
        let mut facts = with(&[("b", 2, 15, 22)]);
        facts.sessions[1].beats.beside = 1;
        facts
    };
    let posted = |posts, again, answered| {
        let mut facts = with(&[]);
        (facts.sessions[0].beats.posts, facts.sessions[0].beats.again) = (posts, again);
        facts.seen.posted.insert("a".to_owned(), answered);
        facts
    };
    let mut unwritten = with(&[("a", 0, 21, 22)]);
    unwritten.sessions[1].beats.key = "unknown".to_owned();
    let in_one_container = |mut facts: Facts| {
        for session in &mut facts.sessions {
            session.container = "hot".to_owned();
            session.beats.key.clone_from(&session.beats.backend);
        }
        facts
    };
    let on_two_engines = {
        let mut facts = in_one_container(with(&[("b", 2, 21, 22)]));
        facts.sessions[1].drone = 3;
        facts
    };
    vec![
        ("one after the other", with(&[("b", 2, 21, 22)]), (0, 0, 0)),
        ("an overlap of one beat", with(&[("b", 2, 20, 22)]), (1, 0, 0)),
        ("the next one within a heartbeat, and none lived", within_a_beat(0), (0, 0, 0)),
        ("the next one within a heartbeat of one that lived", within_a_beat(1), (1, 0, 0)),
        ("the next one within the gap of one that was killed later", killed_and_seen_alive, (1, 0, 0)),
        ("an overlap that both have seen is one", both, (1, 0, 0)),
        ("requests that were carried out once, one of them unheard", posted(3, 0, 2), (0, 0, 0)),
        ("a request that was carried out twice", posted(3, 1, 2), (1, 0, 0)),
        ("a request that was answered and not carried out", posted(1, 0, 2), (1, 0, 0)),
        ("an overlap of three", with(&[("b", 2, 12, 13), ("c", 3, 14, 22)]), (2, 0, 0)),
        ("a token that stays", with(&[("b", 1, 21, 22)]), (1, 0, 0)),
        (
            "a container of two sessions, one after the other",
            in_one_container(with(&[("b", 2, 21, 22)])),
            (1, 0, 0),
        ),
        ("a process of two sessions at one time", in_one_container(with(&[("b", 2, 12, 22)])), (1, 0, 0)),
        ("two containers", on_two_engines, (0, 0, 0)),
        ("one backend in two processes", with(&[("a", 1, 21, 22)]), (1, 0, 0)),
        ("one backend in two processes, of which one wrote nothing", unwritten, (1, 0, 0)),
    ]
}

fn ends() -> Vec<Case> {
    let ended = |last, reason, seen| facts(vec![session("a", 1, 10 * SECOND, last * SECOND)], reason, seen);
    let none = Inner::default;
    let cut = Done { fault: Fault::Cut(Host::Drone(2)), from: 0, to: 900 * SECOND };
    let long = Inner { faults: vec![cut], ..Inner::default() };
    let said = |word: &str| Facts {
        words: HashMap::from([("a".to_owned(), word.to_owned())]),
        ..ended(13, "lease_expired", during(Fault::Cut(Host::Drone(2)), none()))
    };
    let by_itself = |mut facts: Facts| {
        facts
            .sessions
            .iter_mut()
            .for_each(|session| (session.beats.told_to_stop, session.beats.left) = (0, 1));
        facts
    };
    let hit = |until| {
        let mut facts = ended(20, "failed", none());
        let container = facts.sessions[0].container.clone();
        facts.seen.hit.push(Hit { container, how: "killed", until: until * SECOND });
        facts
    };
    let left = by_itself(ended(20, "exited", asked(Wish::Exit)));
    let mut stopped_late = by_itself(ended(20, "external", asked(Wish::Exit)));
    stopped_late.seen.asked.push(Asked { backend: "a".to_owned(), wish: Wish::Stop, at: 21 * SECOND });
    let mut killed = ended(600, "exited", long.clone());
    killed.sessions.iter_mut().for_each(|session| session.beats.told_to_stop = 0);
    let rowless = |from, to| {
        let mut rowless = ended(20, "idle", none());
        rowless.rows.clear();
        rowless.seen.lost_commits.push(LostCommits { from: from * SECOND, to: to * SECOND });
        rowless
    };
    vec![
        ("an idle session", ended(20, "idle", none()), (0, 0, 0)),
        ("a session whose row was lost", rowless(8, 12), (0, 0, 0)),
        ("a session without a row", rowless(11, 12), (0, 1, 0)),
        ("a session that was stopped unasked", ended(20, "external", none()), (0, 1, 0)),
        ("one whose container was killed", hit(30), (0, 0, 0)),
        ("one whose container had been frozen long before", hit(15), (0, 1, 0)),
        ("a session that left unasked", ended(20, "exited", none()), (0, 1, 0)),
        ("a session that went away", ended(20, "lost", none()), (0, 1, 0)),
        ("its engine died", ended(15, "lost", during(Fault::Kill(Part::Engine(2)), none())), (0, 0, 0)),
        (
            "its engine died afterwards",
            ended(13, "lost", during(Fault::Kill(Part::Engine(2)), none())),
            (0, 1, 0),
        ),
        (
            "its engine had died long before",
            ended(20, "lost", during(Fault::Kill(Part::Engine(2)), none())),
            (0, 1, 0),
        ),
        ("another engine died", ended(20, "lost", during(Fault::Kill(Part::Engine(3)), none())), (0, 1, 0)),
        ("its agent died", ended(20, "lost", during(Fault::Kill(Part::Drone(2)), none())), (0, 1, 0)),
        ("Postgres died", ended(20, "lost", during(Fault::Kill(Part::Postgres), none())), (0, 1, 0)),
        ("a lease that ran out", ended(600, "lease_expired", long), (0, 0, 0)),
        ("a kill while its drone was cut off", killed, (0, 1, 0)),
        ("one that was idle, and then its drone was cut off", said("idle"), (0, 0, 0)),
        ("one that was not, and then its drone was cut off", said("lease_expired"), (0, 1, 0)),
        ("a session that left as it was asked to", left, (0, 0, 0)),
        ("a session that was stopped as somebody asked", ended(20, "external", asked(Wish::Stop)), (0, 0, 0)),
        ("one that left as it was asked to, and then somebody stopped it", stopped_late, (0, 0, 0)),
        ("one that was asked to leave, and was stopped", ended(20, "external", asked(Wish::Exit)), (0, 1, 0)),
        ("a lease that did not", ended(600, "lease_expired", none()), (0, 1, 0)),
    ]
}

/// It left as it was asked to, and its engine may have forgotten the status.
fn statuses() -> Vec<Case> {
    let unwritten = |part, from| {
        let mut facts = facts(vec![session("a", 1, 10 * SECOND, 20 * SECOND)], "crashed", asked(Wish::Exit));
        (facts.sessions[0].beats.told_to_stop, facts.sessions[0].beats.left) = (0, 1);
        let fault = Fault::Kill(part);
        facts.seen.faults.push(Done { fault, from, to: from + SECOND });
        facts
    };
    let just_after = 20 * SECOND + SECOND / 10;
    vec![
        (
            "one whose engine was killed before it wrote the status",
            unwritten(Part::Engine(2), just_after),
            (0, 0, 0),
        ),
        ("one whose engine was killed later", unwritten(Part::Engine(2), 22 * SECOND), (0, 1, 0)),
        ("one whose agent was killed", unwritten(Part::Drone(2), just_after), (0, 1, 0)),
    ]
}

/// Leases that ran out, and what excuses it.
fn leases() -> Vec<Case> {
    let ended = |last, reason, seen| facts(vec![session("a", 1, 10 * SECOND, last * SECOND)], reason, seen);
    // A lease of 12 s holds for 10 s, and the stop signal comes a second earlier, here at second 59.
    let short = |fault, from: u64, to: u64| {
        let faults = vec![Done { fault, from: from * SECOND, to: to * SECOND }];
        let mut facts = ended(60, "lease_expired", Inner { faults, ..Inner::default() });
        facts.terms = LeaseTerms::of_length(Duration::from_secs(12)).unwrap_or_default();
        facts
    };
    // Its comparisons are held up, after commits were lost in this second or never.
    let uncompared = |lost: Option<u64>| {
        let mut facts = short(Fault::CompareTwice(2), 48, 72);
        facts.seen.lost_commits =
            lost.map(|at| LostCommits { from: (at - 1) * SECOND, to: at * SECOND }).into_iter().collect();
        facts
    };
    // Its agent is killed at second 48, and its engine is away from then until this second.
    let engineless = |agent, until: u64| {
        let mut facts = short(Fault::Kill(agent), 48, 51);
        let (fault, from) = (Fault::Kill(Part::Engine(2)), 50 * SECOND);
        facts.seen.faults.push(Done { fault, from, to: until * SECOND });
        facts.sessions[0].beats.last += SECOND;
        facts.sessions[0].beats.told_to_stop += SECOND;
        facts
    };
    vec![
        ("one of an agent that waits for its engine", engineless(Part::Drone(2), 60), (0, 0, 0)),
        ("one of an agent whose engine was back long before", engineless(Part::Drone(2), 51), (0, 1, 0)),
        ("one whose engine alone was away", engineless(Part::Drone(3), 60), (0, 1, 0)),
        ("a short one, while its drone was cut off", short(Fault::Cut(Host::Drone(2)), 48, 61), (0, 0, 0)),
        ("which was not for long enough", short(Fault::Cut(Host::Drone(2)), 57, 61), (0, 1, 0)),
        ("which was over too late for a renewal", short(Fault::Cut(Host::Drone(2)), 52, 57), (0, 0, 0)),
        ("which was over in time for one", short(Fault::Cut(Host::Drone(2)), 52, 55), (0, 1, 0)),
        ("which was over long before", short(Fault::Cut(Host::Drone(2)), 20, 40), (0, 1, 0)),
        ("a short one, while Postgres had vanished", short(Fault::Vanish, 51, 65), (0, 0, 0)),
        ("when renewals must have gone on again", short(Fault::Vanish, 30, 65), (0, 1, 0)),
        ("after a failover, before it was compared", uncompared(Some(48)), (0, 0, 0)),
        ("while comparisons took long, and nothing waited for them", uncompared(None), (0, 1, 0)),
        ("long after a failover", uncompared(Some(30)), (0, 1, 0)),
    ]
}

/// What Postgres says of them came after their end.
fn late_words() -> Vec<Case> {
    let ended = |last, reason, seen| facts(vec![session("a", 1, 10 * SECOND, last * SECOND)], reason, seen);
    let unwritten = |word: &str, seen| Facts {
        words: HashMap::from([("a".to_owned(), word.to_owned())]),
        ..ended(600, "refused", seen)
    };
    let outage = Done { fault: Fault::Kill(Part::Postgres), from: 0, to: 900 * SECOND };
    let outage = Inner { faults: vec![outage], ..Inner::default() };
    let none = Inner::default;
    let with_its_engine = |seen| ended(15, "external", during(Fault::Kill(Part::Engine(2)), seen));
    let late = Asked { backend: "a".to_owned(), wish: Wish::Stop, at: 21 * SECOND };
    let late = || Inner { asked: vec![late.clone()], ..Inner::default() };
    vec![
        ("a lease that ran out unwritten, in an outage", unwritten("lease_expired", outage), (0, 0, 0)),
        (
            "one that nobody had written down, although they could",
            unwritten("lease_expired", none()),
            (0, 1, 0),
        ),
        (
            "one that was idle before anybody had written down who had it",
            unwritten("idle", none()),
            (0, 0, 0),
        ),
        ("one that left unasked before anybody had", unwritten("exited", none()), (0, 1, 0)),
        ("one that was stopped unasked before anybody had", unwritten("external", none()), (0, 1, 0)),
        ("one that went with its engine, and then somebody stopped it", with_its_engine(late()), (0, 0, 0)),
        ("one that went with its engine, and nobody stopped it", with_its_engine(none()), (0, 1, 0)),
        ("one that somebody stopped after its end", ended(15, "external", late()), (0, 1, 0)),
    ]
}

type Case = (&'static str, Facts, (usize, usize, usize));

/// Each wrong is found, and what is right is not.
pub fn self_test() -> anyhow::Result<()> {
    let cases = [
        overlaps(),
        ends(),
        statuses(),
        leases(),
        late_words(),
        idle::cases(),
        ways::ways(),
        ways::answers(),
        ways::late_answers(),
        ways::rowless(),
        ways::urls(),
    ];
    let wrong = |(what, facts, expected): Case| {
        let findings = check(&facts);
        (counts(&findings) != expected).then(|| format!("the checker, asked of {what}, found {findings:?}"))
    };
    let wrong: Vec<_> = cases.into_iter().flatten().filter_map(wrong).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(counts_empty_files()?, "the checker does not count a process that wrote nothing");
    ensure!(forgotten::is_strict(), "a container with a program of its own passes for one never started");
    Ok(())
}
