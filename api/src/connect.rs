//! `POST /ctrl/connect`: from a key to a URL.

use std::collections::BTreeMap;

use jetway_protocol::hint::Hint;
use jetway_protocol::ids::{BackendId, FencingToken, Subdomain};
use jetway_protocol::status::Status;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::object;
use crate::spawn::SpawnConfig;

/// Needs a key, a `spawn_config` or a `warm_pool`. `null` counts as absent, except for `auth`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectRequest {
    /// The name of the session. Without it each connect is a new backend.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyRequest>,
    /// The session to start if none lives.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub spawn_config: Option<SpawnConfig>,
    /// 256 bytes, no control characters, no outer spaces. The application sees it as
    /// `x-verified-username`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// 8192 bytes as JSON in ASCII. The application sees it as `x-verified-user-data`. As in Plane,
    /// `null` is refused: it is an object or absent.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub auth: Map<String, Value>,
    /// Pages that may open WebSockets with this URL, as browsers write origins; 32 at most. Empty:
    /// every page.
    #[serde(default, deserialize_with = "object::null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
    /// By default the answer does not wait for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// 30 by default. When it runs out, the answer is a 200 with the status reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 300)]
    pub wait_timeout_seconds: Option<i64>,
    /// A declared pool, in the place of `spawn_config`: its sessions are started from the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9._-]{1,63}$")]
    pub warm_pool: Option<String>,
    /// By default `path`, in which the URL's path begins with the token. `host` gives the session
    /// a host of its own, and the application is its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_form: Option<UrlForm>,
    /// In the host form: an absolute http or https URL, 2048 bytes. A browser that comes to the
    /// session's host without permission to enter is sent there, and so is one whose session has
    /// ended. The last one that a connect gave counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_url: Option<String>,
    /// In the host form: further host names of the session, 8 at most, such as a customer's own.
    /// Each must point at the proxies, and the operator's hook (`--acme-ask-url`) must allow it.
    #[serde(default, deserialize_with = "object::null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// Where the token of a URL stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UrlForm {
    /// `https://<cluster>/<token>/`, as in Plane.
    #[default]
    Path,
    /// `https://<label>.<cluster>/`: entered once by a URL with a token, then by a cookie. The
    /// label is the backend's subdomain. Without one it is derived from the key, and is the same
    /// for each session of the key.
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Answer when the backend is ready.
    Ready,
}

/// Namespace and name are the identity; the tag must match to be given a live backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// 1 to 1024 bytes, no U+0000.
    pub name: String,
    /// 256 bytes.
    #[serde(default, deserialize_with = "object::null_as_default")]
    pub namespace: String,
    /// 256 bytes.
    #[serde(default, deserialize_with = "object::null_as_default")]
    pub tag: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConnectResponse {
    pub backend_id: BackendId,
    /// Whether this request started it.
    pub spawned: bool,
    pub status: Status,
    /// The token in the URL. In the host form: for clients without cookies, in `Authorization:
    /// Bearer` or `x-jetway-token` to the label's host; it ends with the backend.
    pub token: String,
    /// Where the browser goes. Ends with a slash. In the host form it ends with a token that is
    /// good for 300 s, and `&path=` may be appended: the page to begin with.
    pub url: String,
    /// In the host form also a derived label.
    pub subdomain: Option<Subdomain>,
    /// In the host form: such URLs by host, for each of `hosts` and each named port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<BTreeMap<String, String>>,
    /// The application sees it in `x-verified-secret`. Null for static tokens.
    pub secret_token: Option<String>,
    /// Where to ask for its status, without a key.
    pub status_url: String,
    /// Only where this request started it.
    pub drone: Option<String>,
    /// Rises with each backend, below 2^53; storage can refuse a lower one.
    pub fencing_token: FencingToken,
    /// False: the URL is good, but the drone has not confirmed it yet.
    pub drone_answered: bool,
    /// The reason why its start is held up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
}
