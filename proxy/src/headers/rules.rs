//! The header rules: one line a name, in one table that both lanes read. hyper's lane applies it in
//! `request`, `response` and to trailers; the plain lane passes on the lines that no rule speaks of
//! and leaves a head with any other to hyper's.
//!
//! A field of a request is known by every spelling that an application server may fold into its
//! name: CGI turns `-` into `_`, others turn any sign into one. Only the usual spelling is the
//! field. Another one is removed, because the application would read it in the field's place.

/// The rule for a field of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InRequest {
    Passes,
    /// It passes, and says how the request is carried.
    Noticed,
    /// It concerns one connection, or is for the proxy alone to say.
    Removed,
    /// A trusted forwarder's word on the client. Removed from all other requests.
    Forwarders,
    /// It names fields that are removed with it.
    Connection,
    /// `trailers` is all that passes of it.
    Te,
    /// Exactly one.
    Host,
    /// Of a body. At most one.
    Length,
    /// Several become one.
    Cookie,
}

/// The rule for a field of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InAnswer {
    Passes,
    /// It concerns one connection, is for the proxy alone to say, or is kept by browsers for a host
    /// though its session has ended, and the next one is there.
    Removed,
    /// A browser applies it to the whole origin, whichever path said it. Removed where sessions
    /// share their origin.
    OwnOrigin,
    /// The same, and in the host form it has no word on cookies.
    SiteData,
    /// In the host form, the proxy's to say.
    Guarded,
    /// Kept below its own session's path.
    Cookie,
    /// The application's own word on the referrer.
    Policy,
    /// The application's own word on other origins.
    Cors,
    /// The proxy sets it anew.
    Id,
    Length,
    Encoding,
    Connection,
    Date,
}

/// The rule for a trailer, of a request or of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    Passes,
    /// It must not come late (RFC 9110 §6.5.1): framing, routing, whose a request is.
    Removed,
}

struct Rule {
    name: &'static str,
    request: InRequest,
    answer: InAnswer,
    late: Late,
}

const fn rule(name: &'static str, request: InRequest, answer: InAnswer, late: Late) -> Rule {
    Rule { name, request, answer, late }
}

use {InAnswer as A, InRequest as R};

