//! Header lines as HTTP/1.1 writes them.

use http::header::HeaderMap;

pub fn write_line(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n");
}

pub fn write_all(text: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        write_line(text, name.as_str(), value.as_bytes());
    }
}
