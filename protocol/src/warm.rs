//! Slots that are kept ready: what one can serve, how many a drone is to keep, and what drones say of them.
//!
//! A slot serves any backend whose executable has the same hash: the hash of all that cannot change once the container was
//! made. What is bound late (the environment, the ports, limits of time, who may enter) is not in it. A hot slot runs the
//! application already, so its hash holds more.
//!
//! Which slots are wanted is a controller's to say, in [`WarmTargets`]; making, giving and discarding them is the drone's. No
//! slot is a row in Postgres.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{BackendId, FencingToken, WarmHash};
use crate::key::Key;
use crate::spec::{Credentials, Executable, PullPolicy};

/// Where a start's container came from, fastest first. The name is the note of the timeline's stage `claimed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The application ran already, and was told of its session.
    Hot,
    /// The container ran already, with init waiting in it; the application was executed.
    Parked,
    /// The container was made in a network namespace that was there already.
    Sandbox,
    /// Everything was made.
    Cold,
}

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Hot => "hot",
            Tier::Parked => "parked",
            Tier::Sandbox => "sandbox",
            Tier::Cold => "cold",
        }
    }
}

/// The tiers that slots are kept for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SlotTier {
    Hot,
    #[default]
    Parked,
}

/// Slots of one kind are exchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = SlotKind))]
pub struct Kind {
    pub tier: SlotTier,
    pub hash: WarmHash,
}

/// Why no slot can be made before its session is known. The sentence goes into the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAhead {
    #[error("a mount depends on the key")]
    Mount,
    #[error("it is on a network of its own")]
    Network,
    #[error("its image is looked up at every start")]
    AlwaysPulled,
    #[error("init becomes the application")]
    InitExec,
    #[error("the application does not take its session late")]
    NotHot,
}

impl Kind {
    /// What a slot must be to serve this executable in this tier.
    pub fn of(tier: SlotTier, executable: &Executable) -> Result<Self, NotAhead> {
        use crate::spec::InitMode;
        if executable.mount.is_some() {
            return Err(NotAhead::Mount);
        }
        if executable.network_name.is_some() {
            return Err(NotAhead::Network);
        }
        if executable.pull_policy == PullPolicy::Always {
            return Err(NotAhead::AlwaysPulled);
        }
        if tier == SlotTier::Hot && executable.hot.is_none() {
            return Err(NotAhead::NotHot);
        }
        if tier == SlotTier::Hot && executable.init == InitMode::Exec {
            return Err(NotAhead::InitExec);
        }
        Ok(Self { tier, hash: hash(&fixed(tier, executable)) })
    }
}

/// Only what cannot change after the slot was made is left; everything else is as if nobody had said anything.
fn fixed(tier: SlotTier, executable: &Executable) -> Executable {
    let bare = Executable::of_image(&executable.image);
    let mut fixed = Executable {
        // Whoever may use the image that is present may use a slot of it; the login is for pulling alone.
        credentials: None,
        pull_policy: bare.pull_policy,
        env: bare.env,
        port: bare.port,
        // Proxies alone ask about these.
        protocol: bare.protocol,
        ports: bare.ports,
        ready_http_path: None,
        init: bare.init,
        hot: None,
        cpu_reserve: bare.cpu_reserve,
        memory_reserve_bytes: bare.memory_reserve_bytes,
        ..executable.clone()
    };
    if tier == SlotTier::Hot {
        fixed.port = executable.port;
        fixed.ready_http_path.clone_from(&executable.ready_http_path);
        fixed.hot.clone_from(&executable.hot);
        // With a claim request the application is told of its environment; without one it has what it was started with.
        if executable.hot.as_ref().is_none_or(|hot| hot.claim_path.is_none()) {
            fixed.env.clone_from(&executable.env);
        }
    }
    fixed
}

/// Of the canonical JSON: fields in their order, maps sorted.
fn hash(executable: &Executable) -> WarmHash {
    // Strings, numbers and sorted maps always are JSON.
    let text = serde_json::to_vec(executable).unwrap_or_default();
    let digest = Sha256::digest(&text);
    let hex = data_encoding::HEXLOWER.encode(&digest[..16]);
    WarmHash::try_from(hex).unwrap_or_else(|_| unreachable!("32 digits"))
}

