//! The sealed connection token: what a URL carries, and all a proxy needs to find a session without a controller.
//!
//! Layout, base64url without padding (RFC 4648 §5):
//!
//! ```text
//! version 1 │ key id 1 │ nonce 24 │ XChaCha20-Poly1305(content) + 16
//! ```
//!
//! The two leading bytes and the installation are authenticated as associated data. The nonce is a MAC of the
//! content under a key of its own, so equal content gives an equal token (a static token can be made again by any
//! controller) and different contents never share a nonce. A forged token costs one constant-time failure.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::ids::{BackendId, DroneId, FencingToken, GrantId, InstallationId};
use crate::secret::{Purpose, Secret};

const VERSION: u8 = 1;
/// The one key of today; rotation adds others.
const KEY_ID: u8 = 1;
const HEAD: usize = 2;
const NONCE: usize = 24;
/// Characters of a token, at most: longer text is not even decoded.
pub const TOKEN_CHARS_MAX: usize = 512;
/// What a static token begins with.
pub const STATIC_PREFIX: &str = "s.";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenContent {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    pub drone: DroneId,
    /// Where the drone's server was reached when the token was made: `host:port`.
    pub drone_address: String,
    pub grant: GrantId,
    /// Seconds since the Unix epoch after which the token is refused; `None` lives as long as its backend.
    pub expires_at: Option<u64>,
}

/// One reason on purpose: a caller can do nothing different about a forged, cut or foreign token.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the token is not one of this installation")]
pub struct InvalidToken;

/// Seals and opens the tokens of one installation.
#[derive(Clone)]
pub struct TokenSealer {
    cipher: XChaCha20Poly1305,
    nonce_key: [u8; 32],
    installation: InstallationId,
}

impl std::fmt::Debug for TokenSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSealer").field("installation", &self.installation).finish_non_exhaustive()
    }
}

impl TokenSealer {
    pub fn new(secret: &Secret, installation: InstallationId) -> Self {
        Self {
            cipher: XChaCha20Poly1305::new(&secret.key(Purpose::TokenSeal).into()),
            nonce_key: secret.key(Purpose::TokenNonce),
            installation,
        }
    }

    pub fn seal(&self, content: &TokenContent) -> String {
        let plain = encode(content);
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&self.nonce_key).expect("any length is a key");
        mac.update(self.installation.0.as_bytes());
        mac.update(&plain);
        let digest = mac.finalize().into_bytes();
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&digest[..NONCE]);

        let head = [VERSION, KEY_ID];
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: &self.associated(head) })
            .expect("a token's content is far below the cipher's limit");
        let mut bytes = Vec::with_capacity(HEAD + NONCE + sealed.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// Expiry is the caller's to compare; everything else is checked here.
    pub fn open(&self, token: &str) -> Result<TokenContent, InvalidToken> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(InvalidToken);
        }
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| InvalidToken)?;
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(InvalidToken)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or(InvalidToken)?;
        if *head != [VERSION, KEY_ID] {
            return Err(InvalidToken);
        }
        let plain = self
            .cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &self.associated(*head) })
            .map_err(|_| InvalidToken)?;
        decode(&plain).ok_or(InvalidToken)
    }

    fn associated(&self, head: [u8; HEAD]) -> [u8; HEAD + 16] {
        let mut aad = [0; HEAD + 16];
        aad[..HEAD].copy_from_slice(&head);
        aad[HEAD..].copy_from_slice(self.installation.0.as_bytes());
        aad
    }
}

fn encode(content: &TokenContent) -> Vec<u8> {
    let mut plain = Vec::with_capacity(96);
    plain.extend_from_slice(&content.fencing_token.0.to_be_bytes());
    plain.extend_from_slice(content.drone.0.as_bytes());
    plain.extend_from_slice(&content.grant.0.to_be_bytes());
    plain.extend_from_slice(&content.expires_at.unwrap_or(0).to_be_bytes());
    for text in [content.backend.as_str(), &content.drone_address] {
        let length = u8::try_from(text.len()).expect("ids and addresses are shorter than 256 bytes");
        plain.push(length);
        plain.extend_from_slice(text.as_bytes());
    }
    plain
}

fn decode(plain: &[u8]) -> Option<TokenContent> {
    let (fencing, rest) = plain.split_first_chunk::<8>()?;
    let (drone, rest) = rest.split_first_chunk::<16>()?;
    let (grant, rest) = rest.split_first_chunk::<8>()?;
    let (expires, rest) = rest.split_first_chunk::<8>()?;
    let (backend, rest) = take_text(rest)?;
    let (drone_address, rest) = take_text(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let expires = u64::from_be_bytes(*expires);
    Some(TokenContent {
        backend: backend.parse().ok()?,
        fencing_token: FencingToken(i64::from_be_bytes(*fencing)),
        drone: DroneId(Uuid::from_bytes(*drone)),
        drone_address,
        grant: GrantId(u64::from_be_bytes(*grant)),
        expires_at: (expires != 0).then_some(expires),
    })
}

fn take_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(secret: char) -> TokenSealer {
        let secret = Secret::new(&secret.to_string().repeat(40)).unwrap();
        TokenSealer::new(&secret, InstallationId(Uuid::from_u128(7)))
    }

    fn content() -> TokenContent {
        TokenContent {
            backend: BackendId::random(),
            fencing_token: FencingToken(42),
            drone: DroneId::random(),
            drone_address: "10.0.0.1:7070".into(),
            grant: GrantId::random(),
            expires_at: None,
        }
    }

    #[test]
    fn opens_what_it_sealed_and_is_short() {
        let (sealer, content) = (sealer('a'), content());
        let token = sealer.seal(&content);
        assert_eq!(sealer.open(&token), Ok(content.clone()));
        assert_eq!(sealer.seal(&content), token, "equal content gives an equal token");
        assert!(token.len() < 180, "{} characters", token.len());
    }

    #[test]
    fn another_secret_or_installation_opens_nothing() {
        let token = sealer('a').seal(&content());
        assert_eq!(sealer('b').open(&token), Err(InvalidToken));
        let secret = Secret::new(&"a".repeat(40)).unwrap();
        let other = TokenSealer::new(&secret, InstallationId(Uuid::from_u128(8)));
        assert_eq!(other.open(&token), Err(InvalidToken));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let sealer = sealer('a');
        let token = sealer.seal(&content());
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.open(&BASE64URL_NOPAD.encode(&forged)), Err(InvalidToken), "bit {bit}");
        }
        for length in 0..token.len() {
            assert_eq!(sealer.open(&token[..length]), Err(InvalidToken), "{length} characters");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,600}") {
            prop_assert!(sealer('a').open(&text).is_err());
        }
    }
}
