//! Which role process 1 runs, from its command line: what `jetway health` and `jetway doctor` go by
//! in a container.

use std::path::Path;

/// What this command's line may be called in `/proc/1/cmdline`.
const EXECUTABLE: &str = "jetway";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Controller,
    Drone,
    Proxy,
}

pub const ROLES: [Role; 3] = [Role::Controller, Role::Drone, Role::Proxy];

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Controller => "controller",
            Role::Drone => "drone",
            Role::Proxy => "proxy",
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Role::Controller => "/pub/health",
            Role::Drone => "/health",
            Role::Proxy => "/ready",
        }
    }

    /// Where it listens unless it was told otherwise.
    pub fn listen(self) -> &'static str {
        match self {
            Role::Controller => "127.0.0.1:8080",
            Role::Drone => "127.0.0.1:7070",
            Role::Proxy => "127.0.0.1:9090",
        }
    }

    pub fn called(name: &str) -> Option<Self> {
        ROLES.into_iter().find(|role| role.name() == name)
    }
}

/// What process 1 runs, and what its flags say. An init such as Docker's may stand before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub role: Role,
    flags: Vec<String>,
}

impl Running {
    pub fn here() -> Option<Self> {
        Self::of(&std::fs::read("/proc/1/cmdline").unwrap_or_default())
    }

    pub fn of(cmdline: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(cmdline);
        let mut words = text.split('\0');
        words.find(|word| Path::new(word).file_name().is_some_and(|name| name == EXECUTABLE))?;
        let role = words.next().and_then(Role::called)?;
        Some(Self { role, flags: words.map(str::to_owned).collect() })
    }

    /// What `--name` was given, as its own word or after `=`; the last one counts.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let flag = format!("--{name}");
        let mut told = None;
        let mut words = self.flags.iter();
        while let Some(word) = words.next() {
            match word.split_once('=') {
                Some((found, value)) if found == flag => told = Some(value),
                None if *word == flag => told = words.next().map(String::as_str),
                Some(_) | None => {}
            }
        }
        told
    }
}