/// Names in small letters, of letters, digits and `-`. [`family`] knows `x-verified…` and
/// `x-forwarded…`.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    // Framing, and fields of one connection (RFC 9110 §7.6.1).
    rule("connection", R::Connection, A::Connection, Late::Removed),
    rule("content-length", R::Length, A::Length, Late::Removed),
    rule("expect", R::Noticed, A::Passes, Late::Passes),
    rule("host", R::Host, A::Passes, Late::Removed),
    rule("http2-settings", R::Removed, A::Removed, Late::Removed),
    rule("keep-alive", R::Removed, A::Removed, Late::Removed),
    rule("proxy-authorization", R::Removed, A::Removed, Late::Removed),
    rule("proxy-connection", R::Removed, A::Removed, Late::Removed),
    rule("te", R::Te, A::Passes, Late::Removed),
    rule("trailer", R::Noticed, A::Passes, Late::Removed),
    rule("transfer-encoding", R::Removed, A::Encoding, Late::Removed),
    rule("upgrade", R::Removed, A::Removed, Late::Removed),

    // A forwarder's word on a client: its address, and the user that it has checked.
    rule("cf-connecting-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("cf-connecting-ipv6", R::Forwarders, A::Passes, Late::Removed),
    rule("client-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("fastly-client-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("fly-client-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("forwarded", R::Forwarders, A::Passes, Late::Removed),
    rule("remote-email", R::Forwarders, A::Passes, Late::Removed),
    rule("remote-groups", R::Forwarders, A::Passes, Late::Removed),
    rule("remote-name", R::Forwarders, A::Passes, Late::Removed),
    rule("remote-user", R::Forwarders, A::Passes, Late::Removed),
    rule("true-client-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("x-client-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("x-cluster-client-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("x-original-forwarded-for", R::Forwarders, A::Passes, Late::Removed),
    rule("x-real-ip", R::Forwarders, A::Passes, Late::Removed),
    rule("x-remote-user", R::Forwarders, A::Passes, Late::Removed),

    // CGI makes `HTTP_PROXY` of it, which libraries take for a setting (CVE-2016-5385).
    rule("proxy", R::Removed, A::Passes, Late::Removed),

    // The proxy marks its own answers with it; an application's mark would forge one.
    rule("proxy-status", R::Passes, A::Removed, Late::Removed),

    // What a browser keeps for a host, up to a year, and so for sessions that have it later: it
    // sends their URLs, and so their entering tokens, elsewhere, registers a key for every path,
    // signs in, or refuses later certificates.
    rule("expect-ct", R::Passes, A::Removed, Late::Passes),
    rule("nel", R::Passes, A::Removed, Late::Passes),
    rule("public-key-pins", R::Passes, A::Removed, Late::Passes),
    rule("report-to", R::Passes, A::Removed, Late::Passes),
    rule("sec-session-registration", R::Passes, A::Removed, Late::Passes),
    rule("secure-session-registration", R::Passes, A::Removed, Late::Passes),
    rule("set-login", R::Passes, A::Removed, Late::Passes),

    // What a browser applies to a whole origin. It widens a service worker's reach, throws data
    // away, asks for a password in everybody's name, registers a dictionary for every path, or
    // changes how every session is reached or isolated. A session that has a host of its own speaks
    // for it: `Strict-Transport-Security` too, since no other session's host is below it.
    rule("accept-ch", R::Passes, A::OwnOrigin, Late::Passes),
    rule("alt-svc", R::Passes, A::OwnOrigin, Late::Passes),
    rule("clear-site-data", R::Passes, A::SiteData, Late::Passes),
    rule("critical-ch", R::Passes, A::OwnOrigin, Late::Passes),
    rule("origin-agent-cluster", R::Passes, A::OwnOrigin, Late::Passes),
    rule("service-worker-allowed", R::Passes, A::OwnOrigin, Late::Passes),
    rule("strict-transport-security", R::Passes, A::OwnOrigin, Late::Passes),
    rule("use-as-dictionary", R::Passes, A::OwnOrigin, Late::Passes),
    rule("www-authenticate", R::Passes, A::OwnOrigin, Late::Passes),

    // In the host form a cookie guards every answer: caches of several people and other pages must
    // not have it, whatever the application says.
    rule("cdn-cache-control", R::Passes, A::Guarded, Late::Passes),
    rule("cloudflare-cdn-cache-control", R::Passes, A::Guarded, Late::Passes),
    rule("cross-origin-resource-policy", R::Passes, A::Guarded, Late::Passes),
    rule("surrogate-control", R::Passes, A::Guarded, Late::Passes),

    // An application's own word; where it has none, the proxy's.
    rule("access-control-allow-headers", R::Passes, A::Cors, Late::Passes),
    rule("access-control-allow-methods", R::Passes, A::Cors, Late::Passes),
    rule("access-control-allow-origin", R::Passes, A::Cors, Late::Passes),
    rule("date", R::Passes, A::Date, Late::Passes),
    rule("referrer-policy", R::Passes, A::Policy, Late::Passes),
    rule("x-plane-backend-id", R::Passes, A::Id, Late::Passes),

    // A message's sender and its content.
    rule("authorization", R::Passes, A::Passes, Late::Removed),
    rule("content-encoding", R::Passes, A::Passes, Late::Removed),
    rule("content-type", R::Passes, A::Passes, Late::Removed),
    rule("cookie", R::Cookie, A::Passes, Late::Removed),
    rule("set-cookie", R::Passes, A::Cookie, Late::Removed),
];

/// Bytes of the longest name.
const LONGEST: usize = {
    let (mut longest, mut at) = (0, 0);
    while at < RULES.len() {
        if RULES[at].name.len() > longest {
            longest = RULES[at].name.len();
        }
        at += 1;
    }
    longest
};

/// A bit for each rule, by the length and by the first letter of its name: what both have in common
/// is looked at, which is nearly always nothing.
type Bits = u64;
static BY_LENGTH: [Bits; LONGEST + 1] = {
    let (mut bits, mut at) = ([0; LONGEST + 1], 0);
    while at < RULES.len() {
        bits[RULES[at].name.len()] |= 1 << at;
        at += 1;
    }
    bits
};
static BY_LETTER: [Bits; 26] = {
    let (mut bits, mut at) = ([0; 26], 0);
    while at < RULES.len() {
        bits[(RULES[at].name.as_bytes()[0] - b'a') as usize] |= 1 << at;
        at += 1;
    }
    bits
};

/// `name`: in any case, as everywhere here.
pub fn in_request(name: &[u8]) -> InRequest {
    if let Some(family) = family(name) {
        return family;
    }
    match find(name) {
        Some((rule, Spelling::Usual)) => rule.request,
        Some((rule, Spelling::Odd)) if rule.request != InRequest::Passes => InRequest::Removed,
        _ => InRequest::Passes,
    }
}

pub fn in_answer(name: &[u8]) -> InAnswer {
    match find(name) {
        Some((rule, Spelling::Usual)) => rule.answer,
        _ => InAnswer::Passes,
    }
}

pub fn passes_late(name: &[u8]) -> bool {
    let is_guarded = |rule: &Rule, spelling| {
        rule.late == Late::Removed && (spelling == Spelling::Usual || rule.request != InRequest::Passes)
    };
    family(name).is_none() && !find(name).is_some_and(|(rule, spelling)| is_guarded(rule, spelling))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Usual,
    Odd,
}

fn find(name: &[u8]) -> Option<(&'static Rule, Spelling)> {
    let letter = usize::from((name.first()? | 0x20).wrapping_sub(b'a'));
    let mut bits = BY_LENGTH.get(name.len())? & BY_LETTER.get(letter)?;
    while bits != 0 {
        let rule = &RULES[bits.trailing_zeros() as usize];
        if let Some(spelling) = spelling(name, rule.name) {
            return Some((rule, spelling));
        }
        bits &= bits - 1;
    }
    None
}

/// How `given` spells a name, if it does.
fn spelling(given: &[u8], name: &str) -> Option<Spelling> {
    let mut spelling = Spelling::Usual;
    for (given, letter) in given.iter().zip(name.bytes()) {
        if given.to_ascii_lowercase() != letter {
            if letter != b'-' || given.is_ascii_alphanumeric() {
                return None;
            }
            spelling = Spelling::Odd;
        }
    }
    Some(spelling)
}

/// `x-verified…`, `x-forwarded…`, and every spelling of them, with any number of signs.
fn family(name: &[u8]) -> Option<InRequest> {
    let rest = name.strip_prefix(b"x").or_else(|| name.strip_prefix(b"X"))?;
    let signs = rest.iter().take_while(|byte| !byte.is_ascii_alphanumeric()).count();
    let word = &rest[signs..];
    if signs == 0 {
        return None;
    }
    if starts_with(word, b"verified") {
        return Some(InRequest::Removed);
    }
    let kind = starts_with(word, b"forwarded").then(|| &word[b"forwarded".len()..])?;
    if kind.first().is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    let is_usual = signs == 1
        && !kind.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    Some(if is_usual { InRequest::Forwarders } else { InRequest::Removed })
}

fn starts_with(word: &[u8], start: &[u8]) -> bool {
    word.get(..start.len()).is_some_and(|given| given.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(which: impl Fn(&Rule) -> bool) -> Vec<&'static str> {
        RULES.iter().filter(|rule| which(rule)).map(|rule| rule.name).collect()
    }

    #[test]
    fn a_name_is_found_in_every_case() {
        for rule in RULES {
            let title = rule.name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
            let title = title.collect::<Vec<_>>().join("-");
            for spelled in [rule.name, &rule.name.to_uppercase(), &title] {
                assert_eq!(in_request(spelled.as_bytes()), rule.request, "{spelled}");
                assert_eq!(in_answer(spelled.as_bytes()), rule.answer, "{spelled}");
                assert_eq!(passes_late(spelled.as_bytes()), rule.late == Late::Passes, "{spelled}");
            }
            for other in [format!("{}s", rule.name), format!("a{}", rule.name), rule.name[1..].to_owned()] {
                if RULES.iter().all(|rule| rule.name != other) {
                    assert_eq!(in_request(other.as_bytes()), InRequest::Passes, "{other}");
                    assert_eq!(in_answer(other.as_bytes()), InAnswer::Passes, "{other}");
                }
            }
        }
        assert_eq!(RULES.iter().map(|rule| rule.name.len()).max(), Some(LONGEST));
        for name in ["", "-", "\u{e9}", "accept", "user-agent", "x-requested-with"] {
            assert_eq!(in_request(name.as_bytes()), InRequest::Passes, "{name}");
        }
    }

    #[test]
    fn a_name_that_servers_fold_into_a_ruled_one_is_removed() {
        let ruled = names(|rule| rule.request != InRequest::Passes && rule.name.contains('-'));
        assert!(ruled.contains(&"content-length") && ruled.contains(&"x-real-ip"), "{ruled:?}");
        for name in ruled {
            for sign in ["_", ".", "~", "!"] {
                let odd = name.replacen('-', sign, 1);
                assert_eq!(in_request(odd.as_bytes()), InRequest::Removed, "{odd}");
                assert_eq!(in_request(odd.to_uppercase().as_bytes()), InRequest::Removed, "{odd}");
                assert!(!passes_late(odd.as_bytes()), "{odd}");
            }
        }
        for name in ["content_type", "content_encoding", "x_requested_with", "user_agent", "proxy_status"] {
            assert_eq!(in_request(name.as_bytes()), InRequest::Passes, "{name}");
        }
    }

    #[test]
    fn every_spelling_of_ours_is_known() {
        for name in [
            "x-verified-username",
            "x_verified_username",
            "X-Verified_Secret",
            "x-verified",
            "x--verified-path",
            "x_-verified-user-data",
            "x.verified.path",
            "x-verifiedness",
            "x_forwarded_for",
            "x-forwarded_proto",
            "x.forwarded.host",
            "x--forwarded-for",
            "x-forwarded",
            "proxy",
            "Proxy",
        ] {
            assert_eq!(in_request(name.as_bytes()), InRequest::Removed, "{name}");
        }
        for name in ["forwarded", "X-Forwarded-For", "x-forwarded-host", "x-forwarded-prefix", "x-real-ip"] {
            assert_eq!(in_request(name.as_bytes()), InRequest::Forwarders, "{name}");
        }
        for name in [
            "x-very",
            "xverified",
            "verified",
            "x-unverified",
            "x-forwardedness",
            "xforwarded-for",
            "x",
            "x-",
        ] {
            assert_eq!(in_request(name.as_bytes()), InRequest::Passes, "{name}");
        }
    }
}
