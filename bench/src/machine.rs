//! What the figures were measured on: without it they mean nothing.

use std::fmt;
use std::process::Command;

use bollard::Docker;
use sqlx::{Connection, PgConnection};

use crate::peer::plane;

#[derive(Debug, Clone)]
pub struct Machine {
    pub lines: Vec<(&'static str, String)>,
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "?".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", "),
    )
}

/// The value of a `/proc` file's line.
fn of_proc(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(|| "?".to_owned(), |(_, value)| value.trim().to_owned())
}

fn commit() -> String {
    let is_dirty = !said_by("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    format!(
        "{}{}",
        said_by("git", &["rev-parse", "--short", "HEAD"]),
        if is_dirty { ", and changes" } else { "" }
    )
}

impl Machine {
    pub async fn look(docker: &Docker) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism()?;
        let memory = of_proc("/proc/meminfo", "MemTotal");
        let engine = docker.version().await?;
        let mut postgres = PgConnection::connect(&std::env::var("JETWAY_TEST_DB")?).await?;
        let version: String =
            sqlx::query_scalar("select current_setting('server_version')").fetch_one(&mut postgres).await?;
        let plane = plane::executable().map_or_else(
            || format!("not installed; {}", plane::HOW_TO_INSTALL),
            |path| {
                let said = said_by(&path.display().to_string(), &["version"]);
                said.split(',').next().unwrap_or_default().replace("Client version: ", "")
            },
        );
        Ok(Self {
            lines: vec![
                ("date", said_by("date", &["-u", "+%F %H:%M UTC"])),
                ("commit", commit()),
                ("machine", format!("{cores} cores, {}, {memory}", of_proc("/proc/cpuinfo", "model name"))),
                ("kernel", said_by("uname", &["-r"])),
                ("Docker", engine.version.unwrap_or_default()),
                ("Postgres", format!("{version}, durable commits")),
                ("Plane", plane),
                ("rustc", said_by("rustc", &["--version"])),
                ("load before", std::fs::read_to_string("/proc/loadavg")?.trim().to_owned()),
            ],
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.lines {
            writeln!(f, "* {name}: {value}")?;
        }
        Ok(())
    }
}
