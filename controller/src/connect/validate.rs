//! From the wire's request to one in which everything is as it must be, or a 4xx that names the field. Pure: it looks
//! at nothing but the request and the default cluster. What `spawn_config` may hold is checked by its own type.

use std::time::Duration;

use jetway_api::connect::{ConnectRequest, KeyRequest};
use jetway_api::refusal::number;
pub use jetway_api::spawn::Spawn;
use jetway_api::spawn::{STOP_AND_EXEC, SpawnConfig};
use jetway_protocol::error::Code;
use jetway_protocol::grant::{AUTH_BYTES_MAX, USER_BYTES_MAX};
use jetway_protocol::ids::{ClusterName, WarmPoolName};
use jetway_protocol::key::Key;
use jetway_protocol::spec::{InitMode, OnIsolation};

use super::form::{self, HostForm};
use super::origins;
use crate::error::{ApiError, ApiResult, shown};
use crate::warm::pool::Template;

const WAIT_SECONDS: i64 = 30;
const WAIT_SECONDS_MAX: i64 = 300;

/// A connect in which every value has been checked.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub key: Option<Key>,
    pub user: Option<String>,
    /// A JSON object as ASCII text.
    pub auth: String,
    /// In lower case, as browsers write them. Empty: every page.
    pub allowed_origins: Vec<String>,
    pub spawn: Option<Spawn>,
    /// The declared pool that says what to start, in a `spawn`'s place.
    pub warm_pool: Option<WarmPoolName>,
    /// How long to wait for `ready`, where the caller asked to.
    pub wait: Option<Duration>,
    /// `None`: the path form.
    pub host_form: Option<HostForm>,
}

impl Wanted {
    /// For the log.
    pub fn key_name(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.name.as_str())
    }
}

pub fn check(request: ConnectRequest) -> ApiResult<Wanted> {
    let warm_pool = request.warm_pool.as_deref().map(check_pool_name).transpose()?;
    if warm_pool.is_some() && request.spawn_config.is_some() {
        return Err(ApiError::invalid("spawn_config and warm_pool both say what to start: give one of them"));
    }
    let key = request.key.map(check_key).transpose()?;
    let wait = wait(request.wait.is_some(), request.wait_timeout_seconds)?;
    let user = request.user.filter(|user| !user.is_empty());
    if let Some(user) = &user {
        check_user(user)?;
    }
    let auth = ascii_json(&request.auth)?;
    let allowed_origins = origins::check(request.allowed_origins)?;
    let spawn = request.spawn_config.map(|config| config.check(key.as_ref())).transpose()?;
    let return_url = request.return_url.as_deref();
    let host_form = form::check(request.url_form, return_url, &request.hosts, &allowed_origins)?;
    if let (Some(_), Some(spawn)) = (&host_form, &spawn) {
        form::check_spec(&spawn.spec)?;
    }
    let wanted = Wanted { key, user, auth, allowed_origins, spawn, warm_pool, wait, host_form };
    if wanted.spawn.as_ref().is_some_and(|spawn| spawn.spec.use_static_token) {
        check_static(&wanted)?;
    }
    if wanted.key.is_none() && wanted.spawn.is_none() && wanted.warm_pool.is_none() {
        return Err(ApiError::invalid(
            "the request names neither a key nor a spawn_config nor a warm_pool: give one of them",
        ));
    }
    Ok(wanted)
}

pub fn check_pool_name(name: &str) -> ApiResult<WarmPoolName> {
    name.parse().map_err(|error| ApiError::invalid(format!("warm_pool: {}: {error}", shown(name))))
}

/// What a declared pool's backends are started from. What belongs to one backend has no place in it.
pub fn check_template(mut config: SpawnConfig, default: &ClusterName) -> ApiResult<Template> {
    for (field, is_there) in [
        ("id", config.id.is_some()),
        ("subdomain", config.subdomain.is_some()),
        ("use_static_token", config.use_static_token),
    ] {
        if is_there {
            return Err(ApiError::invalid(format!(
                "spawn_config.{field} belongs to one backend, and a pool serves many: leave it out"
            )));
        }
    }
    let on_isolation = config.on_isolation.take();
    let Spawn { cluster, pool, spec, .. } = config.check(None)?;
    if on_isolation == Some(OnIsolation::Stop) && spec.executable.init == InitMode::Exec {
        return Err(ApiError::invalid(STOP_AND_EXEC));
    }
    Ok(Template { cluster: cluster.unwrap_or_else(|| default.clone()), pool, spec, on_isolation })
}

/// A static token serves every caller alike, so it cannot say who one of them is.
pub fn check_static(wanted: &Wanted) -> ApiResult<()> {
    if wanted.user.is_some() || wanted.auth != "{}" || !wanted.allowed_origins.is_empty() {
        return Err(ApiError::invalid(
            "user, auth and allowed_origins cannot be given with a static token, which is the same for every caller",
        ));
    }
    Ok(())
}

fn check_key(key: KeyRequest) -> ApiResult<Key> {
    let key = Key { name: key.name, namespace: key.namespace, tag: key.tag };
    key.check().map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(key)
}

/// Also used by revoke: a user that could never have been granted anything is a mistake worth telling.
pub fn check_user(user: &str) -> ApiResult<()> {
    if user.len() > USER_BYTES_MAX {
        let bytes = user.len();
        return Err(ApiError::invalid(format!(
            "user is {bytes} bytes long; at most {USER_BYTES_MAX} are allowed"
        )));
    }
    if user.chars().any(char::is_control) {
        return Err(ApiError::invalid("user must not contain control characters"));
    }
    if user.trim() != user {
        return Err(ApiError::invalid("user must not begin or end with a space"));
    }
    Ok(())
}

/// The auth data as it will stand in a request header: JSON, every character outside printable ASCII escaped.
fn ascii_json(auth: &serde_json::Map<String, serde_json::Value>) -> ApiResult<String> {
    let json = serde_json::to_string(auth).map_err(|error| ApiError::invalid(format!("auth: {error}")))?;
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    if text.len() > AUTH_BYTES_MAX {
        let bytes = text.len();
        return Err(ApiError::new(
            Code::AuthTooLarge,
            format!(
                "auth is {bytes} bytes of ASCII JSON; at most {AUTH_BYTES_MAX} fit in the request header it becomes"
            ),
        ));
    }
    Ok(text)
}

fn wait(ready: bool, seconds: Option<i64>) -> ApiResult<Option<Duration>> {
    let seconds = number("wait_timeout_seconds", seconds, 0, WAIT_SECONDS_MAX)?.unwrap_or(WAIT_SECONDS);
    Ok(ready.then(|| Duration::from_secs(seconds.unsigned_abs())))
}
