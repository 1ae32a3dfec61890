//! Bodies of `POST /ctrl/connect` and `PUT /ctrl/pools/{name}`: a refusal is the sender's to mend and says how, and what is accepted
//! can be sent to a drone.

use jetway_api::connect::ConnectRequest;
use jetway_api::object::{self, Object};
use jetway_api::pools::PoolRequest;
use jetway_api::spawn::SpawnConfig;
use jetway_protocol::grant::{AUTH_BYTES_MAX, USER_BYTES_MAX};
use jetway_protocol::ids::ClusterName;
use jetway_protocol::spec::{BackendSpec, Executable};
use jetway_protocol::warm::{Kind, SlotTier};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::connect::validate::{Wanted, check, check_template};
use crate::error::{ApiError, ApiResult};
use crate::http::extract::parse_json;

/// Of a refusal's message, beside what it repeats of the body.
const MESSAGE_BYTES_MAX: usize = 2048;
/// A character of the body, as a message shows it: `\u{e000}` for three bytes, and once more in the path to it.
const SHOWN_BYTES_MAX: usize = 6;

pub fn connect(bytes: &[u8]) {
    let wanted = parsed::<ConnectRequest>(bytes).and_then(check);
    match wanted {
        Ok(wanted) => can_be_done(&wanted),
        Err(refusal) => says_what_to_do(&refusal, bytes),
    }
}

pub fn pool(bytes: &[u8]) {
    if let Err(refusal) = parsed::<PoolRequest>(bytes) {
        says_what_to_do(&refusal, bytes);
        return;
    }
    let default: ClusterName = "example.com".parse().expect("a cluster");
    let body: OnlySpawnConfig = parsed(bytes).unwrap_or_else(|error| panic!("{}", error.message()));
    match check_template(body.spawn_config, &default) {
        Ok(template) => is_the_same_at_the_drone(&template.spec),
        Err(refusal) => says_what_to_do(&refusal, bytes),
    }
}

#[derive(Deserialize)]
struct OnlySpawnConfig {
    #[serde(deserialize_with = "object::required")]
    spawn_config: SpawnConfig,
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    parse_json(bytes).map(|Object(body)| body)
}

fn says_what_to_do(refusal: &ApiError, body: &[u8]) {
    let (code, message) = (refusal.code(), refusal.message());
    assert!((400..500).contains(&code.http_status()), "{code:?}: {message}");
    assert!(!message.is_empty(), "{code:?} without a word");
    let most = MESSAGE_BYTES_MAX + SHOWN_BYTES_MAX * body.len();
    assert!(message.len() <= most, "{code:?} with a message of {} bytes", message.len());
}

fn can_be_done(wanted: &Wanted) {
    let Wanted { key, user, auth, allowed_origins, spawn, warm_pool, wait: _, host_form } = wanted;
    assert!(key.is_some() || spawn.is_some() || warm_pool.is_some(), "it names nothing");
    assert!(spawn.is_none() || warm_pool.is_none(), "it names two things to start");
    if let Some(key) = key {
        assert_eq!(key.check(), Ok(()));
    }
    // Both become headers as they are.
    let is_printed = |byte: u8| (b' '..127).contains(&byte);
    assert!(auth.len() <= AUTH_BYTES_MAX && auth.bytes().all(is_printed), "{auth}");
    assert!(serde_json::from_str::<Object<serde_json::Value>>(auth).is_ok(), "{auth}");
    if let Some(user) = user {
        let is_trimmed = user.trim() == user && !user.is_empty();
        assert!(
            is_trimmed && user.len() <= USER_BYTES_MAX && !user.chars().any(char::is_control),
            "{user:?}"
        );
    }
    let is_lower = |origin: &String| !origin.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' ');
    assert!(allowed_origins.iter().all(is_lower), "{allowed_origins:?}");
    if let Some(host_form) = host_form {
        assert!(host_form.hosts.len() <= 8, "{host_form:?}");
        let return_url = host_form.return_url.as_ref().map_or("https://", |url| url.as_str());
        // A `Location` has it as it is.
        assert!(return_url.bytes().all(|byte| byte.is_ascii_graphic()), "{return_url}");
        assert!(return_url.starts_with("https://") || return_url.starts_with("http://"), "{return_url}");
    }
    if let Some(spawn) = spawn {
        is_the_same_at_the_drone(&spawn.spec);
    }
}

fn is_the_same_at_the_drone(spec: &BackendSpec) {
    let text = serde_json::to_string(spec).expect("a spec always is JSON");
    let read: BackendSpec = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(&read, spec, "{text}");
    for tier in [SlotTier::Hot, SlotTier::Parked] {
        assert_eq!(Kind::of(tier, &read.executable), Kind::of(tier, &spec.executable), "{text}");
    }
    is_contained(&spec.executable);
}

/// Nothing on the host is reached but what lies below a drone's base, and nothing of ours in the container is hidden.
fn is_contained(executable: &Executable) {
    let leads_up = |path: &str| path.split('/').any(|part| part == ".." || part.contains('\0'));
    if let Some(mount) = &executable.mount {
        assert!(!mount.starts_with('/') && !mount.is_empty() && !leads_up(mount), "{mount:?}");
    }
    for path in executable.tmpfs.keys().chain(&executable.working_dir) {
        assert!(path.starts_with('/') && !leads_up(path), "{path:?}");
    }
    for path in executable.tmpfs.keys() {
        assert!(!path.starts_with("/.jetway") && !path.contains([':', ',']), "{path:?}");
    }
    if let Some(network) = &executable.network_name {
        assert!(network != "host" && network != "none" && !network.contains(':'), "{network:?}");
    }
    let texts = executable.env.iter().flat_map(|(name, value)| [name, value]);
    let mut texts =
        texts.chain(executable.cmd.iter().flatten()).chain(executable.entrypoint.iter().flatten());
    assert!(!texts.any(|text| text.contains('\0')), "the kernel takes no U+0000");
    assert!(executable.port > 0 && executable.ports.values().all(|port| port.port > 0), "a port is 0");
    assert!((0.0..=4096.0).contains(&executable.cpu_reserve), "{}", executable.cpu_reserve);
}
