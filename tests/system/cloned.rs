//! A data directory that was copied is an identity that is used twice: the copy does not start, whether on another machine or
//! on the same one, and what the first one runs is not touched.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::processes::executable;
use crate::harness::{Options, Session, Stack, eventually, with_stack};

const AT_ONCE: Duration = Duration::from_secs(10);

/// Runs the copy to its end, which must be a failure with one line that has `sign` in it. `before`: what starts it.
async fn is_refused(stack: &Stack, copy: &Path, before: &[&str], sign: &str) -> anyhow::Result<()> {
    let drone = stack.get("/ctrl/drones").await?["drones"][0].clone();
    let mut words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
    words.push(executable("jetway")?.display().to_string());
    let name = drone["name"].as_str().context("name")?;
    for word in ["drone", "--controller", &stack.api, "--listen", "127.0.0.1:0", "--name", name] {
        words.push(word.to_owned());
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("--data-dir").arg(copy).arg("--run-dir").arg(copy.join("run"));
    command.env("JETWAY_SECRET", &stack.secret);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let ended =
        eventually("the copy ends", AT_ONCE, async || child.try_wait().ok().flatten().ok_or("it runs")).await;
    let _ended_already = child.kill();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().context("stderr")?, &mut said)?;
    let status = ended.with_context(|| said.clone())?;
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("jetway: ")).collect();
    ensure!(!status.success() && lines.len() == 1 && lines[0].contains(sign), "{status}: {said}");
    Ok(())
}

fn copy(stack: &Stack, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let to = stack.directory.join(name);
    let copied = Command::new("cp").arg("-a").arg(stack.directory.join("drone")).arg(&to).status()?;
    ensure!(copied.success());
    Ok(to)
}

#[test]
fn a_cloned_machine_and_a_copied_data_directory_are_refused_and_no_session_is_touched() {
    with_stack(Options::default(), async |stack| {
        let answer = stack.connect(&stack.request("steady", &json!({}), &json!({}))).await?;
        let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
        session.echo("before").await?;
        let containers = stack.containers().await?;

        // Another machine has another boot id, and was up while the first one was heard of.
        let clone = copy(stack, "clone")?;
        let boot_id = stack.directory.join("boot_id");
        std::fs::write(&boot_id, format!("{}\n", uuid::Uuid::new_v4()))?;
        let mount =
            format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", boot_id.display());
        let before = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
        is_refused(stack, &clone, &before, "was its data directory copied?").await?;
        session.echo("the clone was refused").await?;

        is_refused(stack, &copy(stack, "copy")?, &[], "was it copied?").await?;
        session.echo("and so was the copy").await?;

        ensure!(stack.containers().await? == containers, "no container came or went");
        let again = stack.connect(&json!({ "key": { "name": "steady" } })).await?;
        ensure!(again["backend_id"] == answer["backend_id"], "{again}");
        let mut second = Session::open(again["url"].as_str().context("url")?).await?;
        second.echo("a new grant").await?;
        stack.until_ready().await
    });
}
