//! Messages of the attach stream: read, written and read again they are the same, and whoever may
//! enter can be told of.

use std::fmt::Debug;
use std::sync::Arc;

use jetway_protocol::attach::{Entry, Outcome, ToDrone, ToProxy};

use crate::headers::{FixedHeaders, Forwarding};
use crate::peer::forwarders::Peer;

/// `bytes`: one text frame.
pub fn attach(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(message) = serde_json::from_str::<ToDrone>(text) {
        is_the_same_again(&message, serde_json::to_string(&message), |text| serde_json::from_str(text));
    }
    let Ok(message) = serde_json::from_str::<ToProxy>(text) else { return };
    is_the_same_again(&message, serde_json::to_string(&message), |text| serde_json::from_str(text));
    if let ToProxy::Answer { outcome: Outcome::Ready(entry), .. } = message {
        enters(*entry);
    }
}

fn is_the_same_again<T: PartialEq + Debug>(
    message: &T,
    written: serde_json::Result<String>,
    read: impl Fn(&str) -> serde_json::Result<T>,
) {
    let written = written.expect("a message always is JSON");
    match read(&written) {
        Ok(again) => assert_eq!(&again, message, "{written}"),
        Err(error) => panic!("{written}: {error}"),
    }
}

/// What an application is to be told of a user is written as headers, whole, or the user is not let
/// in.
fn enters(entry: Entry) {
    let entry = Arc::new(entry);
    let host = Arc::from("sub.example.com");
    let peer = Peer { address: ([192, 0, 2, 7], 1).into(), trusted: false };
    let forwarding = Forwarding { peer, scheme: "https", host: &host };
    let backend = "b-1".parse().expect("an id");
    let is_header = |text: &str| text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 127));
    let texts = [Some(&entry.auth), Some(&entry.secret), entry.user.as_ref()];
    let can_be_told = texts.into_iter().flatten().all(|text| is_header(text));
    let fixed = FixedHeaders::new(Arc::clone(&entry), &backend, &forwarding);
    assert_eq!(fixed.is_ok(), can_be_told, "{entry:?}");
}
