//! Proof that the checker sees what it is there for: planted records, one of each wrong, a planted second process beside
//! a real session, and a planted application that is told of two sessions.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use jetway_protocol::lease::LeaseTerms;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::beats::Beats;
use crate::check::{Facts, Findings, Row, Session, check};
use crate::forgotten;
use crate::harness::eventually;
use crate::harness::processes::executable;
use crate::places::{Host, Part, root};
use crate::records::sessions_in;
use crate::schedule::Fault;
use crate::seen::{Asked, Done, Dropped, Hit, Hung, Inner, Refused, SECOND, TurnedAway, Unclean, Wish};

/// Of the planted hot application, on the router.
const HOT_PORT: u16 = 8081;
const TAKEN: Duration = Duration::from_secs(20);

/// Told to stop a second before it ended.
fn session(backend: &str, fence: u64, first: u64, last: u64) -> Session {
    let (key, backend) = ("planted".to_owned(), backend.to_owned());
    let beats = Beats {
        fence,
        first,
        last,
        count: 1,
        gap_max: 0,
        told_to_stop: last - SECOND,
        left: 0,
        key,
        backend,
    };
    Session { drone: 2, container: format!("of {}", beats.backend), beats }
}

fn facts(sessions: Vec<Session>, reason: &str, seen: Inner) -> Facts {
    let row = |session: &Session| {
        let (status, tier) = ("terminated".to_owned(), "cold".to_owned());
        let row = Row { status, end_reason: reason.to_owned(), drone: Some(2), tier };
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
    let hung = Hung { what, to, backend: None, bound, from: from * SECOND, at: 25 * SECOND };
    Inner { hung: vec![hung], ..Inner::default() }
}

fn asked(wish: Wish) -> Inner {
    let asked = vec![Asked { backend: "a".to_owned(), wish, at: 15 * SECOND }];
    Inner { asked, ..Inner::default() }
}

fn refused(unconfirmed: bool) -> Inner {
    let (what, backend, from) = ("did not start".to_owned(), "a".to_owned(), 12 * SECOND);
    let refused = Refused { what, by: Part::Controller(1), unconfirmed, backend, from, at: 15 * SECOND };
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
    let mut within_a_beat = with(&[("b", 2, 20, 22)]);
    within_a_beat.sessions[1].beats.first += SECOND / 200;
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
        ("an overlap", with(&[("b", 2, 20, 22)]), (1, 0, 0)),
        ("the next one within a heartbeat", within_a_beat, (1, 0, 0)),
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
    let mut rowless = ended(20, "idle", none());
    rowless.rows.clear();
    vec![
        ("an idle session", ended(20, "idle", none()), (0, 0, 0)),
        ("a session without a row", rowless, (0, 1, 0)),
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

fn ways() -> Vec<Case> {
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
fn answers() -> Vec<Case> {
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

type Case = (&'static str, Facts, (usize, usize, usize));

/// Each wrong is found, and what is right is not.
pub fn self_test() -> anyhow::Result<()> {
    for (what, facts, expected) in
        overlaps().into_iter().chain(ends()).chain(late_words()).chain(ways()).chain(answers())
    {
        let findings = check(&facts);
        ensure!(counts(&findings) == expected, "the checker, asked of {what}, found {findings:?}");
    }
    ensure!(
        forgotten::is_strict(),
        "a container with a program of its own passes for one that was never started"
    );
    Ok(())
}

/// A second process for the key of a session that lives now: the checker must see that one overlap, and no other.
pub fn second_process(key: &str) -> anyhow::Result<()> {
    let directory = root().join("planted");
    std::fs::create_dir_all(&directory)?;
    let status = Command::new(executable("jetway-chaos-app")?)
        .env("BEATS", &directory)
        .env("RUN_MS", "200")
        .env("SESSION_BACKEND_KEY", key)
        .env("SESSION_BACKEND_ID", "planted")
        .env("SESSION_BACKEND_FENCING_TOKEN", u64::MAX.to_string())
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "the planted process: {status}");
    Ok(())
}

/// A hot application that is told of two sessions: the checker must see that its container was given twice.
pub async fn second_session(http: &reqwest::Client) -> anyhow::Result<()> {
    let directory = root().join("planted-hot");
    std::fs::create_dir_all(&directory)?;
    let mut process = Command::new(executable("jetway-chaos-app")?)
        .env("BEATS", &directory)
        .env("PORT", HOT_PORT.to_string())
        .stdin(Stdio::null())
        .spawn()?;
    for (fence, key) in [(1_u64, "one"), (2, "two")] {
        let told = json!({
            "backend_id": format!("planted-{key}"), "fencing_token": fence,
            "key": { "name": format!("planted-{key}"), "namespace": "", "tag": "" }, "env": {},
        });
        let url = format!("http://127.0.0.1:{HOT_PORT}/claim");
        let tell = async || http.post(&url).json(&told).send().await?.error_for_status().map(drop);
        eventually("the planted application takes a session", TAKEN, tell).await?;
    }
    kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
    let status = process.wait()?;
    ensure!(status.success(), "the planted hot application: {status}");
    Ok(())
}

/// What the checker sees of all that was planted, and does not see without.
pub fn caught(facts: &Facts) -> anyhow::Result<[String; 2]> {
    let planted = sessions_in(&root().join("planted"), 3)?;
    ensure!(planted.len() == 1, "there is one planted process, not {}", planted.len());
    let hot = sessions_in(&root().join("planted-hot"), 3)?;
    ensure!(hot.len() == 2, "a planted process has two sessions, not {}", hot.len());
    let without = check(facts).overlaps;
    let mut sessions = facts.sessions.clone();
    sessions.extend(planted);
    sessions.extend(hot);
    let with = check(&Facts {
        start: facts.start,
        terms: facts.terms,
        sessions,
        rows: facts.rows.clone(),
        words: facts.words.clone(),
        seen: facts.seen.clone(),
    });
    let seen = |what: &str| {
        let is =
            |line: &&String| line.starts_with(what) && line.contains(" planted") && !without.contains(line);
        with.overlaps.iter().find(is).cloned()
    };
    Ok([
        seen("overlap:").context("the checker did not see the planted second process")?,
        seen("shared:").context("the checker did not see the planted second session of one process")?,
    ])
}
