//! A drone or a proxy whose surroundings are wrong says so in one line and exits non-zero; where waiting helps, it waits.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::processes::{Process, executable};
use crate::harness::{Options, eventually, with_stack};

const AT_ONCE: Duration = Duration::from_secs(10);
const NOBODY: u32 = 65534;

/// A role that cannot start, with flags that would be good ones.
fn role(name: &str, controller: &str, secret: &str, directory: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(executable("jetway")?);
    command.args([name, "--controller", controller, "--listen", "127.0.0.1:0"]).env("JETWAY_SECRET", secret);
    if name == "drone" {
        command.args(["--name", "refused", "--data-dir"]).arg(directory.join("data"));
        command.arg("--run-dir").arg(directory.join("run"));
    }
    Ok(command)
}

/// Runs it to its end, which must be a failure with one line of its own that has `sign` in it.
async fn refused(what: &str, mut command: Command, sign: &str) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let ended = eventually(what, AT_ONCE, async || child.try_wait().ok().flatten().ok_or("it runs")).await;
    if ended.is_err() {
        let _killed = child.kill();
    }
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().context("stderr")?, &mut said)?;
    let status = ended.with_context(|| said.clone())?;
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("jetway: ")).collect();
    ensure!(!status.success() && lines.len() == 1 && lines[0].contains(sign), "{what}: {status}: {said}");
    Ok(())
}

/// A web server that is none of ours.
async fn stranger() -> anyhow::Result<(String, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let serve = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await;
            let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
            let _written = stream.write_all(answer.as_bytes()).await;
        }
    };
    Ok((url, jetway_service::lifecycle::Lifecycle::new().spawn(serve)))
}

#[test]
fn a_controller_that_will_never_take_it_ends_the_start_of_a_drone_and_of_a_proxy() {
    with_stack(Options::default(), async |stack| {
        let (foreign, server) = stranger().await?;
        let (good, other) = (stack.secret.clone(), "x".repeat(40));
        let both = format!("{foreign},{}", stack.api);
        for name in ["drone", "proxy"] {
            for (controller, secret, sign) in [
                ("controller:8080", &good, "begins with neither http:// nor https://"),
                ("http://127.0.0.1:1/ctrl", &good, "after its host and port"),
                (foreign.as_str(), &good, "is no Jetway controller"),
                (stack.api.as_str(), &other, "JETWAY_SECRET"),
                (both.as_str(), &other, "is no Jetway controller"),
            ] {
                let command = role(name, controller, secret, &stack.directory)?;
                refused(&format!("{name} with {controller}"), command, sign).await?;
            }
            ensure!(!stack.directory.join("run").exists(), "the run directory is left");
        }
        server.abort();
        Ok(())
    });
}

#[test]
fn a_controller_that_has_not_answered_yet_is_waited_for() {
    with_stack(Options::default(), async |stack| {
        let (foreign, server) = stranger().await?;
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let controllers = format!("{foreign},http://{nobody}");
        let log = stack.directory.join("waits.log");
        let mut waits =
            Process::start(&log, &mut role("proxy", &controllers, &stack.secret, &stack.directory)?)?;
        eventually("both are told of", AT_ONCE, async || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let told = said.contains("is no Jetway controller") && said.contains("no controller answers yet");
            if told && waits.is_running() { Ok(()) } else { Err(said) }
        })
        .await?;
        ensure!(waits.stop(nix::sys::signal::Signal::SIGTERM).await?, "an orderly stop");
        server.abort();
        Ok(())
    });
}

#[test]
fn a_data_directory_in_use_and_a_name_that_is_another_drones_end_a_drones_start() {
    with_stack(Options::default(), async |stack| {
        let (data, run) = (stack.directory.join("drone"), stack.run_dir.clone());
        let drone = |data: &Path, run: &Path, name: &str| -> anyhow::Result<Command> {
            let mut command = Command::new(executable("jetway")?);
            command.args(["drone", "--controller", &stack.api, "--listen", "127.0.0.1:0", "--name", name]);
            command.arg("--data-dir").arg(data).arg("--run-dir").arg(run);
            command.env("JETWAY_SECRET", &stack.secret);
            Ok(command)
        };
        let (other, other_run) = (stack.directory.join("other"), stack.directory.join("other-run"));
        let name =
            stack.get("/ctrl/drones").await?["drones"][0]["name"].as_str().unwrap_or_default().to_owned();
        for (what, command, sign) in [
            ("the same data directory", drone(&data, &other_run, "second")?, "in use by another drone"),
            ("the same run directory", drone(&other, &run, "second")?, "in use by another drone"),
            ("the same name", drone(&other, &other_run, &name)?, "belongs to another drone"),
        ] {
            refused(what, command, sign).await?;
        }
        stack.until_ready().await
    });
}

#[test]
fn an_engine_that_cannot_be_used_ends_a_drones_start() {
    with_stack(Options::default(), async |stack| {
        let directory = stack.directory.join("engine");
        std::fs::create_dir_all(directory.join("docker.sock"))?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
        let closed = directory.join("closed.sock");
        let _listens = std::os::unix::net::UnixListener::bind(&closed)?;
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o600))?;
        for (host, sign) in [
            (format!("unix://{}", directory.join("docker.sock").display()), "is a directory"),
            (format!("unix://{}", closed.display()), "no permission"),
            ("tcp://127.0.0.1:2375".to_owned(), "sessions need an engine on this host"),
        ] {
            let mut command = role("drone", &stack.api, &stack.secret, &directory)?;
            command.env("DOCKER_HOST", &host).uid(NOBODY);
            refused(&host, command, sign).await?;
        }
        Ok(())
    });
}
