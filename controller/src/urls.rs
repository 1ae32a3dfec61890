//! The tokens and URLs that callers are given.

use jetway_protocol::grant::Grant;
use jetway_protocol::host::{ENTER_SECONDS, RESERVED};
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, GrantId, InstallationId};
use jetway_protocol::secret::Secret;
use jetway_protocol::time::UnixMicros;
use jetway_protocol::token::{HostToken, HostUse, STATIC_PREFIX, TokenContent, TokenSealer};

pub struct Urls {
    pub sealer: TokenSealer,
    /// Without a slash at its end; `status_url` begins with it.
    public_url: String,
}

impl Urls {
    pub fn new(secret: &Secret, installation: InstallationId, public_url: String) -> Self {
        Self { sealer: TokenSealer::new(secret, installation), public_url }
    }

    /// The token that a URL carries for a grant; a static one is the same from every controller.
    pub fn token(
        &self,
        backend: &BackendId,
        fencing_token: FencingToken,
        drone: DroneId,
        drone_address: &str,
        grant: GrantId,
    ) -> String {
        let sealed = self.sealer.seal(&content(backend, fencing_token, drone, drone_address, grant));
        if grant == GrantId::STATIC { format!("{STATIC_PREFIX}{sealed}") } else { sealed }
    }

    /// For a grant's user, on the hosts of its session.
    pub fn of_hosts(
        &self,
        backend: &BackendId,
        fencing_token: FencingToken,
        drone: DroneId,
        drone_address: &str,
        grant: &Grant,
    ) -> HostTokens<'_> {
        let content = content(backend, fencing_token, drone, drone_address, grant.id);
        let user = self.sealer.user_tag(grant.user.as_deref());
        HostTokens { sealer: &self.sealer, token: HostToken { content, user } }
    }

    pub fn status_url(&self, backend: &BackendId) -> String {
        format!("{}/pub/b/{backend}/status", self.public_url)
    }
}

fn content(
    backend: &BackendId,
    fencing_token: FencingToken,
    drone: DroneId,
    drone_address: &str,
    grant: GrantId,
) -> TokenContent {
    TokenContent {
        backend: backend.clone(),
        fencing_token,
        drone,
        drone_address: drone_address.to_owned(),
        grant,
        expires_at: None,
    }
}

/// The tokens that one user enters a session's hosts with.
pub struct HostTokens<'a> {
    sealer: &'a TokenSealer,
    token: HostToken,
}

impl HostTokens<'_> {
    /// For clients without cookies; it ends with the backend.
    pub fn bearer(&self, base: &str) -> String {
        self.sealer.seal_on(HostUse::Bearer, base, &self.token)
    }

    /// The URL that sets the cookie on `host`, for some minutes. Its token is bound to `base`.
    pub fn entering(&self, scheme: &str, host: &str, base: &str) -> String {
        let mut token = self.token.clone();
        let now = UnixMicros::now().0.unsigned_abs() / 1_000_000;
        token.content.expires_at = Some(now + ENTER_SECONDS);
        let token = self.sealer.seal_on(HostUse::Enter, base, &token);
        format!("{scheme}://{host}{RESERVED}enter?token={token}")
    }
}
