//! Where `jetway doctor` was started: which role this container runs, and which controllers it
//! belongs to. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;

use crate::cli::api::DEFAULT_API_URL;
use crate::cli::health;
use crate::cli::role::{Role, Running};

/// What is known of this place.
#[derive(Debug, PartialEq, Eq)]
pub struct Here {
    /// `None`: somebody's own machine.
    pub role: Option<Role>,
    /// Base URLs, tried in their order.
    pub controllers: Vec<String>,
    /// Of a drone.
    pub name: Option<String>,
    pub run_dir: Option<PathBuf>,
    pub init: Option<PathBuf>,
    /// Where the role itself says how it is.
    pub own_health: Option<String>,
}

/// `named`: the argument. `api_url`: the flag or its default.
pub fn find(
    named: Option<&str>,
    running: Option<&Running>,
    api_url: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Here> {
    let role = match named {
        Some(name) => Some(Role::called(name).with_context(|| {
            format!(
                "{name:?} is no role: controller, drone or proxy (none: this machine, and the installation)"
            )
        })?),
        None => running.map(|running| running.role),
    };
    let running = running.filter(|running| Some(running.role) == role);
    // A flag outranks the variable, as in the role itself.
    let told = |flag: &str, name: &str| {
        let flag = running.and_then(|running| running.flag(flag)).map(str::to_owned);
        flag.or_else(|| variable(name)).filter(|value| !value.is_empty())
    };
    let listen = role.map(|role| told("listen", "JETWAY_LISTEN").unwrap_or_else(|| role.listen().to_owned()));
    let listen = listen.and_then(|listen| listen.parse::<SocketAddr>().ok()).map(health::reachable);
    let own = listen.map(|address| format!("http://{address}"));
    let controllers = match (told("controller", "JETWAY_CONTROLLER"), &own) {
        // What was said to this command comes first.
        _ if api_url != DEFAULT_API_URL => vec![api_url.to_owned()],
        (_, Some(own)) if role == Some(Role::Controller) => vec![own.clone()],
        (Some(controllers), _) => controllers.split(',').map(|url| url.trim().to_owned()).collect(),
        (None, _) => vec![api_url.to_owned()],
    };
    Ok(Here {
        name: told("name", "JETWAY_NAME").filter(|_| role == Some(Role::Drone)),
        run_dir: told("run-dir", "JETWAY_RUN_DIR").map(PathBuf::from),
        init: told("init", "JETWAY_INIT").map(PathBuf::from),
        own_health: own.zip(role).map(|(own, role)| format!("{own}{}", role.path())),
        role,
        controllers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(words: &[&str]) -> Option<Running> {
        Running::of(&words.iter().flat_map(|word| word.bytes().chain([0])).collect::<Vec<u8>>())
    }

    fn found(running: Option<&Running>, api_url: &str, variables: &[(&str, &str)]) -> Here {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        find(None, running, api_url, variable).unwrap()
    }

    #[test]
    fn a_drones_container_asks_its_own_controllers() {
        let drone = running(&["/bin/jetway", "drone"]);
        let variables = [
            ("JETWAY_CONTROLLER", "http://10.63.0.11:8080,http://10.63.0.12:8080"),
            ("JETWAY_NAME", "one"),
            ("JETWAY_LISTEN", "0.0.0.0:7071"),
            ("JETWAY_RUN_DIR", "/run/jetway/one"),
        ];
        let here = found(drone.as_ref(), DEFAULT_API_URL, &variables);
        assert_eq!(here.role, Some(Role::Drone));
        assert_eq!(here.controllers, ["http://10.63.0.11:8080", "http://10.63.0.12:8080"]);
        assert_eq!((here.name.as_deref(), here.run_dir), (Some("one"), Some("/run/jetway/one".into())));
        assert_eq!(here.own_health.as_deref(), Some("http://127.0.0.1:7071/health"));
        // What was said to the command, and to the role by flags, comes first.
        assert_eq!(found(drone.as_ref(), "http://h:1", &variables).controllers, ["http://h:1"]);
        let told = running(&["jetway", "drone", "--controller=http://c:1", "--name", "two"]);
        let here = found(told.as_ref(), DEFAULT_API_URL, &variables);
        assert_eq!((here.controllers, here.name.as_deref()), (vec!["http://c:1".to_owned()], Some("two")));
    }

    #[test]
    fn a_controller_asks_itself_and_a_machine_the_usual_address() {
        let controller = running(&["jetway", "controller", "--listen", "0.0.0.0:81"]);
        assert_eq!(found(controller.as_ref(), DEFAULT_API_URL, &[]).controllers, ["http://127.0.0.1:81"]);
        let here = found(None, DEFAULT_API_URL, &[]);
        assert_eq!((here.role, here.controllers), (None, vec![DEFAULT_API_URL.to_owned()]));
        let here = found(None, DEFAULT_API_URL, &[("JETWAY_CONTROLLER", "http://c:1")]);
        assert_eq!(here.controllers, ["http://c:1"]);
        assert!(find(Some("dron"), None, DEFAULT_API_URL, |_| None).is_err());
        let here = find(Some("proxy"), controller.as_ref(), DEFAULT_API_URL, |_| None).unwrap();
        assert_eq!(here.own_health.as_deref(), Some("http://127.0.0.1:9090/ready"));
    }
}
