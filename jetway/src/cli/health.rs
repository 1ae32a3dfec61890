//! `jetway health`: for container health checks, where no shell and no curl is. Without an argument it asks the role that
//! the container runs, so that one image's check serves every role. It runs every few seconds in each container: no TLS
//! is set up for plain http, and `main` gives it the smallest runtime.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;

use super::output;
use super::role::{Role, Running};

#[derive(Debug, Args)]
pub struct HealthArguments {
    /// controller, drone, proxy, or a URL; by default the role that this container runs (process 1)
    #[arg(value_name = "ROLE or URL")]
    of: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

const DEADLINE: Duration = Duration::from_secs(3);
/// Of a failing answer's body, in the error.
const BODY_CHARS_MAX: usize = 300;
pub async fn run(arguments: HealthArguments) -> anyhow::Result<ExitCode> {
    let first = std::fs::read("/proc/1/cmdline").ok();
    let listen = std::env::var("JETWAY_LISTEN").ok();
    let url = url(arguments.of.as_deref(), first.as_deref().unwrap_or_default(), listen.as_deref())?;
    let status = ask(&url).await?;
    if arguments.json {
        output::json(&serde_json::json!({ "healthy": true, "url": url, "status": status }));
    } else {
        output::line("ok");
    }
    Ok(ExitCode::SUCCESS)
}

/// The status of a good answer.
pub async fn ask(url: &str) -> anyhow::Result<u16> {
    let client = jetway_service::client::builder().timeout(DEADLINE).build()?;
    let response =
        client.get(url).send().await.map_err(|error| {
            anyhow!("no answer from {url}: {}", jetway_service::client::root_cause(&error))
        })?;
    let status = response.status();
    if !status.is_success() {
        let body: String = response.text().await.unwrap_or_default().chars().take(BODY_CHARS_MAX).collect();
        bail!("{url} answered {status}: {}", output::shown(body.trim()));
    }
    Ok(status.as_u16())
}

/// Whom to ask: the URL given, else the role given or found, at the address that it was told to listen on.
fn url(of: Option<&str>, first: &[u8], listen: Option<&str>) -> anyhow::Result<String> {
    let running = Running::of(first).map(|running| (running.role, running.flag("listen").map(str::to_owned)));
    let (role, told) = match (of, running) {
        (Some(url), _) if url.starts_with("http://") || url.starts_with("https://") => {
            return Ok(url.to_owned());
        }
        (Some(name), running) => {
            let role = Role::called(name).with_context(|| {
                format!("{name:?} is neither controller, drone or proxy nor a URL like http://127.0.0.1:8080/pub/health")
            })?;
            (role, running.filter(|(running, _)| *running == role).and_then(|(_, told)| told))
        }
        (None, Some(running)) => running,
        (None, None) => bail!(
            "process 1 is no role of Jetway: say which to ask (jetway health controller, drone, proxy or a URL)"
        ),
    };
    // A flag outranks the variable, as in the role itself.
    let address = told.as_deref().or(listen).unwrap_or(role.listen());
    let address: SocketAddr =
        address.parse().ok().filter(|address: &SocketAddr| address.port() != 0).with_context(|| {
            format!("the {} listens on {address:?}: no address that can be asked", role.name())
        })?;
    Ok(format!("http://{}{}", reachable(address), role.path()))
}

/// Who listens everywhere is reached on loopback.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::role::ROLES;

    /// The argument, process 1's command line, `JETWAY_LISTEN`, and what is expected.
    type Case<'a> = (Option<&'a str>, &'a [u8], Option<&'a str>, &'a str);

    fn cmdline(words: &[&str]) -> Vec<u8> {
        words.iter().flat_map(|word| word.bytes().chain([0])).collect()
    }

    #[test]
    fn whom_to_ask_comes_from_the_argument_process_1_and_the_environment() {
        let none = cmdline(&["/sbin/init"]);
        let plain = cmdline(&["/bin/jetway", "drone"]);
        let told = cmdline(&["/bin/jetway", "proxy", "--name", "a", "--listen", "0.0.0.0:91"]);
        let under_init =
            cmdline(&["/sbin/docker-init", "--", "/bin/jetway", "controller", "--listen=[::]:81"]);
        let cases: [Case; 11] = [
            (Some("http://h/x"), &none, None, "http://h/x"),
            (Some("https://h/x"), &told, Some("1.2.3.4:5"), "https://h/x"),
            (Some("controller"), &none, None, "http://127.0.0.1:8080/pub/health"),
            (Some("drone"), &none, None, "http://127.0.0.1:7070/health"),
            (Some("proxy"), &none, None, "http://127.0.0.1:9090/ready"),
            (Some("proxy"), &none, Some("[::]:92"), "http://[::1]:92/ready"),
            (Some("drone"), &told, None, "http://127.0.0.1:7070/health"),
            (None, &plain, None, "http://127.0.0.1:7070/health"),
            (None, &plain, Some("10.1.2.3:71"), "http://10.1.2.3:71/health"),
            (None, &told, Some("0.0.0.0:99"), "http://127.0.0.1:91/ready"),
            (None, &under_init, None, "http://[::1]:81/pub/health"),
        ];
        for (of, first, listen, expect) in cases {
            assert_eq!(url(of, first, listen).unwrap(), expect);
        }
    }

    #[test]
    fn what_cannot_be_asked_is_said() {
        let dev = cmdline(&["/bin/jetway", "dev"]);
        let free = cmdline(&["/bin/jetway", "drone", "--listen", "127.0.0.1:0"]);
        let cases: [Case; 6] = [
            (None, b"", None, "say which to ask"),
            (None, &dev, None, "say which to ask"),
            (Some("nonsense"), b"", None, "neither controller"),
            (Some("ftp://h"), b"", None, "neither controller"),
            (Some("drone"), b"", Some("nonsense"), "no address that can be asked"),
            (None, &free, None, "no address that can be asked"),
        ];
        for (of, first, listen, expect) in cases {
            let said = url(of, first, listen).unwrap_err().to_string();
            assert!(said.contains(expect) && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn the_addresses_are_the_roles_own() {
        let command = crate::cli::Arguments::command();
        for role in ROLES {
            let role_command = command.find_subcommand(role.name()).unwrap();
            let listen = role_command.get_arguments().find(|argument| argument.get_id() == "listen").unwrap();
            assert_eq!(listen.get_default_values(), [role.listen()]);
            assert_eq!(listen.get_env().unwrap(), "JETWAY_LISTEN");
        }
    }
}
