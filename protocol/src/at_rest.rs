//! What is kept in Postgres and must not be read there: authenticated encryption under a key of its own purpose.
//!
//! Layout: `version 1 │ key id 1 │ nonce 24 │ XChaCha20-Poly1305(content) + 16`. The two leading bytes, the installation and the
//! place (which table and row) are authenticated as associated data, so that what was sealed for one row opens in no other.
//! Nonces are random: 24 bytes are enough for that.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use uuid::Uuid;

use crate::ids::InstallationId;
use crate::secret::{Purpose, Secret};

const VERSION: u8 = 1;
/// The one key of today; rotation adds others.
const KEY_ID: u8 = 1;
const HEAD: usize = 2;
const NONCE: usize = 24;

/// One reason on purpose: nothing different can be done about a foreign, cut or changed text.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("it was not sealed under this installation's secret")]
pub struct CannotOpen;

pub struct AtRest {
    cipher: XChaCha20Poly1305,
    installation: InstallationId,
}

impl AtRest {
    pub fn new(secret: &Secret, installation: InstallationId) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&secret.key(Purpose::AtRest).into()), installation }
    }

    /// `place` names the one place that it is kept in.
    pub fn seal(&self, place: &str, plain: &[u8]) -> Vec<u8> {
        let head = [VERSION, KEY_ID];
        let mut nonce = [0; NONCE];
        nonce[..16].copy_from_slice(Uuid::new_v4().as_bytes());
        nonce[16..].copy_from_slice(&Uuid::new_v4().as_bytes()[..8]);
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &self.associated(head, place) })
            .expect("a row's content is far below the cipher's limit");
        let mut bytes = Vec::with_capacity(HEAD + NONCE + sealed.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        bytes
    }

    pub fn open(&self, place: &str, bytes: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(CannotOpen)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or(CannotOpen)?;
        if *head != [VERSION, KEY_ID] {
            return Err(CannotOpen);
        }
        let payload = Payload { msg: sealed, aad: &self.associated(*head, place) };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| CannotOpen)
    }

    fn associated(&self, head: [u8; HEAD], place: &str) -> Vec<u8> {
        let mut associated = head.to_vec();
        associated.extend_from_slice(self.installation.0.as_bytes());
        associated.extend_from_slice(place.as_bytes());
        associated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(secret: char, installation: u128) -> AtRest {
        let secret = Secret::new(&secret.to_string().repeat(40)).unwrap();
        AtRest::new(&secret, InstallationId(Uuid::from_u128(installation)))
    }

    #[test]
    fn only_its_own_secret_installation_and_place_open_it() {
        let sealed = of('a', 1).seal("warm_pools/one", b"hunter2");
        assert_eq!(of('a', 1).open("warm_pools/one", &sealed).as_deref(), Ok(&b"hunter2"[..]));
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
        assert_ne!(of('a', 1).seal("warm_pools/one", b"hunter2"), sealed, "no two are alike");
        for (secret, installation, place) in
            [('b', 1, "warm_pools/one"), ('a', 2, "warm_pools/one"), ('a', 1, "warm_pools/two")]
        {
            assert_eq!(of(secret, installation).open(place, &sealed), Err(CannotOpen));
        }
    }

    #[test]
    fn whatever_was_changed_or_cut_is_refused() {
        let (at_rest, sealed) = (of('a', 1), of('a', 1).seal("p", b"text"));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(at_rest.open("p", &changed), Err(CannotOpen), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(at_rest.open("p", &sealed[..length]), Err(CannotOpen), "{length} bytes");
        }
    }
}
