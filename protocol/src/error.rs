//! The one shape of every error of the public API: Plane's `{"id","kind","message"}`, and ours beside it.

use serde::{Deserialize, Serialize};

use crate::status::EndReason;

/// Plane's closed list; its client knows no other. What is new says `Other` and a [`Code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ErrorKind))]
pub enum Kind {
    FailedToAcquireKey,
    KeyUnheldNoSpawnConfig,
    KeyHeldUnhealthy,
    KeyHeld,
    NoDroneAvailable,
    FailedToRemoveKey,
    DatabaseError,
    NoClusterProvided,
    NotFound,
    InvalidClusterName,
    Other,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $kind:ident;)*) => {
        /// A stable word for programs. The published list: text, HTTP status, kind.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text),* }
            }
            pub fn http_status(self) -> u16 {
                match self { $(Code::$name => $status),* }
            }
            pub fn kind(self) -> Kind {
                match self { $(Code::$name => Kind::$kind),* }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    InvalidJson = "invalid_json", 400, Other;
    /// JSON, but not of the documented shape: wrong type, unknown field, value out of range.
    InvalidRequest = "invalid_request", 422, Other;
    UnsupportedMediaType = "unsupported_media_type", 415, Other;
    BodyTooLarge = "body_too_large", 413, Other;
    AuthTooLarge = "auth_too_large", 422, Other;
    MethodNotAllowed = "method_not_allowed", 405, Other;
    RouteNotFound = "route_not_found", 404, NotFound;
    BackendNotFound = "backend_not_found", 404, NotFound;
    /// Nothing is kept of what an ended backend printed.
    NoOutput = "no_output", 404, NotFound;
    DroneNotFound = "drone_not_found", 404, NotFound;
    /// No warm pool has this name.
    PoolNotFound = "pool_not_found", 404, NotFound;
    /// A warm pool's spec cannot be opened: it was sealed under another secret.
    PoolUnreadable = "pool_unreadable", 500, Other;
    /// No certificate is ordered under this name.
    CertificateNotFound = "certificate_not_found", 404, NotFound;
    /// No or a wrong bearer key.
    Unauthorized = "unauthorized", 401, Other;
    /// A request to loopback from a foreign page: unknown Host, or a foreign Origin.
    ForbiddenOrigin = "forbidden_origin", 403, Other;
    InvalidCluster = "invalid_cluster", 400, InvalidClusterName;
    NoCluster = "no_cluster", 400, NoClusterProvided;
    KeyHeld = "key_held", 409, KeyHeld;
    KeyUnheld = "key_unheld", 409, KeyUnheldNoSpawnConfig;
    /// The chosen backend id was used before.
    IdTaken = "id_taken", 409, FailedToAcquireKey;
    /// A backend of this cluster has the subdomain.
    SubdomainTaken = "subdomain_taken", 409, FailedToAcquireKey;
    /// The key's backend is stopping and did not end in time.
    KeyStopping = "key_stopping", 503, KeyHeldUnhealthy;
    /// The key's backend lives on a drone that does not answer.
    KeyUnhealthy = "key_unhealthy", 503, KeyHeldUnhealthy;
    /// A host of the session is another key's, or was until a short time ago.
    HostTaken = "host_taken", 409, FailedToAcquireKey;
    /// `url_form` is `host`, and browsers reach the cluster without TLS.
    HostFormNeedsHttps = "host_form_needs_https", 422, Other;
    /// No session has, or lately had, this host.
    HostNotFound = "host_not_found", 404, NotFound;
    NoDrone = "no_drone", 503, NoDroneAvailable;
    /// No drone of the cluster may do what the spec asks for (mount, network), or has the image.
    NotOffered = "not_offered", 422, NoDroneAvailable;
    StartFailed = "start_failed", 502, Other;
    /// The drone that owns the backend does not answer.
    DroneUnreachable = "drone_unreachable", 502, Other;
    Database = "database", 503, DatabaseError;
    /// Proxy: what the URL carries is no token of this installation, or names a backend that nobody knows.
    TokenInvalid = "token_invalid", 410, NotFound;
    TokenExpired = "token_expired", 410, NotFound;
    TokenRevoked = "token_revoked", 410, NotFound;
    /// Proxy: the token's backend has ended, or is ending.
    BackendEnded = "backend_ended", 410, NotFound;
    /// Proxy: the backend is not served under the request's Host, or nothing is.
    WrongHost = "wrong_host", 404, NotFound;
    /// Proxy: the connection was opened for another host than the request's.
    Misdirected = "misdirected", 421, Other;
    /// Proxy: the page that opens the WebSocket is none that the connect allowed.
    WrongOrigin = "wrong_origin", 403, Other;
    /// Proxy: the URL names a port that the backend's spec does not have.
    PortUnknown = "port_unknown", 404, NotFound;
    /// Proxy: no, several or contradicting Hosts, or a request target that is not a path.
    BadRequest = "bad_request", 400, Other;
    /// Proxy: this client, or whoever comes with this token, has its share.
    TooManyRequests = "too_many_requests", 429, Other;
    /// Proxy: the client stopped in the middle of a request's body.
    RequestTimeout = "request_timeout", 408, Other;
    /// Proxy: the backend did not become ready while the request was held.
    BackendNotReady = "backend_not_ready", 504, Other;
    /// Proxy: no connection to the backend.
    BackendUnreachable = "backend_unreachable", 502, Other;
    /// Proxy: the backend broke off, or answered with something that is no answer to the request.
    BackendFailed = "backend_failed", 502, Other;
    /// Proxy: the backend took the request and did not answer.
    BackendTimeout = "backend_timeout", 504, Other;
    /// Proxy: it does not yet know its installation, because no controller has answered since it started.
    ProxyNotReady = "proxy_not_ready", 503, Other;
    Busy = "busy", 503, Other;
    Internal = "internal", 500, Other;
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Code {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        let words = Self::ALL.iter().map(|code| code.as_str());
        let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words));
        schema.description(Some("A stable word for programs: branch on it.")).into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for Code {
    fn name() -> std::borrow::Cow<'static, str> {
        "ErrorCode".into()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Error))]
pub struct ErrorBody {
    /// Names this one answer in the log.
    pub id: String,
    pub kind: Kind,
    pub message: String,
    pub code: Code,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// For placement: why each drone was passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drones: Vec<PassedOver>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// The last output of a start that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The backend it is about, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PassedOver {
    pub drone: String,
    pub reason: String,
}
