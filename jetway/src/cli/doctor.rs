//! `jetway doctor`: looks at this machine and at the installation, and says what to do about what it finds.
//!
//! Each check is one line; the command fails if one of them does.

use std::process::ExitCode;

use clap::Args;
use jetway_drone::runtime::docker::config::ConnectError;
use jetway_drone::runtime::docker::engine::{Engine, EngineFacts};
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
    match engine_facts().await {
        Ok(facts) => finding("engine", Grade::Good, format!("Docker {}, API {}", facts.version, facts.api)),
        Err(error) => finding("engine", Grade::Bad, error.to_string()),
    }
}

/// By the connection that a drone makes, so that what is good here is good there.
async fn engine_facts() -> Result<EngineFacts, ConnectError> {
    Engine::from_environment()?.check().await
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
    findings.extend(lease(&status["lease"]));
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

/// Nothing where there is no lease, as in `jetway dev`.
fn lease(lease: &Value) -> Option<Finding> {
    let length = lease["length_seconds"].as_u64()?;
    let margin = lease["margin_seconds"].as_f64().unwrap_or_default();
    if let Some(wait @ 1..) = lease["new_keys_wait_ms"].as_u64() {
        let text = format!(
            "Postgres has failed over; new keys wait {} s, until every drone is outwaited",
            wait.div_ceil(1000)
        );
        return Some(finding("lease", Grade::Warning, text));
    }
    if margin < 20.0 {
        let text =
            format!("{length} s is for tests: applications get less than 10 s to stop (--lease-seconds)");
        return Some(finding("lease", Grade::Warning, text));
    }
    if lease["synchronous_standby"] == false {
        let text = format!(
            "{length} s; Postgres has no synchronous standby: what it loses in a failover makes new keys wait {length} s and more"
        );
        return Some(finding("lease", Grade::Warning, text));
    }
    Some(finding("lease", Grade::Good, format!("{length} s")))
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
        "lease-over" => {
            return finding(
                "drone",
                Grade::Bad,
                format!("{name} was cut off for longer than its lease; its last heartbeat was {age} s ago"),
            );
        }
        "forgotten" => {
            return finding("drone", Grade::Warning, format!("{name} was declared dead (jetway forget)"));
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
