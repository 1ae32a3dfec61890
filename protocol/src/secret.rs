//! The secret that the components of one installation share, and the separate keys derived from it.
//!
//! HKDF-SHA-256 (RFC 5869), one `info` string a purpose, so that no key is used for two things.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Characters that `JETWAY_SECRET` must have, at least.
pub const SECRET_CHARS_MIN: usize = 32;

#[derive(Debug, Clone, thiserror::Error)]
#[error("the secret has {0} characters; it needs at least {SECRET_CHARS_MIN} (try: openssl rand -hex 32)")]
pub struct SecretTooShort(usize);

#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What a derived key is for. The text is part of the wire contract between components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Sealing connection tokens.
    TokenSeal,
    /// Deriving a token's nonce from its content.
    TokenNonce,
    /// A controller's calls to a drone.
    ControllerToDrone,
    /// A drone's calls to a controller.
    DroneToController,
    /// A proxy's calls to a drone (attach, dial).
    ProxyToDrone,
    /// A proxy's calls to a controller.
    ProxyToController,
    /// Sealing what controllers keep in Postgres for longer than a start.
    AtRest,
}

impl Purpose {
    fn info(self) -> &'static [u8] {
        match self {
            Purpose::TokenSeal => b"jetway/1/token-seal",
            Purpose::TokenNonce => b"jetway/1/token-nonce",
            Purpose::ControllerToDrone => b"jetway/1/controller-to-drone",
            Purpose::DroneToController => b"jetway/1/drone-to-controller",
            Purpose::ProxyToDrone => b"jetway/1/proxy-to-drone",
            Purpose::ProxyToController => b"jetway/1/proxy-to-controller",
            Purpose::AtRest => b"jetway/1/at-rest",
        }
    }
}

impl Secret {
    pub fn new(text: &str) -> Result<Self, SecretTooShort> {
        let text = text.trim();
        let chars = text.chars().count();
        if chars < SECRET_CHARS_MIN { Err(SecretTooShort(chars)) } else { Ok(Self(text.as_bytes().to_vec())) }
    }

    pub fn key(&self, purpose: Purpose) -> [u8; 32] {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(None, &self.0)
            .expand(purpose.info(), &mut key)
            .expect("32 bytes are within what HKDF-SHA-256 can give");
        key
    }

    /// The bearer credential for calls of this purpose: `Authorization: Bearer <this>`.
    pub fn bearer(&self, purpose: Purpose) -> String {
        data_encoding::HEXLOWER.encode(&self.key(purpose))
    }

    /// Whether an `Authorization` header's value carries the credential of this purpose. Constant time.
    pub fn authorizes(&self, purpose: Purpose, authorization: Option<&[u8]>) -> bool {
        let Some(given) = authorization.and_then(|value| value.strip_prefix(b"Bearer ")) else {
            return false;
        };
        given.ct_eq(self.bearer(purpose).as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_refused() {
        assert!(Secret::new(&"x".repeat(31)).is_err());
        assert!(Secret::new(&"x".repeat(32)).is_ok());
        assert!(Secret::new(&format!(" {} \n", "x".repeat(31))).is_err());
    }

    #[test]
    fn a_credential_opens_only_its_own_door() {
        let secret = Secret::new(&"x".repeat(32)).unwrap();
        let header = format!("Bearer {}", secret.bearer(Purpose::ProxyToDrone));
        assert!(secret.authorizes(Purpose::ProxyToDrone, Some(header.as_bytes())));
        assert!(!secret.authorizes(Purpose::ControllerToDrone, Some(header.as_bytes())));
        assert!(!secret.authorizes(Purpose::ProxyToDrone, None));
        let other = Secret::new(&"y".repeat(32)).unwrap();
        assert!(!other.authorizes(Purpose::ProxyToDrone, Some(header.as_bytes())));
    }
}
