//! One run, from the first namespace to the summary. What is left at its end is swept away by `main.rs`.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jetway_protocol::lease::LeaseTerms;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::check::{Facts, Findings, Session, check, closest, describe, was_hit};
use crate::client::Client;
use crate::driver::Driver;
use crate::harness::processes::executable;
use crate::parts::Parts;
use crate::places::{DRONES, PROXIES, Part, root};
use crate::relay::Relay;
use crate::schedule::{by_kind, schedule};
use crate::seen::{Seen, now};
use crate::settings::Settings;
use crate::shore::Shore;
use crate::stalls::Stalls;
use crate::ways::without_excuse;
use crate::{engine, impostors, left, network, parts, pools, postgres, records};

const READY: Duration = Duration::from_secs(60);
/// Clients that were told to stop are in the middle of a deadline at most.
const LEAVE: Duration = Duration::from_secs(5);
/// One session in so many, at least, begins with something that was kept ready.
const WARM_ONE_IN: usize = 3;

/// Everything that was started.
struct Stage {
    parts: Arc<Parts>,
    driver: Arc<Driver>,
    shore: Arc<Shore>,
    _containerds: Vec<Child>,
}

/// True if nothing was found.
pub async fn run(settings: &Settings) -> anyhow::Result<bool> {
    println!(
        "chaos: seed={} for {:.1} minutes, {} clients over {} keys, a lease of {:?}",
        settings.seed,
        settings.run.as_secs_f64() / 60.0,
        settings.clients,
        settings.keys,
        settings.lease
    );
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hung_up = signal(SignalKind::hangup())?;
    tokio::select! {
        outcome = whole_run(settings) => outcome,
        _ = interrupted.recv() => anyhow::bail!("interrupted"),
        _ = terminated.recv() => anyhow::bail!("told to stop"),
        _ = hung_up.recv() => anyhow::bail!("its terminal is gone"),
    }
}

async fn whole_run(settings: &Settings) -> anyhow::Result<bool> {
    let (begun, stalls) = (Instant::now(), Stalls::measure());
    let stage = set_up(settings).await.context("set-up")?;
    println!("set up in {:.1} s; {}", begun.elapsed().as_secs_f64(), memory());
    println!("{}", versions());
    let mut found = act(settings, &stage).await?;
    let seen = &stage.shore.seen;
    seen.say("the faults are over");
    if let Err(error) = left::whole(&stage.shore).await {
        found.hung.push(format!("hung: {error:#}"));
    }
    found.hung.extend(left::visit_all(&stage.shore).await);
    plant(&stage).await?;
    let mut remains = left::idle(&stage.shore).await;
    remains.extend(left::kept(&stage.shore).await);
    let (http, controller, sessions) =
        (&stage.shore.http, Part::Controller(1).address(), records::sessions()?);
    let mut rows = records::rows(http, &controller).await?;
    records::tiers(http, &controller, &sessions, &mut rows).await?;
    let facts = Facts {
        start: seen.start,
        terms: LeaseTerms::of_length(settings.lease)?,
        sessions,
        rows,
        words: records::words()?,
        seen: seen.note().clone(),
    };
    remains.extend(left::stopped(&stage.parts, &facts.seen.faults).await?);
    let checked = check(&facts);
    found.overlaps.extend(checked.overlaps);
    found.lost.extend(checked.lost);
    found.lost.extend(left::panics());
    found.hung.extend(checked.hung);
    std::fs::write(root().join("logs").join("sessions.txt"), list(&facts))?;
    std::fs::write(
        root().join("logs").join("seen.txt"),
        format!("start {}\n{:#?}\n", facts.start, facts.seen),
    )?;
    println!("between drones and controllers: {:?}", stage.driver.relay.treated());
    for seen in impostors::caught(&facts)? {
        println!("what was planted was seen: {seen}");
    }
    println!("{}", stalls.said());
    Ok(report(settings, &facts, &found, &remains, begun))
}

