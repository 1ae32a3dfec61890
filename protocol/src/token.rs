//! The sealed connection token: what a URL carries, and all a proxy needs to find a session without a controller.
//!
//! Layout, base64url without padding (RFC 4648 §5):
//!
//! ```text
//! version 1 │ key id 1 │ nonce 24 │ XChaCha20-Poly1305(content) + 16
//! ```
//!
//! The two leading bytes and the installation are authenticated as associated data; for a token of
//! the host form, so are its use and its host. The nonce is a MAC of the content and of what the
//! associated data adds, under a key of its own: equal content gives an equal token (a static token
//! can be made again by any controller), and different contents, uses or hosts never share a nonce.
//! A forged token costs one constant-time failure.

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
const USER_TAG: usize = 8;
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

/// The use that a token is for: it opens for no other. In a path ([`TokenSealer::seal`]) it is
/// bound to no host; the other uses belong to one host each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostUse {
    /// In the query of `/.jetway/enter`, for some minutes.
    Enter,
    /// In the cookie that entering sets.
    Cookie,
    /// In `Authorization: Bearer` or `x-jetway-token`, from clients without cookies.
    Bearer,
}

impl HostUse {
    fn byte(self) -> u8 {
        match self {
            HostUse::Enter => 1,
            HostUse::Cookie => 2,
            HostUse::Bearer => 3,
        }
    }
}

/// Tells users apart without naming them: a MAC of the name, within one installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserTag([u8; USER_TAG]);

/// What a token of the host form holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostToken {
    pub content: TokenContent,
    pub user: UserTag,
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
        self.seal_bytes(&encode(content), &[])
    }

    /// Expiry is the caller's to compare; everything else is checked here.
    pub fn open(&self, token: &str) -> Result<TokenContent, InvalidToken> {
        decode(&self.open_bytes(token, &[])?).ok_or(InvalidToken)
    }

    /// `host`: the session's own, without a port's name before it ([`crate::host::base_host`]).
    pub fn seal_on(&self, usage: HostUse, host: &str, token: &HostToken) -> String {
        let plain = [&token.user.0[..], &encode(&token.content)].concat();
        self.seal_bytes(&plain, &binding(usage, host))
    }

    /// Expiry is the caller's to compare.
    pub fn open_on(&self, usage: HostUse, host: &str, token: &str) -> Result<HostToken, InvalidToken> {
        let plain = self.open_bytes(token, &binding(usage, host))?;
        let (user, content) = plain.split_first_chunk::<USER_TAG>().ok_or(InvalidToken)?;
        let content = decode(content).ok_or(InvalidToken)?;
        Ok(HostToken { content, user: UserTag(*user) })
    }

    /// All connects that name nobody are one user's.
    pub fn user_tag(&self, user: Option<&str>) -> UserTag {
        let mut tag = [0; USER_TAG];
        if let Some(user) = user {
            let digest = self.mac(&[b"user", user.as_bytes()]);
            tag.copy_from_slice(&digest[..USER_TAG]);
        }
        UserTag(tag)
    }

    fn seal_bytes(&self, plain: &[u8], binding: &[u8]) -> String {
        // The length parts content from binding. Without a binding nothing is added: tokens of
        // paths are as they always were.
        let length = u64::try_from(binding.len()).expect("a host is short").to_be_bytes();
        let digest = match binding {
            [] => self.mac(&[plain]),
            binding => self.mac(&[&length, binding, plain]),
        };
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&digest[..NONCE]);
        let head = [VERSION, KEY_ID];
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &self.associated(head, binding) })
            .expect("a token's content is far below the cipher's limit");
        let mut bytes = Vec::with_capacity(HEAD + NONCE + sealed.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn open_bytes(&self, token: &str, binding: &[u8]) -> Result<Vec<u8>, InvalidToken> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(InvalidToken);
        }
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| InvalidToken)?;
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(InvalidToken)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or(InvalidToken)?;
        if *head != [VERSION, KEY_ID] {
            return Err(InvalidToken);
        }
        let payload = Payload { msg: sealed, aad: &self.associated(*head, binding) };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| InvalidToken)
    }

    /// Of the parts as if they were one text.
    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&self.nonce_key).expect("any length is a key");
        mac.update(self.installation.0.as_bytes());
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn associated(&self, head: [u8; HEAD], binding: &[u8]) -> Vec<u8> {
        [&head, &self.installation.0.as_bytes()[..], binding].concat()
    }
}

fn binding(usage: HostUse, host: &str) -> Vec<u8> {
    [&[usage.byte()], host.as_bytes()].concat()
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
    fn a_token_of_a_host_opens_for_its_use_there() {
        let sealer = sealer('a');
        let token = HostToken { content: content(), user: sealer.user_tag(Some("ada")) };
        let uses = [HostUse::Enter, HostUse::Cookie, HostUse::Bearer];
        for usage in uses {
            let sealed = sealer.seal_on(usage, "a.example.com", &token);
            assert_eq!(sealer.open_on(usage, "a.example.com", &sealed), Ok(token.clone()));
            assert_eq!(sealer.open_on(usage, "b.example.com", &sealed), Err(InvalidToken));
            assert_eq!(sealer.open(&sealed), Err(InvalidToken), "not in a path");
            for other in uses.into_iter().filter(|other| *other != usage) {
                assert_eq!(sealer.open_on(other, "a.example.com", &sealed), Err(InvalidToken));
            }
        }
        let in_path = sealer.seal(&token.content);
        assert_eq!(sealer.open_on(HostUse::Cookie, "a.example.com", &in_path), Err(InvalidToken));
    }

    /// Two messages under one nonce would give the cipher's key away.
    #[test]
    fn uses_and_hosts_never_share_a_nonce() {
        let sealer = sealer('a');
        let token = HostToken { content: content(), user: sealer.user_tag(None) };
        let nonce = |token: String| BASE64URL_NOPAD.decode(token.as_bytes()).unwrap()[2..26].to_vec();
        let mut nonces = vec![nonce(sealer.seal(&token.content))];
        for usage in [HostUse::Enter, HostUse::Cookie, HostUse::Bearer] {
            for host in ["a.example.com", "b.example.com", ""] {
                nonces.push(nonce(sealer.seal_on(usage, host, &token)));
            }
        }
        let all = nonces.len();
        nonces.sort();
        nonces.dedup();
        assert_eq!(nonces.len(), all);
    }

    #[test]
    fn a_users_tag_is_the_users_own() {
        let one = sealer('a');
        assert_eq!(one.user_tag(Some("ada")), one.user_tag(Some("ada")));
        assert_ne!(one.user_tag(Some("ada")), one.user_tag(Some("bob")));
        assert_ne!(one.user_tag(Some("ada")), one.user_tag(None));
        assert_ne!(one.user_tag(Some("ada")), sealer('b').user_tag(Some("ada")));
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
