//! The ports besides the main one that a caller may reach by name.

use std::collections::BTreeMap;

use jetway_protocol::ids::PortName;
use jetway_protocol::spec::{Port, Protocol};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::refusal::{Checked, Refusal, number, shown};

const PORTS_MAX: usize = 16;
const AT: &str = "spawn_config.executable.ports";

/// A port's number, or more of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = NamedPort)]
#[serde(untagged, expecting = "a port number, or an object with port and protocol")]
pub enum PortRequest {
    Number(i64),
    Full(FullPortRequest),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PortAndProtocol)]
#[serde(deny_unknown_fields)]
pub struct FullPortRequest {
    #[schema(minimum = 1, maximum = 65_535)]
    pub port: i64,
    /// By default the main port's where it is the main port, else `http1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// A name for the main port speaks what that does, unless it says otherwise.
pub fn check(requested: BTreeMap<String, PortRequest>, main: Port) -> Checked<BTreeMap<PortName, Port>> {
    if requested.len() > PORTS_MAX {
        return Err(Refusal::invalid(format!("{AT} has more than {PORTS_MAX} entries")));
    }
    requested.into_iter().map(|(name, port)| one(&name, port, main)).collect()
}

fn one(name: &str, requested: PortRequest, main: Port) -> Checked<(PortName, Port)> {
    let (number_given, protocol) = match requested {
        PortRequest::Number(port) => (port, None),
        PortRequest::Full(full) => (full.port, full.protocol),
    };
    let name: PortName =
        name.parse().map_err(|error| Refusal::invalid(format!("{AT}: {}: {error}", shown(name))))?;
    let port = number(&format!("{AT}.{name}"), Some(number_given), 1, 65535)?
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(main.port);
    let usual = if port == main.port { main.protocol } else { Protocol::default() };
    Ok((name, Port { port, protocol: protocol.unwrap_or(usual) }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(requested: Value) -> Result<Value, String> {
        let requested = serde_json::from_value(requested).map_err(|error| error.to_string())?;
        let main = Port { port: 8080, protocol: Protocol::H2c };
        let ports = check(requested, main).map_err(|error| format!("{error:?}"))?;
        Ok(serde_json::to_value(ports).unwrap())
    }

    #[test]
    fn a_port_is_a_number_or_says_what_it_speaks() {
        let given = json!({
            "http": 8080, "debug": 9229, "rpc": { "port": 50051, "protocol": "h2c" },
            "main-1": { "port": 8080, "protocol": "http1" }, "plain": { "port": 7 }
        });
        let expect = json!({
            "http": { "port": 8080, "protocol": "h2c" }, "debug": { "port": 9229 },
            "rpc": { "port": 50051, "protocol": "h2c" }, "main-1": { "port": 8080 }, "plain": { "port": 7 }
        });
        assert_eq!(checked(given), Ok(expect));
    }

    #[test]
    fn what_no_port_can_be_is_refused_by_name() {
        let many: serde_json::Map<String, Value> = (0..17).map(|n| (format!("p{n}"), json!(1))).collect();
        for (given, said) in [
            (json!({ "debug": 0 }), "ports.debug is 0"),
            (json!({ "debug": 65536 }), "ports.debug is 65536"),
            (json!({ "debug": { "port": -1 } }), "ports.debug is -1"),
            (json!({ "debug": { "port": 1, "protocol": "h3" } }), "port number"),
            (json!({ "debug": { "port": 1, "x": 1 } }), "port number"),
            (json!({ "debug": "9229" }), "port number"),
            (json!({ "Debug": 1 }), "a port's name must be"),
            (json!({ "": 1 }), "a port's name must be"),
            (json!({ "a--b": 1 }), "a port's name must be"),
            (json!({ "-a": 1 }), "a port's name must be"),
            (json!({ "a/b": 1 }), "a port's name must be"),
            (json!({ "sixteen-letters-": 1 }), "a port's name must be"),
            (Value::Object(many), "more than 16"),
        ] {
            let error = checked(given.clone()).unwrap_err();
            assert!(error.contains(said), "{given}: {error}");
        }
    }
}
