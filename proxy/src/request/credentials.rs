//! What a request shows at a session's host: a token of its own, or the cookie. Each is opened for
//! this host and its use alone; none of them reaches the application.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use jetway_protocol::host::{COOKIE, TOKEN_HEADER};
use jetway_protocol::ids::GrantId;
use jetway_protocol::token::{HostToken, HostUse, TOKEN_CHARS_MAX};

use crate::client::connection::Connection;
use crate::headers::own_cookie;
use crate::installation::Installation;
use crate::problem::Problem;
use crate::route::session_host::SessionHost;

static TOKEN: HeaderName = HeaderName::from_static(TOKEN_HEADER);
/// How each of our tokens begins: the bytes of its version and its key in base64, and no more, since
/// the third letter has bits of the nonce in it.
const TOKEN_STARTS: &[u8] = b"AQ";
/// A shorter one has no room for what a token holds.
const TOKEN_CHARS_MIN: usize = 48;
/// Cookies of the same name that are opened for one request. A browser has two at most: one for
/// each top-level site, and one from before it knew of that.
const COOKIES_MAX: usize = 8;

/// Let in by.
#[derive(Debug, Clone)]
pub enum Access {
    /// A token of the client's own, which no browser adds by itself.
    Bearer(Arc<HostToken>),
    Cookie(Arc<HostToken>),
}

impl Access {
    pub fn token(&self) -> &Arc<HostToken> {
        let (Access::Bearer(token) | Access::Cookie(token)) = self;
        token
    }

    pub fn is_bearer(&self) -> bool {
        matches!(self, Access::Bearer(_))
    }
}

/// Whether a text may be a token of ours, by its looks.
pub fn may_be_ours(text: &[u8]) -> bool {
    text.starts_with(TOKEN_STARTS) && (TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&text.len())
}

/// The token of an `Authorization: Bearer`. An application's own has other looks.
pub fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && may_be_ours(token)).then_some(token)
}

pub fn is_token_header(name: &str) -> bool {
    name.eq_ignore_ascii_case(TOKEN_HEADER)
}

/// Whether a request has anything that may let it in, by its looks.
pub fn are_shown(headers: &HeaderMap) -> bool {
    headers.contains_key(&TOKEN)
        || own_cookie::values(headers, COOKIE).next().is_some()
        || headers.get_all(AUTHORIZATION).iter().any(|value| bearer(value.as_bytes()).is_some())
}

/// `Err`: our own header has a token that opens nothing here.
pub fn access(
    connection: &Connection,
    installation: &Installation,
    site: &SessionHost,
    headers: &HeaderMap,
) -> Result<Option<Access>, Problem> {
    let open = |usage, text: &str| connection.open_on(installation, usage, site, text).filter(is_a_users);
    let text = |value: &[u8]| std::str::from_utf8(value).map(str::to_owned).ok();
    if let Some(given) = headers.get(&TOKEN) {
        let opened = text(given.as_bytes()).and_then(|token| open(HostUse::Bearer, &token));
        return opened.map(|token| Some(Access::Bearer(token))).ok_or(Problem::TokenInvalid);
    }
    let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(|value| text(bearer(value.as_bytes())?));
    if let Some(token) = bearers.into_iter().find_map(|token| open(HostUse::Bearer, &token)) {
        return Ok(Some(Access::Bearer(token)));
    }
    Ok(cookie(connection, installation, site, headers).map(Access::Cookie))
}

/// One cookie's value.
pub fn by_cookie(
    connection: &Connection,
    installation: &Installation,
    site: &SessionHost,
    text: &str,
) -> Option<Arc<HostToken>> {
    connection.open_on(installation, HostUse::Cookie, site, text).filter(is_a_users)
}

/// Of several that open, that of the newest run.
pub fn cookie(
    connection: &Connection,
    installation: &Installation,
    site: &SessionHost,
    headers: &HeaderMap,
) -> Option<Arc<HostToken>> {
    let given = own_cookie::values(headers, COOKIE).filter(|text| may_be_ours(text.as_bytes()));
    let opened = given.take(COOKIES_MAX).filter_map(|text| by_cookie(connection, installation, site, text));
    opened.max_by_key(|token| token.content.fencing_token)
}

/// A static token is everybody's, and has no host form.
fn is_a_users(token: &Arc<HostToken>) -> bool {
    token.content.grant != GrantId::STATIC
}

/// Opens the token of an entering URL, though it may have expired.
pub fn entering(installation: &Installation, site: &SessionHost, text: Option<&str>) -> Option<HostToken> {
    let opened = installation.sealer.open_on(HostUse::Enter, &site.base, text?);
    opened.ok().filter(|token| token.content.grant != GrantId::STATIC)
}

/// Takes off what lets in here: the cookies, our own header, and every `Authorization` that opens.
pub fn take_off(
    connection: &Connection,
    installation: &Installation,
    site: &SessionHost,
    headers: &mut HeaderMap,
) {
    own_cookie::take_off(headers);
    headers.remove(&TOKEN);
    let opens = |value: &HeaderValue| {
        let token = bearer(value.as_bytes()).and_then(|token| std::str::from_utf8(token).ok());
        token.is_some_and(|token| connection.open_on(installation, HostUse::Bearer, site, token).is_some())
    };
    if headers.get_all(AUTHORIZATION).iter().any(opens) {
        let theirs: Vec<_> =
            headers.get_all(AUTHORIZATION).iter().filter(|value| !opens(value)).cloned().collect();
        headers.remove(AUTHORIZATION);
        for value in theirs {
            headers.append(AUTHORIZATION, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{BackendId, DroneId, FencingToken, InstallationId};
    use jetway_protocol::secret::Secret;
    use jetway_protocol::token::{TokenContent, TokenSealer};

    use super::*;

    /// Whatever its nonce, a token is known for one of ours.
    #[test]
    fn each_of_our_tokens_is_known_by_its_looks() {
        let secret = Secret::new(&"jetway".repeat(8)).unwrap();
        let sealer = TokenSealer::new(&secret, InstallationId::random());
        for number in 0..256 {
            let content = TokenContent {
                backend: BackendId::random(),
                fencing_token: FencingToken(number),
                drone: DroneId::random(),
                drone_address: "a:1".to_owned(),
                grant: GrantId(1),
                expires_at: None,
            };
            let token = HostToken { content, user: sealer.user_tag(None) };
            let sealed = sealer.seal_on(HostUse::Bearer, "h", &token);
            let line = format!("Bearer {sealed}");
            assert_eq!(bearer(line.as_bytes()), Some(sealed.as_bytes()), "{line}");
        }
    }

    #[test]
    fn an_applications_bearer_is_its_own() {
        for theirs in
            ["", "Bearer", "Bearer ", "Bearer AQ", "Basic AQEB", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"]
        {
            assert_eq!(bearer(theirs.as_bytes()), None, "{theirs}");
        }
        let long = format!("bearer AQ{}", "x".repeat(100));
        assert!(bearer(long.as_bytes()).is_some());
    }
}