async fn set_up(settings: &Settings) -> anyhow::Result<Stage> {
    parts::directories()?;
    network::make()?;
    let parts = Arc::new(Parts::new(uuid::Uuid::new_v4().simple().to_string(), settings.lease));
    let mut containerds = Vec::new();
    for number in 1..=DRONES {
        containerds.push(engine::make(number).await?);
        parts.start(Part::Engine(number))?;
    }
    postgres::make()?;
    parts.start(Part::Postgres)?;
    let mut images = Default::default();
    for number in 1..=DRONES {
        parts.ready(Part::Engine(number), READY).await?;
        images = engine::images(number).await?;
    }
    for part in Part::all() {
        if !matches!(part, Part::Postgres | Part::Engine(_)) {
            parts.ready(Part::Postgres, READY).await?;
            parts.start(part)?;
        }
    }
    let http = reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(4))
        .pool_idle_timeout(Duration::from_secs(2))
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let shore = Arc::new(Shore { seen: Seen::new(), http, images, keys: settings.keys });
    let relay = Relay::start(settings.seed).await?;
    let driver = Arc::new(Driver::new(parts.clone(), relay, shore.clone()));
    left::whole(&shore).await?;
    pools::declare(&shore).await?;
    Ok(Stage { parts, driver, shore, _containerds: containerds })
}

/// Clients and faults, until the schedule is over.
async fn act(settings: &Settings, stage: &Stage) -> anyhow::Result<Findings> {
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for number in 1..=settings.clients {
        clients.spawn(Client::new(number, settings.seed, stage.shore.clone()).live(stopped.clone()));
    }
    let mut supervisor = JoinSet::new();
    supervisor.spawn(stage.driver.clone().supervise(stopped.clone()));
    let plan = schedule(settings.seed, settings.run, settings.lease);
    stage.driver.drive(&plan).await?;
    // Long enough for whoever left by itself to be started again.
    let mut findings = Findings::default();
    if let Err(error) = left::whole(&stage.shore).await {
        findings.hung.push(format!("hung: {error:#}"));
    }
    stop.send_replace(true);
    supervisor.join_all().await;
    let left = tokio::time::timeout(LEAVE, clients.join_all()).await;
    left.context("a client does not leave").map(|_| findings)
}

/// A second process for a key whose session lives.
async fn plant(stage: &Stage) -> anyhow::Result<()> {
    let held = stage.shore.connect(Part::Controller(1), "key-1", true).await;
    held.context("a session for the planted process to stand beside")?;
    impostors::second_process("key-1")?;
    impostors::second_session(&stage.shore.http).await
}

fn report(settings: &Settings, facts: &Facts, found: &Findings, left: &[String], begun: Instant) -> bool {
    let seen = &facts.seen;
    for line in found.overlaps.iter().chain(&found.lost).chain(&found.hung).chain(left) {
        println!("FOUND {line}");
    }
    let counts = by_kind(seen.faults.iter().map(|done| done.fault));
    for (kind, count) in &counts {
        println!("  {count:4} {kind}");
    }
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for session in &facts.sessions {
        *ends
            .entry(facts.rows.get(&session.beats.backend).map_or("-", |row| &row.end_reason))
            .or_default() += 1;
    }
    println!("  sessions by end: {ends:?}");
    println!("  sessions by tier: {:?}", tiers(facts));
    let mut hits: BTreeMap<&str, usize> = BTreeMap::new();
    for hit in &seen.hit {
        *hits.entry(hit.how).or_default() += 1;
    }
    let given = facts.sessions.iter().filter(|session| was_hit(facts, session)).count();
    println!(
        "  containers hit while they waited: {hits:?}; of those, {given} were given to a session all the same"
    );
    println!("  answers: {:?}", seen.answers);
    println!(
        "  {} WebSockets, {} echoes; under faults, {} WebSockets dropped, {} requests were given up, {} told to come back",
        seen.entered,
        seen.echoes,
        seen.dropped.len(),
        seen.hung.len(),
        seen.turned_away.len()
    );
    if let Some(shortest) = closest(facts) {
        println!("  from one process of a key to the next: {} ms at least", shortest / 1_000_000);
    }
    let until = seen.faults.iter().filter(|done| done.to < u64::MAX).map(|done| done.to).max().unwrap_or(0);
    for proxy in 1..=PROXIES {
        let parts: Vec<_> = (1..=DRONES)
            .map(|drone| format!("{:.0} % to d{drone}", without_excuse(facts, until, proxy, drone) * 100.0))
            .collect();
        println!(
            "  a WebSocket through proxy{proxy} had no excuse to drop for {} of the time",
            parts.join(", ")
        );
    }
    println!("  {:.0} s in all, with set-up and take-down", begun.elapsed().as_secs_f64());
    println!(
        "chaos: seed={} faults={} sessions={} overlaps={} lost={} hung={} left={}",
        settings.seed,
        seen.faults.len(),
        facts.sessions.len(),
        found.overlaps.len(),
        found.lost.len(),
        found.hung.len(),
        left.len()
    );
    let is_much = is_much(facts);
    if !is_much {
        println!("chaos: too few sessions were given what was kept ready: this run shows nothing");
    }
    let nothing_found =
        found.overlaps.is_empty() && found.lost.is_empty() && found.hung.is_empty() && left.is_empty();
    nothing_found && is_much
}

