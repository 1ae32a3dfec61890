//! What a start is held up by, in words that a developer can act on. A hint is no end: the start
//! goes on, and may still succeed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::PortName;
use crate::spec::Port;

/// The application listens, but not where Jetway looks for it.
pub const LISTENS_ELSEWHERE: &str = "listens_elsewhere";
/// Places that one message names.
const PLACES_SHOWN: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Hint {
    /// Stable. A string and no enum: what a newer drone says passes through an older controller.
    pub code: String,
    /// One sentence, without a capital and a full stop, that says what to do.
    pub message: String,
}

impl Hint {
    /// `None` where nothing is wrong so far: the application has opened only ports that the spec
    /// names beside the main one.
    pub fn of_listeners(port: u16, named: &BTreeMap<PortName, Port>, places: &[SocketAddr]) -> Option<Self> {
        let message = format!("the application {}", listens_elsewhere(port, &misplaced(named, places))?);
        Some(Self { code: LISTENS_ELSEWHERE.to_owned(), message })
    }
}

/// The places that neither the main port nor a named one explains.
pub fn misplaced(named: &BTreeMap<PortName, Port>, places: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_named = |place: &SocketAddr| {
        !place.ip().is_loopback() && named.values().any(|named| named.port == place.port())
    };
    places.iter().filter(|place| !is_named(place)).copied().collect()
}

/// What is wrong with these places and both cures, after "the application" or "it". `None` without
/// a place.
pub fn listens_elsewhere(port: u16, places: &[SocketAddr]) -> Option<String> {
    let first = places.first()?;
    let shown: Vec<String> = places.iter().take(PLACES_SHOWN).map(ToString::to_string).collect();
    let more = if places.len() > PLACES_SHOWN { " and more" } else { "" };
    let says = format!("listens on {}{more}", shown.join(", "));
    if places.iter().any(|place| place.port() == port) {
        return Some(format!(
            "{says}, which cannot be reached from outside of its container: make it listen on 0.0.0.0:{port}"
        ));
    }
    let reached = places.iter().find(|place| !place.ip().is_loopback());
    let on_loopback = if reached.is_none() { ", and make it listen on 0.0.0.0" } else { "" };
    let other = reached.unwrap_or(first).port();
    Some(format!(
        "{says}, and Jetway looks for it on port {port}: make it listen on 0.0.0.0:{port} (its environment has PORT={port}), \
         or set \"port\": {other} in spawn_config.executable{on_loopback}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(named: &[(&str, u16)], places: &[&str]) -> Option<String> {
        let port = |port| Port { port, protocol: crate::spec::Protocol::default() };
        let named = named.iter().map(|(name, number)| (name.parse().unwrap(), port(*number))).collect();
        let places: Vec<SocketAddr> = places.iter().map(|place| place.parse().unwrap()).collect();
        let hint = Hint::of_listeners(8080, &named, &places)?;
        assert_eq!(hint.code, "listens_elsewhere");
        Some(hint.message)
    }

    #[test]
    fn another_port_has_two_cures() {
        let message = hint(&[], &["0.0.0.0:3000"]).unwrap();
        assert!(
            message.contains("listens on 0.0.0.0:3000, and Jetway looks for it on port 8080"),
            "{message}"
        );
        assert!(message.contains("make it listen on 0.0.0.0:8080"), "{message}");
        assert!(message.contains("\"port\": 3000 in spawn_config.executable"), "{message}");
        // Of several, the one that can be reached is the one to name.
        let message = hint(&[], &["127.0.0.1:6000", "[::]:5000"]).unwrap();
        assert!(
            message.contains("\"port\": 5000 in spawn_config.executable") && !message.ends_with("0.0.0.0"),
            "{message}"
        );
        let message = hint(&[], &["127.0.0.1:3000"]).unwrap();
        assert!(
            message.ends_with("\"port\": 3000 in spawn_config.executable, and make it listen on 0.0.0.0"),
            "{message}"
        );
    }

    #[test]
    fn the_right_port_on_loopback_has_one_cure() {
        let message = hint(&[], &["127.0.0.1:8080"]).unwrap();
        assert!(
            message.ends_with("make it listen on 0.0.0.0:8080") && !message.contains("\"port\""),
            "{message}"
        );
    }

    #[test]
    fn ports_that_the_spec_names_are_no_mistake() {
        assert_eq!(hint(&[("debug", 9229)], &["0.0.0.0:9229"]), None);
        assert_eq!(hint(&[], &[]), None);
        let message = hint(&[("debug", 9229)], &["0.0.0.0:9229", "0.0.0.0:3000"]).unwrap();
        assert!(message.contains("listens on 0.0.0.0:3000, and"), "{message}");
        assert!(hint(&[("debug", 9229)], &["127.0.0.1:9229"]).is_some(), "loopback reaches nobody");
    }

    #[test]
    fn a_crowd_of_places_is_cut() {
        let places: Vec<String> = (1..=9).map(|n| format!("0.0.0.0:{n}")).collect();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        assert!(hint(&[], &places).unwrap().contains("0.0.0.0:3 and more, "));
    }
}
