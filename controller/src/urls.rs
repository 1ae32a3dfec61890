//! The tokens and URLs that callers are given.

use jetway_protocol::ids::{BackendId, DroneId, FencingToken, GrantId, InstallationId};
use jetway_protocol::secret::Secret;
use jetway_protocol::token::{STATIC_PREFIX, TokenContent, TokenSealer};

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
        let sealed = self.sealer.seal(&TokenContent {
            backend: backend.clone(),
            fencing_token,
            drone,
            drone_address: drone_address.to_owned(),
            grant,
            expires_at: None,
        });
        if grant == GrantId::STATIC { format!("{STATIC_PREFIX}{sealed}") } else { sealed }
    }

    pub fn status_url(&self, backend: &BackendId) -> String {
        format!("{}/pub/b/{backend}/status", self.public_url)
    }
}
