//! `jetway doctor`: looks at this machine and at the installation, and says what to do about what
//! it finds. In a container it looks at what the role there needs, and at the installation that
//! this belongs to.
//!
//! Each check is one line; the command fails if one of them does.

use std::process::ExitCode;

use clap::Args;
use jetway_drone::runtime::docker::ConnectError;
use jetway_drone::runtime::docker::EngineFacts;
use jetway_drone::runtime::docker::engine::Engine;
use serde_json::{Value, json};

use super::api::ApiArguments;
use super::role::{Role, Running};
use super::{health, output};
use crate::dev::places;
use here::Here;

mod cluster;
mod here;
mod installation;

#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// controller, drone or proxy: what this is to be looked at as; by default the role that this
    /// container runs (process 1)
    role: Option<String>,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// Works, and an operator should know.
    Warning,
    Bad,
}

struct Finding {
    check: &'static str,
    grade: Grade,
    text: String,
}

pub async fn run(arguments: DoctorArguments) -> anyhow::Result<ExitCode> {
    let (running, variable) = (Running::here(), |name: &str| std::env::var(name).ok());
    let here = here::find(arguments.role.as_deref(), running.as_ref(), &arguments.api.api_url, variable)?;
    let mut findings = Vec::new();
    if let Some(url) = &here.own_health {
        findings.push(own(here.role.map_or("role", Role::name), url).await);
    }
    if matches!(here.role, None | Some(Role::Drone)) {
        findings.extend([engine().await, init_executable(&here), run_directory(&here)]);
    }
    findings.extend(installation::look(&arguments.api, &here).await);
    if arguments.api.json {
        let list = Value::Array(findings.iter().map(as_json).collect());
        output::json(&list);
    } else {
        for finding in &findings {
            let mark = match finding.grade {
                Grade::Good => "ok  ",
                Grade::Warning => "note",
                Grade::Bad => "BAD ",
            };
            output::line(&format!("{mark}  {:<14} {}", finding.check, finding.text));
        }
    }
    let failed = findings.iter().any(|finding| finding.grade == Grade::Bad);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_json(finding: &Finding) -> Value {
    let grade = match finding.grade {
        Grade::Good => "ok",
        Grade::Warning => "warning",
        Grade::Bad => "bad",
    };
    json!({ "check": finding.check, "grade": grade, "text": finding.text })
}

fn finding(check: &'static str, grade: Grade, text: impl Into<String>) -> Finding {
    Finding { check, grade, text: text.into() }
}

async fn engine() -> Finding {
    match engine_facts().await {
        Ok(facts) => finding("engine", Grade::Good, engine_text(&facts)),
        Err(error) => finding("engine", Grade::Bad, error.to_string()),
    }
}

fn engine_text(facts: &EngineFacts) -> String {
    let EngineFacts { version, api, storage_driver, can_limit_disk, .. } = facts;
    let disk = match can_limit_disk {
        true => String::new(),
        false => format!(
            "; disk_limit_bytes is not offered: its storage ({storage_driver}) limits no container's disk (overlay2 on xfs with pquota does)"
        ),
    };
    format!("Docker {version}, API {api}{disk}")
}

/// By the connection that a drone makes, so that what is good here is good there.
async fn engine_facts() -> Result<EngineFacts, ConnectError> {
    Engine::from_environment()?.check().await
}

/// What the role says of itself.
async fn own(name: &'static str, url: &str) -> Finding {
    match health::ask(url).await {
        Ok(_) => finding("role", Grade::Good, format!("this is a {name}; {url} answers")),
        Err(error) => finding("role", Grade::Bad, format!("this is a {name}: {error:#}")),
    }
}

fn init_executable(here: &Here) -> Finding {
    match places::init_executable(here.init.clone()) {
        Ok(path) => finding("init", Grade::Good, path.display().to_string()),
        Err(error) => finding("init", Grade::Bad, format!("{error:#}")),
    }
}

fn run_directory(here: &Here) -> Finding {
    let directory = match &here.run_dir {
        Some(run_dir) => Ok((run_dir.clone(), places::is_on_tmpfs(run_dir))),
        None => places::run_base(),
    };
    match directory {
        Ok((path, true)) => finding("run directory", Grade::Good, format!("{} (tmpfs)", path.display())),
        Ok((path, false)) => finding(
            "run directory",
            Grade::Warning,
            format!("{} is not a tmpfs; starts may be slower", path.display()),
        ),
        Err(error) => finding("run directory", Grade::Bad, format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_limits_no_disk_is_told_of() {
        let facts = |can_limit_disk| EngineFacts {
            version: "28.5".to_owned(),
            api: "1.51".to_owned(),
            storage_driver: "overlayfs".to_owned(),
            can_limit_disk,
            ..EngineFacts::default()
        };
        assert_eq!(engine_text(&facts(true)), "Docker 28.5, API 1.51");
        let text = engine_text(&facts(false));
        assert!(text.contains("disk_limit_bytes is not offered") && text.contains("overlayfs"), "{text}");
    }
}
