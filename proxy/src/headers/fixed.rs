//! Headers that are the same in every request of one connection to one session under one host:
//! written once, copied into each.

use std::sync::{Arc, OnceLock};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use jetway_protocol::attach::Entry;
use jetway_protocol::ids::BackendId;

use super::forwarded::{self, Forwarding};
use super::guard::Guard;
use super::lines::write_line;
use super::value::{Unwritable, value};

const USERNAME: HeaderName = HeaderName::from_static("x-verified-username");
const USER_DATA: HeaderName = HeaderName::from_static("x-verified-user-data");
const BACKEND: HeaderName = HeaderName::from_static("x-verified-backend");
const SECRET: HeaderName = HeaderName::from_static("x-verified-secret");

#[derive(Debug)]
pub struct FixedHeaders {
    entry: Arc<Entry>,
    host: Arc<str>,
    scheme: &'static str,
    /// The backend's id.
    pub backend: HeaderValue,
    lines: Vec<(HeaderName, HeaderValue)>,
    /// The same as they are sent, made on first use.
    written: OnceLock<Box<[u8]>>,
    /// Of answers in the host form, made on first use.
    guard: OnceLock<Guard>,
}

impl FixedHeaders {
    pub fn new(
        entry: Arc<Entry>,
        backend: &BackendId,
        forwarding: &Forwarding<'_>,
    ) -> Result<Self, Unwritable> {
        let backend = value(&BACKEND, backend.as_str())?;
        let mut lines = vec![
            (USER_DATA, value(&USER_DATA, &entry.auth)?),
            (BACKEND, backend.clone()),
            (SECRET, value(&SECRET, &entry.secret)?),
        ];
        if let Some(user) = &entry.user {
            lines.push((USERNAME, value(&USERNAME, user)?));
        }
        if !forwarding.peer.trusted {
            // Its own words are not passed on, so all of this is known by now.
            let mut told = HeaderMap::new();
            forwarded::tell(&mut told, forwarding)?;
            lines.extend(told.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let (host, scheme) = (forwarding.host.clone(), forwarding.scheme);
        let (written, guard) = (OnceLock::new(), OnceLock::new());
        Ok(Self { entry, host, scheme, backend, lines, written, guard })
    }

    pub fn guard(&self) -> &Guard {
        self.guard.get_or_init(|| Guard::new(&self.entry.allowed_origins))
    }

    /// Whether it suits another request of the same connection.
    pub fn suits(&self, entry: &Arc<Entry>, host: &Arc<str>, scheme: &'static str) -> bool {
        Arc::ptr_eq(&self.entry, entry) && self.host == *host && self.scheme == scheme
    }

    pub fn written(&self) -> &[u8] {
        self.written.get_or_init(|| {
            let mut text = Vec::new();
            for (name, value) in &self.lines {
                write_line(&mut text, name.as_str(), value.as_bytes());
            }
            text.into()
        })
    }

    pub fn set(&self, headers: &mut HeaderMap) {
        headers.reserve(self.lines.len());
        for (name, value) in &self.lines {
            headers.insert(name.clone(), value.clone());
        }
    }
}
