//! What a test may want of its installation.

use std::collections::HashMap;

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Controller,
    Drone,
    Proxy,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More flags for a role.
    pub flags: HashMap<Role, Vec<String>>,
    /// More environment, for every role.
    pub variables: Vec<(String, String)>,
    /// The cluster's name, where it is not this machine's own.
    pub cluster: Option<String>,
    /// The proxy runs elsewhere: in this network namespace.
    pub elsewhere: Option<Elsewhere>,
    /// An engine of the test's own, as `DOCKER_HOST` has it, for the drone and the test.
    pub engine: Option<String>,
    /// A database of the test's own, as a URL.
    pub database: Option<String>,
}

/// Another host, played by a network namespace.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    pub namespace: String,
    /// This host's address, as seen from there.
    pub here: String,
    /// The namespace's own address.
    pub there: String,
}

impl Options {
    /// Where the controller and the drone listen.
    pub fn here(&self) -> &str {
        self.elsewhere.as_ref().map_or("127.0.0.1", |elsewhere| &elsewhere.here)
    }

    pub fn proxy_host(&self) -> &str {
        self.elsewhere.as_ref().map_or("127.0.0.1", |elsewhere| &elsewhere.there)
    }

    /// By which browsers reach the proxy at this port.
    pub fn cluster_at(&self, port: u16) -> String {
        self.cluster.clone().unwrap_or_else(|| match &self.elsewhere {
            Some(elsewhere) => format!("{}:{port}", elsewhere.there),
            None => format!("localhost:{port}"),
        })
    }

    pub fn with(mut self, role: Role, flags: &[&str]) -> Self {
        self.flags.entry(role).or_default().extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }
}

/// Members of `over` replace those of `base`, objects member by member.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