/// What a hot application is told of its session, as the body of the claim request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimRequest {
    pub backend_id: BackendId,
    pub fencing_token: FencingToken,
    pub key: Option<Key>,
    #[serde(default)]
    pub static_token: Option<String>,
    /// The environment that a cold start would have had.
    pub env: BTreeMap<String, String>,
}

/// All that one drone is to keep ready.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WarmTargets {
    pub targets: Vec<WarmTarget>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WarmTarget {
    pub tier: SlotTier,
    /// What to make a slot from: its kind follows from it. Its environment counts for hot slots alone.
    pub executable: Executable,
    /// Slots ready or in the making.
    pub slots: u32,
    /// An operator has declared them: they come before learned ones where there is not room for all.
    #[serde(default)]
    pub declared: bool,
    /// For a hot slot: from its start until it listens.
    #[serde(default = "start_timeout_seconds")]
    pub start_timeout_seconds: u32,
}

fn start_timeout_seconds() -> u32 {
    crate::spec::START_TIMEOUT_SECONDS
}

impl WarmTargets {
    /// Equal targets have equal fingerprints, whatever their order. A login counts by its user alone: the text is shown.
    pub fn fingerprint(&self) -> String {
        let mut lines: Vec<Vec<u8>> = self.targets.iter().map(line).collect();
        lines.sort();
        let mut digest = Sha256::new();
        for line in lines {
            digest.update(&line);
            digest.update(b"\n");
        }
        data_encoding::HEXLOWER.encode(&digest.finalize()[..8])
    }
}

fn line(target: &WarmTarget) -> Vec<u8> {
    let mut shown = target.clone();
    if let Some(login) = &mut shown.executable.credentials {
        *login = Credentials { username: login.username.clone(), password: String::new() };
    }
    serde_json::to_vec(&shown).unwrap_or_default()
}

/// What a drone keeps ready, as its heartbeats say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WarmLoad {
    /// [`WarmTargets::fingerprint`] of what it was last told. Empty: nothing yet, in this agent's life.
    #[serde(default)]
    pub targets: String,
    /// The agent process whose counters these are: they begin anew with each.
    #[serde(default)]
    pub agent: Option<uuid::Uuid>,
    /// Kinds that are targets, and those that were asked for lately; at most [`KINDS_MAX`].
    #[serde(default)]
    pub kinds: Vec<KindLoad>,
    /// Network namespaces that wait for a container.
    #[serde(default)]
    pub sandboxes_ready: u32,
}

