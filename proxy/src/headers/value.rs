//! A header's value that the proxy makes of a text.

use http::header::{HeaderName, HeaderValue};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} cannot be written as a header")]
pub struct Unwritable(pub HeaderName);

pub(super) fn value(name: &HeaderName, text: &str) -> Result<HeaderValue, Unwritable> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Unwritable(name.clone()))
}
