//! Questions of the rules to a map of fields, and removals from it.

use http::header::{self, CONNECTION, HeaderMap, HeaderName};

/// A client that nominates these means harm or does not know what it says; the message would be
/// another without them.
static NOT_NOMINABLE: [HeaderName; 2] = [header::HOST, header::CONTENT_LENGTH];

pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

pub fn remove_nominated(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let nominated: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
    for name in nominated.iter().filter(|name| !NOT_NOMINABLE.contains(name)) {
        headers.remove(name);
    }
}

/// One pass over the fields is less than a look for each that might be there.
pub fn remove_where(headers: &mut HeaderMap, mut goes: impl FnMut(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}