/// How many sessions each tier has served.
fn tiers(facts: &Facts) -> BTreeMap<&str, usize> {
    let mut tiers = BTreeMap::new();
    for session in &facts.sessions {
        *tiers
            .entry(facts.rows.get(&session.beats.backend).map_or("unknown", |row| &row.tier))
            .or_default() += 1;
    }
    tiers
}

/// Whether claims were at work at all: some of each kind, and in a good part of all starts.
fn is_much(facts: &Facts) -> bool {
    let tiers = tiers(facts);
    let of = |tier| tiers.get(tier).copied().unwrap_or(0);
    let (hot, parked, sandbox) = (of("hot"), of("parked"), of("sandbox"));
    hot.min(parked).min(sandbox) > 0 && (hot + parked + sandbox) * WARM_ONE_IN >= facts.sessions.len()
}

/// Every session, by its beginning.
fn list(facts: &Facts) -> String {
    let mut sessions: Vec<_> = facts.sessions.iter().collect();
    sessions.sort_by_key(|session| session.beats.first);
    let line = |session: &&Session| {
        let reason = facts.rows.get(&session.beats.backend).map_or("no row", |row| row.end_reason.as_str());
        format!("{}: {reason}\n", describe(facts, session))
    };
    sessions.iter().map(line).collect()
}

/// Of what is under test, and of what it stands on.
fn versions() -> String {
    let first = |program: &str, argument: &str| {
        let said = network::run(program, &[argument]).unwrap_or_default();
        said.lines().next().unwrap_or_default().to_owned()
    };
    let jetway = executable("jetway").map(|path| first(&path.display().to_string(), "--version"));
    let parts = [
        jetway.unwrap_or_default(),
        first("dockerd", "--version"),
        first("containerd", "--version"),
        postgres::version(),
    ];
    format!("{}; Linux {}", parts.join("; "), first("uname", "-r"))
}

/// Resident memory of all that stands on the hosts.
fn memory() -> String {
    let mut kilobytes = 0;
    for namespace in network::namespaces() {
        for pid in network::processes_in(&namespace) {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
            kilobytes +=
                line.trim().split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    format!("{} MiB resident on the hosts", kilobytes / 1024)
}

/// After a run that found something: the parts' logs and the sessions' files, where the settings want them.
pub fn keep_logs(settings: &Settings, outcome: &anyhow::Result<bool>) {
    let Some(directory) = settings.keep_logs.as_ref().filter(|_| !matches!(outcome, Ok(true))) else {
        return;
    };
    let to = directory.join(format!("chaos-{}-{}", settings.seed, now() / 1_000_000_000));
    let copied = std::fs::create_dir_all(&to).map_err(anyhow::Error::from).and_then(|()| {
        let (from, to) = (crate::places::root().join("logs"), to.display().to_string());
        network::run("cp", &["-r", &from.display().to_string(), &to])
    });
    match copied {
        Ok(_) => println!("the parts' logs are in {}", to.display()),
        Err(error) => eprintln!("the parts' logs could not be kept: {error:#}"),
    }
}
