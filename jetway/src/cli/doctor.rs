//! `jetway doctor`: looks at this machine and at the installation, and says what to do about what it finds.
//!
//! Each check is one line; the command fails if one of them does.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::api::ApiArguments;
use super::output;
use crate::dev::places;

#[derive(Debug, Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// Works, but somebody should know.
    Warning,
    Bad,
}

struct Finding {
    check: &'static str,
    grade: Grade,
    text: String,
}

pub async fn run(arguments: DoctorArguments) -> anyhow::Result<ExitCode> {
    let mut findings = vec![engine().await, init_executable(), run_directory()];
    findings.extend(installation(&arguments.api).await);
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
    let check = "engine";
    let docker = match bollard::Docker::connect_with_local_defaults() {
        Ok(docker) => docker,
        Err(error) => return finding(check, Grade::Bad, format!("no Docker engine: {error}")),
    };
    match docker.version().await {
        Ok(version) => {
            let (name, api) = (version.version.unwrap_or_default(), version.api_version.unwrap_or_default());
            finding(check, Grade::Good, format!("Docker {name}, API {api}"))
        }
        Err(error) => finding(
            check,
            Grade::Bad,
            format!(
                "the Docker engine does not answer: {error}. Start it (systemctl start docker), and be root or in the group docker"
            ),
        ),
    }
}

fn init_executable() -> Finding {
    match places::init_executable(None) {
        Ok(path) => finding("init", Grade::Good, path.display().to_string()),
        Err(error) => finding("init", Grade::Bad, format!("{error:#}")),
    }
}

fn run_directory() -> Finding {
    match places::run_base() {
        Ok((path, true)) => finding("run directory", Grade::Good, format!("{} (tmpfs)", path.display())),
        Ok((path, false)) => finding(
            "run directory",
            Grade::Warning,
            format!("{} is not a tmpfs; starts may be slower", path.display()),
        ),
        Err(error) => finding("run directory", Grade::Bad, format!("{error:#}")),
    }
}

async fn installation(api: &ApiArguments) -> Vec<Finding> {
    let status = match api.get("/ctrl/status").await {
        Ok(status) => status,
        Err(error) => return vec![finding("controller", Grade::Bad, format!("{error:#}"))],
    };
    let version = status["version"].as_str().unwrap_or("?");
    let mut findings =
        vec![finding("controller", Grade::Good, format!("{} (version {version})", api.api_url))];
    let drones = match api.get("/ctrl/drones").await {
        Ok(list) => list["drones"].as_array().cloned().unwrap_or_default(),
        Err(error) => {
            findings.push(finding("drones", Grade::Bad, format!("{error:#}")));
            return findings;
        }
    };
    if drones.is_empty() {
        findings.push(finding("drones", Grade::Bad, "none is registered: start one with jetway drone"));
    }
    for drone in &drones {
        findings.push(drone_finding(drone));
    }
    findings
}

fn drone_finding(drone: &Value) -> Finding {
    let name = drone["name"].as_str().unwrap_or("?");
    let age = drone["last_heartbeat_age_ms"].as_i64().unwrap_or_default() / 1000;
    match drone["state"].as_str().unwrap_or("?") {
        "ready" => {}
        "draining" => {
            return finding(
                "drone",
                Grade::Warning,
                format!("{name} is draining (jetway drain {name} --undo)"),
            );
        }
        "silent" => {
            return finding(
                "drone",
                Grade::Bad,
                format!("{name} is away: its last heartbeat was {age} s ago"),
            );
        }
        "not-ready" => {
            return finding(
                "drone",
                Grade::Bad,
                format!("{name} does not serve: its Docker engine does not answer"),
            );
        }
        other => return finding("drone", Grade::Bad, format!("{name} is {other}")),
    }
    let warnings = drone["load"]["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let warnings: Vec<_> = warnings.collect();
    if !warnings.is_empty() {
        return finding("drone", Grade::Warning, format!("{name}: {}", warnings.join("; ")));
    }
    finding("drone", Grade::Good, format!("{name} is ready"))
}
