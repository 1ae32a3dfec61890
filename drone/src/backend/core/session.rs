//! What init is told at a claim: the session's environment, where to look for readiness. When it is
//! told is `start`'s business.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::ids::BackendId;
use jetway_protocol::init::{Session, SessionLease};
use jetway_protocol::spec::InitMode;

/// `address`: of the container, with the session's port.
pub fn of(id: &BackendId, put: &PutBackend, address: SocketAddr, lease: Option<SessionLease>) -> Session {
    let spec = &put.spec;
    let exec = spec.executable.init == InitMode::Exec;
    Session {
        backend: id.clone(),
        fencing_token: put.fencing_token,
        env: environment(id, put),
        argv: None,
        working_dir: None,
        port: (!exec).then_some(spec.executable.port),
        addresses: vec![address.ip()],
        mode: spec.executable.init,
        lease,
    }
}

/// Ours wins over the caller's.
pub fn environment(id: &BackendId, put: &PutBackend) -> BTreeMap<String, String> {
    let spec = &put.spec;
    let mut env = spec.executable.env.clone();
    let mut set = |name: &str, value: String| drop(env.insert(name.to_owned(), value));
    set("PORT", spec.executable.port.to_string());
    set("SESSION_BACKEND_ID", id.to_string());
    set("SESSION_BACKEND_FENCING_TOKEN", put.fencing_token.to_string());
    if let Some(key) = &put.key {
        set("SESSION_BACKEND_KEY", key.name.clone());
    }
    if let Some(token) = &put.static_token {
        set("SESSION_BACKEND_STATIC_TOKEN", token.clone());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::put_of;

    #[test]
    fn ours_wins_over_the_callers_environment() {
        let put = put_of(|spec| {
            spec.executable.env.insert("PORT".to_owned(), "1".to_owned());
        });
        let env = environment(&"b".parse().unwrap(), &put);
        assert_eq!(env["PORT"], "8080");
        assert_eq!(env["SESSION_BACKEND_FENCING_TOKEN"], "9");
        assert!(!env.contains_key("SESSION_BACKEND_KEY"));
    }
}
