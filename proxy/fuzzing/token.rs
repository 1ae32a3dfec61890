//! Tokens: what was sealed opens as it was, and no other text opens at all.

use std::sync::LazyLock;

use jetway_protocol::ids::{BackendId, DroneId, FencingToken, GrantId, InstallationId};
use jetway_protocol::secret::Secret;
use jetway_protocol::token::{InvalidToken, TOKEN_CHARS_MAX, TokenContent, TokenSealer};
use uuid::Uuid;

/// RFC 4648 §5.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// What a token of today begins with: its version and its key's id.
const HEAD: &str = "AQE";
/// Of the drone's address in the content.
const ADDRESS_BYTES_MAX: usize = 255;

static SEALER: LazyLock<TokenSealer> = LazyLock::new(|| sealer('a', 7));
/// Another secret, and another installation.
static OTHERS: LazyLock<[TokenSealer; 2]> = LazyLock::new(|| [sealer('b', 7), sealer('a', 8)]);

fn sealer(secret: char, installation: u128) -> TokenSealer {
    let secret = Secret::new(&secret.to_string().repeat(40)).expect("it is long enough");
    TokenSealer::new(&secret, InstallationId(Uuid::from_u128(installation)))
}

/// `bytes`: text, or what to make of a token and of its content.
pub fn token(bytes: &[u8]) {
    is_refused(&String::from_utf8_lossy(bytes));
    let letters: String = bytes.iter().map(letter).collect();
    is_refused(&letters);
    is_refused(&format!("{HEAD}{letters}"));

    let content = content(bytes);
    let token = SEALER.seal(&content);
    assert_eq!(SEALER.seal(&content), token, "equal contents have equal tokens");
    assert_eq!(SEALER.open(&token), Ok(content), "what was sealed opens");
    assert!(token.len() <= TOKEN_CHARS_MAX, "a token of {} characters", token.len());
    assert!(token.bytes().all(|byte| ALPHABET.contains(&byte)), "{token}");
    for other in OTHERS.iter() {
        assert_eq!(other.open(&token), Err(InvalidToken), "another's opens it");
    }
    // Every text but this one is another token: none may mean the same.
    let (at, put) = (bytes.first().copied().unwrap_or(0), bytes.last().copied().unwrap_or(0));
    let at = usize::from(at) % token.len();
    for put in [letter(&put), char::from(put)] {
        let changed = format!("{}{put}{}", &token[..at], &token[at + 1..]);
        if changed != token {
            is_refused(&changed);
        }
        is_refused(&format!("{}{put}{}", &token[..at], &token[at..]));
    }
    is_refused(&token[..at]);
    is_refused(&format!("{token}="));
    is_refused(&format!("{token}{letters}="));
}

fn letter(byte: &u8) -> char {
    char::from(ALPHABET[usize::from(byte % 64)])
}

fn is_refused(text: &str) {
    assert_eq!(SEALER.open(text), Err(InvalidToken), "{text:?} is no token");
}

fn content(bytes: &[u8]) -> TokenContent {
    let number = |from: usize| {
        let bytes = (from..from + 8).map(|at| bytes.get(at).copied().unwrap_or(0));
        bytes.fold(0, |number: u64, byte| number << 8 | u64::from(byte))
    };
    let id: String = bytes.iter().skip(16).take(45).map(id_letter).collect();
    let backend = if id.is_empty() { BackendId::random() } else { id.parse().expect("letters of an id") };
    let address = String::from_utf8_lossy(bytes.get(32..).unwrap_or_default()).into_owned();
    let end = (0..=ADDRESS_BYTES_MAX.min(address.len())).rev().find(|end| address.is_char_boundary(*end));
    TokenContent {
        backend,
        fencing_token: FencingToken(number(0).cast_signed()),
        drone: DroneId(Uuid::from_u64_pair(number(8), number(16))),
        drone_address: address[..end.unwrap_or(0)].to_owned(),
        grant: GrantId(number(24)),
        // No token ends at the epoch: 0 is how a token says that it never does.
        expires_at: Some(number(4)).filter(|at| *at != 0),
    }
}

fn id_letter(byte: &u8) -> char {
    char::from(b"abcdefghijklmnopqrstuvwxyz0123456789-"[usize::from(byte % 37)])
}
