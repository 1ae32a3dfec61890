//! A plain head at a session's host: whether one cookie lets its client in, and nothing else in it
//! is for the proxy. Pure.

use http::Method;
use jetway_protocol::host::RESERVED;
use jetway_protocol::token::STATIC_PREFIX;

use super::request::{Form, range};
use crate::forward::worker;
use crate::headers::own_cookie::{self, Own};
use crate::request::ambient::{Ambient, Page};
use crate::request::credentials;

/// Where a Host leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The installation is not known yet: it may be any session's.
    Unknown,
    /// The cluster's own host, or an address.
    Own,
    /// A session's. `takes_paths`: a path may carry a token there too.
    Session { takes_paths: bool },
}

/// `None`: it is not plain. `bytes` has all of it.
pub fn form(
    bytes: &[u8],
    method: &Method,
    path: &str,
    lines: &[httparse::Header<'_>],
    takes_paths: bool,
) -> Option<Form> {
    if *method == Method::OPTIONS || path.starts_with(RESERVED) {
        return None;
    }
    let (mut cookie, mut ambient) = (None, Ambient::new(method, false));
    for httparse::Header { name, value } in lines {
        match name.len() {
            6 if name.eq_ignore_ascii_case("cookie") => match own_cookie::own(value) {
                Own::None => {}
                Own::One(own) if cookie.is_none() => cookie = Some(value.get(own)?),
                Own::One(_) | Own::Odd => return None,
            },
            13 if name.eq_ignore_ascii_case("authorization") && credentials::bearer(value).is_some() => {
                return None;
            }
            14 if credentials::is_token_header(name) || worker::is_noticed(name, value) => return None,
            6 | 7 | 14 => ambient.note(name, value),
            _ => {}
        }
    }
    let Some(cookie) = cookie else { return takes_paths.then_some(Form::Path { is_own: false }) };
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let first = first.strip_prefix(STATIC_PREFIX).unwrap_or(first);
    let may_be_newer = takes_paths && credentials::may_be_ours(first.as_bytes());
    // Pages of others, and frames, are the other lane's to judge.
    let is_own = ambient.page(None) == Page::Own && !ambient.is_frame();
    (is_own && !may_be_newer).then(|| Form::Host { cookie: range(bytes, cookie) })
}
