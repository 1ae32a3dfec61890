//! Which pages may open WebSockets to a session: origins as browsers write them, so that comparing texts is enough.

use jetway_protocol::grant::{ORIGIN_BYTES_MAX, ORIGINS_MAX};

use crate::error::{ApiError, ApiResult, shown};

pub fn check(origins: Vec<String>) -> ApiResult<Vec<String>> {
    if origins.len() > ORIGINS_MAX {
        return Err(ApiError::invalid(format!("allowed_origins has more than {ORIGINS_MAX} entries")));
    }
    origins.into_iter().map(one).collect()
}

fn one(origin: String) -> ApiResult<String> {
    let lower = origin.to_ascii_lowercase();
    if lower.len() <= ORIGIN_BYTES_MAX && (lower == "null" || is_origin(&lower)) {
        return Ok(lower);
    }
    Err(ApiError::invalid(format!(
        "allowed_origins: {} is no origin as browsers send it: scheme://host, with a port that is not the scheme's, and no slash after it",
        shown(&origin)
    )))
}

/// RFC 6454 §6.2. A browser leaves the scheme's own port out, so an entry that has it would match nothing.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let scheme_is_fine = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => match port.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None => return false,
        },
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let host_is_fine = if rest.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    };
    let usual = match scheme {
        "http" | "ws" => "80",
        "https" | "wss" => "443",
        _ => "",
    };
    let port_is_fine = port.is_none_or(|port| {
        port != usual
            && port.bytes().all(|b| b.is_ascii_digit())
            && !port.starts_with('0')
            && port.parse::<u16>().is_ok()
    });
    scheme_is_fine && host_is_fine && port_is_fine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_write_them() {
        for (given, kept) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com:8443", "https://app.example.com:8443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[::1]", "http://[::1]"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("null", "null"),
        ] {
            assert_eq!(check(vec![given.into()]).unwrap(), [kept]);
        }
        for bad in [
            "",
            "*",
            "app.example.com",
            "https://",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://*.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "http://app.example.com:",
            "http://app.example.com:0",
            "http://app.example.com:65536",
            "http://u@app.example.com",
            "http://app example.com",
            "http://[::1",
            "http://[::1]x",
            "http://[x]",
            "1http://a",
            "http://ä.example.com",
        ] {
            assert!(check(vec![bad.into()]).is_err(), "{bad:?}");
        }
        assert!(check(vec![format!("https://{}", "a".repeat(250))]).is_err());
        assert!(check(vec!["null".into(); 33]).is_err());
    }
}
