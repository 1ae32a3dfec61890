//! The headers and trailers that pass, those that are taken off, and those that the proxy sets for
//! the backend and the client.
//!
//! Pure. The order is the rule: hop-by-hop fields and those that `Connection` nominates go first,
//! then every spelling of ours, and only then ours are set, so that they cannot be nominated away
//! (CVE-2025-48865, CVE-2025-64484).
//!
//! `rules` is the table of names, which both lanes read. `request` makes a backend's headers
//! (`forwarded` says for whom the request comes, `fixed` stays the same on a connection),
//! `response` a client's (`cookies` are confined to a session's `origin`; in the host form a
//! `guard` says which pages may have the answer). `own_cookie` is what lets browsers in there.
//! `framing` says how an answer's body ends. `plain` writes the lines of the plain lane. `fields`,
//! `lines` and `value` are the small change of all of them.

mod cookies;
mod fields;
mod fixed;
mod forwarded;
pub mod framing;
pub mod guard;
mod lines;
mod origin;
pub mod own_cookie;
pub mod plain;
mod request;
mod response;
pub mod rules;
mod value;

pub use fixed::FixedHeaders;
pub use forwarded::Forwarding;
pub use origin::{Readers, Served, Shared};
pub use request::{Told, Upgrade, framing_is_plain, oddity, to_backend, upgrade_wanted};
pub use response::{Switched, allow_every_origin, to_client};
pub use value::Unwritable;

use http::header::HeaderMap;

use self::fields::{remove_nominated, remove_where};

/// Trailers, either way.
pub fn trailers(trailers: &mut HeaderMap) {
    remove_nominated(trailers);
    remove_where(trailers, |name| !rules::passes_late(name.as_str().as_bytes()));
}

#[cfg(test)]
fn map(lines: &[(&str, &str)]) -> HeaderMap {
    use http::header::{HeaderName, HeaderValue};
    let parse = |&(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    lines.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_carry_neither_framing_nor_identity() {
        let mut late = map(&[
            ("x-sum", "1"),
            ("X-Verified-Username", "root"),
            ("x_verified_secret", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("content-length", "9"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
            ("authorization", "b"),
            ("remote-user", "root"),
            ("x_real_ip", "1.2.3.4"),
            ("content_length", "9"),
            ("proxy-status", "jetway; error=http_request_denied"),
            ("set-cookie", "a=b"),
        ]);
        trailers(&mut late);
        assert_eq!(late, map(&[("x-sum", "1")]));
    }
}
