//! The hosts' links: one network namespace a host, all joined by a router of namespaces, in which every rule of the faults
//! stands. The machine's own network is not touched. When to cut what is not its business.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::places::{CONTROLLER_PORT, DRONE_PORT, Host, RELAY, WAN};

/// What iptables can take.
const PORTS_A_RULE: usize = 15;

/// Runs a program to its end; its output, or what it complained about.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} is missing (scripts/setup --test)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(arguments: &str) -> anyhow::Result<String> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

/// The links, made by a process that stands on the router.
pub fn make() -> anyhow::Result<()> {
    ip("link set lo up")?;
    ip(&format!("addr add {RELAY}/32 dev lo"))?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding in a namespace of ours")?;
    for host in Host::all() {
        let (name, gateway, namespace) = (host.to_string(), host.gateway(), host.namespace());
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("link add jcx-{name} type veth peer name wan netns {namespace}"))?;
        ip(&format!("addr add {gateway}/30 dev jcx-{name}"))?;
        ip(&format!("link set jcx-{name} up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} addr add {}/30 dev wan", host.address()))?;
        ip(&format!("-n {namespace} link set wan up"))?;
        ip(&format!("-n {namespace} route add default via {gateway}"))?;
    }
    rule("filter", "-N", "JCX", "")?;
    for chain in ["FORWARD", "INPUT", "OUTPUT"] {
        rule("filter", "-I", chain, "-j JCX")?;
    }
    Ok(())
}

fn rule(table: &str, action: &str, chain: &str, rest: &str) -> anyhow::Result<()> {
    let mut arguments = vec!["-w", "-t", table, action, chain];
    arguments.extend(rest.split(' ').filter(|word| !word.is_empty()));
    run("iptables", &arguments).map(|_| ())
}

/// Rules of one fault; taken back with the value.
#[derive(Default)]
pub struct Rules {
    made: Vec<(&'static str, &'static str, String)>,
}

impl Rules {
    fn add(mut self, table: &'static str, chain: &'static str, rest: String) -> anyhow::Result<Self> {
        rule(table, "-A", chain, &rest)?;
        self.made.push((table, chain, rest));
        Ok(self)
    }

    /// Nothing that the host sends arrives.
    pub fn drop_from(self, host: Host) -> anyhow::Result<Self> {
        self.add("filter", "JCX", format!("-s {} -j DROP", host.address()))
    }

    /// Nothing arrives at the host.
    pub fn drop_to(self, host: Host) -> anyhow::Result<Self> {
        self.add("filter", "JCX", format!("-d {} -j DROP", host.address()))
    }

    pub fn drop_between(self, one: Host, other: Host) -> anyhow::Result<Self> {
        let (one, other) = (one.address(), other.address());
        self.add("filter", "JCX", format!("-s {one} -d {other} -j DROP"))?.add(
            "filter",
            "JCX",
            format!("-s {other} -d {one} -j DROP"),
        )
    }

    /// The connections that stand between the two fall silent, from these ports of the first; new ones do not.
    pub fn silence(mut self, one: Host, other: Host, ports: &[u16]) -> anyhow::Result<Self> {
        let (from, to) = (one.address(), other.address());
        for ports in ports.chunks(PORTS_A_RULE) {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            let (tcp, ports) = ("-p tcp -m multiport", ports.join(","));
            self = self
                .add("filter", "JCX", format!("{tcp} -s {from} --sports {ports} -d {to} -j DROP"))?
                .add("filter", "JCX", format!("{tcp} -s {to} -d {from} --dports {ports} -j DROP"))?;
        }
        Ok(self)
    }

    /// Loses this part of the packets, both ways.
    pub fn lose(self, host: Host, part: f64) -> anyhow::Result<Self> {
        let rest = format!("-m statistic --mode random --probability {part} -j DROP");
        self.add("filter", "JCX", format!("-s {} {rest}", host.address()))?.add(
            "filter",
            "JCX",
            format!("-d {} {rest}", host.address()),
        )
    }

    /// New connections between a drone and a controller go through the relay: (towards the drone, towards the controller).
    pub fn relay(self, drone: Host, controller: Host, ports: (u16, u16)) -> anyhow::Result<Self> {
        let (at_drone, at_controller) = (drone.address(), controller.address());
        self.add(
            "nat",
            "PREROUTING",
            format!("-s {at_controller} -d {at_drone} -p tcp --dport {DRONE_PORT} -j DNAT --to-destination {RELAY}:{}", ports.0),
        )?
        .add(
            "nat",
            "PREROUTING",
            format!("-s {at_drone} -d {at_controller} -p tcp --dport {CONTROLLER_PORT} -j DNAT --to-destination {RELAY}:{}", ports.1),
        )
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        for (table, chain, rest) in self.made.drain(..).rev() {
            if let Err(error) = rule(table, "-D", chain, &rest) {
                eprintln!("a rule of a fault stays: {error:#}");
            }
        }
    }
}

/// The ports, on the first host, of its connections to the second.
pub fn ports(one: Host, other: Host) -> anyhow::Result<Vec<u16>> {
    let namespace = format!("--net=/run/netns/{}", one.namespace());
    let listed = run("nsenter", &[&namespace, "ss", "-H", "-t", "-n", "-a", "dst", &other.address()])?;
    let own = listed.lines().filter_map(|line| line.split_whitespace().nth(3));
    Ok(own.filter_map(|address| address.rsplit(':').next()?.parse().ok()).collect())
}

/// Ends the connections from these ports of the other host, as the one that they lead to forgets them.
pub fn forget(one: Host, other: Host, ports: &[u16]) -> anyhow::Result<()> {
    let namespace = format!("--net=/run/netns/{}", one.namespace());
    for port in ports {
        run(
            "nsenter",
            &[&namespace, "ss", "-K", "-t", "dst", &other.address(), "dport", "=", &port.to_string()],
        )?;
    }
    Ok(())
}

/// Ends every TCP connection between two hosts, as a firewall that forgot them does.
pub fn reset(one: Host, other: Host) -> anyhow::Result<()> {
    let namespace = format!("--net=/run/netns/{}", one.namespace());
    run("nsenter", &[&namespace, "ss", "-K", "-t", "dst", &other.address()]).map(|_| ())
}

/// What the firewall and the links of the machine's other namespaces look like is nobody's business here.
pub fn namespaces() -> Vec<String> {
    std::fs::read_dir("/run/netns")
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name.starts_with("jcx-") && name != WAN)
                .collect()
        })
        .unwrap_or_default()
}

/// Every process that stands in a namespace.
pub fn processes_in(namespace: &str) -> Vec<i32> {
    let Ok(wanted) = std::fs::metadata(format!("/run/netns/{namespace}")) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stands = std::fs::metadata(format!("/proc/{pid}/ns/net"));
        stands.is_ok_and(|stands| stands.ino() == wanted.ino() && stands.dev() == wanted.dev())
    })
    .collect()
}