/// Kinds in one heartbeat: those with targets first, then the most recently asked for.
pub const KINDS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KindLoad {
    pub kind: Kind,
    /// As the drone was told.
    pub target: u32,
    pub ready: u32,
    pub making: u32,
    /// Starts that this kind could have served, since the agent's start: every start counts for its parked kind, and one of an
    /// executable that says `hot` for its hot kind too.
    pub asked: u64,
    /// Of those, how many it has served.
    pub claimed: u64,
    /// Milliseconds to make a slot of this kind, lately; 0: none was made yet.
    pub make_ms: u32,
    /// Slot-milliseconds in which slots were ready and unused, since the agent's start: what being ready costs.
    pub unused_ms: u64,
    /// From a claim to the next slot's being ready in its place, lately.
    #[serde(default)]
    pub replenish_ms: u32,
    /// Why the last slot could not be made; empty once one could.
    #[serde(default)]
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Hot, InitMode, Port, Protocol};

    type Change = fn(&mut Executable);

    fn kinds(change: Change) -> [Result<Kind, NotAhead>; 2] {
        let mut executable = Executable::of_image("app");
        executable.hot = Some(Hot { claim_path: None, claim_timeout_seconds: 5 });
        change(&mut executable);
        [SlotTier::Parked, SlotTier::Hot].map(|tier| Kind::of(tier, &executable))
    }

    #[test]
    fn what_is_bound_late_is_not_in_the_hash_and_all_else_is() {
        let plain = kinds(|_| {});
        // The change; whether parked slots, and hot ones, still serve it.
        let table: [(&str, Change, [bool; 2]); 16] = [
            ("env", |e| drop(e.env.insert("A".into(), "b".into())), [true, false]),
            ("port", |e| e.port = 1, [true, false]),
            ("protocol", |e| e.protocol = Protocol::H2c, [true, true]),
            (
                "ports",
                |e| {
                    e.ports.insert("d".parse().unwrap(), Port { port: 1, protocol: Protocol::Http1 });
                },
                [true, true],
            ),
            ("ready", |e| e.ready_http_path = Some("/r".into()), [true, false]),
            (
                "credentials",
                |e| e.credentials = Some(Credentials { username: "u".into(), password: "p".into() }),
                [true, true],
            ),
            ("reserves", |e| (e.cpu_reserve, e.memory_reserve_bytes) = (1.0, 1), [true, true]),
            ("policy", |e| e.pull_policy = PullPolicy::Never, [true, true]),
            ("image", |e| e.image = "other".into(), [false, false]),
            ("user", |e| e.user = Some("1".into()), [false, false]),
            ("cmd", |e| e.cmd = Some(vec!["x".into()]), [false, false]),
            ("directory", |e| e.working_dir = Some("/".into()), [false, false]),
            ("limits", |e| e.resource_limits.memory_limit_bytes = Some(1), [false, false]),
            ("tmpfs", |e| drop(e.tmpfs.insert("/t".into(), String::new())), [false, false]),
            ("read-only", |e| e.read_only = true, [false, false]),
            (
                "claim",
                |e| e.hot = Some(Hot { claim_path: Some("/c".into()), claim_timeout_seconds: 5 }),
                [true, false],
            ),
        ];
        for (what, change, serves) in table {
            let changed = kinds(change);
            assert_eq!([changed[0] == plain[0], changed[1] == plain[1]], serves, "{what}");
        }
    }

    #[test]
    fn with_a_claim_request_the_environment_comes_late() {
        let with = |value: &str| {
            let mut executable = Executable::of_image("app");
            executable.hot = Some(Hot { claim_path: Some("/claim".into()), claim_timeout_seconds: 5 });
            executable.env.insert("A".into(), value.into());
            Kind::of(SlotTier::Hot, &executable)
        };
        assert_eq!(with("one"), with("two"));
    }

    #[test]
    fn what_depends_on_the_key_or_the_moment_has_no_slots() {
        let refused = |change: Change| kinds(change).map(Result::unwrap_err);
        assert_eq!(refused(|e| e.mount = Some("x".into())), [NotAhead::Mount; 2]);
        assert_eq!(refused(|e| e.network_name = Some("x".into())), [NotAhead::Network; 2]);
        assert_eq!(refused(|e| e.pull_policy = PullPolicy::Always), [NotAhead::AlwaysPulled; 2]);
        assert_eq!(kinds(|e| e.hot = None)[1], Err(NotAhead::NotHot));
        assert_eq!(kinds(|e| e.init = InitMode::Exec)[1], Err(NotAhead::InitExec));
        assert!(kinds(|e| e.init = InitMode::Exec)[0].is_ok());
    }

    #[test]
    fn equal_targets_have_equal_fingerprints_in_any_order() {
        let target = |image: &str, slots| {
            let (tier, executable) = (SlotTier::Parked, Executable::of_image(image));
            WarmTarget { tier, executable, slots, declared: false, start_timeout_seconds: 60 }
        };
        let (one, two) = (target("one", 1), target("two", 2));
        let print = |targets: &[&WarmTarget]| {
            WarmTargets { targets: targets.iter().map(|target| (*target).clone()).collect() }.fingerprint()
        };
        assert_eq!(print(&[&one, &two]), print(&[&two, &one]));
        assert_ne!(print(&[&one]), print(&[&target("one", 2)]));
        assert_ne!(print(&[]), print(&[&one]));
    }
}
