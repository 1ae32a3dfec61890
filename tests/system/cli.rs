//! The operator's verbs, as a person types them; what a role says before it gives up; and that each ends in time.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::processes::executable;
use crate::harness::{Options, Role, Session, SseStream, Stack, eventually, with_stack};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn jetway(stack: &Stack, arguments: &[&str]) -> anyhow::Result<Said> {
    let mut command = Command::new(executable("jetway")?);
    command.args(arguments).env("JETWAY_API_URL", &stack.api);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

#[test]
fn the_verbs_of_a_sessions_life() {
    with_stack(Options::default(), async |stack| {
        let image = stack.image.clone();
        let empty = jetway(stack, &["ls"]).await?;
        ensure!(empty.out.contains("no sessions"), "{}", empty.out);

        let connect =
            jetway(stack, &["connect", "desk", "--image", &image, "--env", "A=b", "--wait"]).await?;
        ensure!(connect.code == Some(0), "{}", connect.err);
        ensure!(connect.err.contains("started session"), "{}", connect.err);
        let mut session = Session::open(connect.out.trim()).await?;
        session.echo("from the command line").await?;

        let list = jetway(stack, &["ls"]).await?;
        ensure!(list.out.contains("desk") && list.out.contains("ready"), "{}", list.out);
        let list: Value = serde_json::from_str(&jetway(stack, &["ls", "--json"]).await?.out)?;
        let id = list["backends"][0]["backend_id"].as_str().context("id")?.to_owned();
        let status = jetway(stack, &["status", "desk"]).await?;
        ensure!(status.out.contains(&id) && status.out.contains("started"), "{}", status.out);
        let logs = jetway(stack, &["logs", "desk"]).await?;
        ensure!(logs.out.contains("listening on"), "{:?} {}", logs.out, logs.err);

        let stop = jetway(stack, &["stop", "desk"]).await?;
        ensure!(stop.code == Some(0) && stop.out.contains(&id), "{} {}", stop.out, stop.err);
        stack.ended(&id, Duration::from_secs(15)).await?;
        let again = jetway(stack, &["stop", "desk"]).await?;
        ensure!(again.err.contains("no session") || again.code == Some(1), "{} {}", again.out, again.err);

        // What it was and what it printed is known after its end, and after its agent's.
        stack.restart(Role::Drone, Signal::SIGKILL).await?;
        eventually("the new agent has the output", Duration::from_secs(15), async || {
            let logs = jetway(stack, &["logs", "desk", "--timestamps"]).await?;
            ensure!(logs.code == Some(0), "{:?} {}", logs.out, logs.err);
            ensure!(logs.out.contains("Z listening on"), "{:?} {}", logs.out, logs.err);
            anyhow::Ok(())
        })
        .await?;
        let status = jetway(stack, &["status", "desk"]).await?;
        ensure!(
            status.out.contains("ended        external, ") && status.out.contains("\nexit code "),
            "{}",
            status.out
        );
        for verb in ["logs", "status"] {
            let none = jetway(stack, &[verb, "nothing"]).await?;
            ensure!(none.code == Some(1) && none.err.contains("none has ended"), "{} {}", none.out, none.err);
        }
        Ok(())
    });
}

#[test]
fn every_verb_takes_what_ls_shows() {
    with_stack(Options::default(), async |stack| {
        let mut request = stack.request("main", &json!({}), &json!({ "max_idle_seconds": 600 }));
        request["key"]["namespace"] = json!("demo");
        request["wait"] = json!("ready");
        let id = stack.connect(&request).await?["backend_id"].as_str().context("id")?.to_owned();
        let list = jetway(stack, &["ls"]).await?.out;
        let mut lines = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        ensure!(lines.next().is_some_and(|head| head.starts_with(&["NAMESPACE", "KEY", "STATUS"])), "{list}");
        let row = lines.next().context("a row")?;
        ensure!(row.starts_with(&["demo", "main", "ready"]) && row.ends_with(&[id.as_str()]), "{list}");
        let (namespace, key) = (row[0].to_owned(), row[1].to_owned());
        for verb in ["status", "logs"] {
            for of in [vec![id.as_str()], vec!["--namespace", &namespace, &key]] {
                let said = jetway(stack, &[vec![verb], of].concat()).await?;
                ensure!(said.code == Some(0) && !said.out.is_empty(), "{verb}: {} {}", said.out, said.err);
            }
            let lost = jetway(stack, &[verb, &key]).await?;
            ensure!(lost.code == Some(1) && lost.err.contains("--namespace demo"), "{}", lost.err);
        }
        let status = jetway(stack, &["status", &id]).await?.out;
        ensure!(status.contains("namespace    demo") && status.contains("\nidle end     in "), "{status}");
        let stop = jetway(stack, &["stop", "--namespace", &namespace, &key]).await?;
        ensure!(stop.code == Some(0) && stop.out.contains(&id), "{} {}", stop.out, stop.err);
        Ok(())
    });
}

#[test]
fn drain_status_and_doctor() {
    with_stack(Options::default(), async |stack| {
        let drones = stack.get("/ctrl/drones").await?;
        let name = drones["drones"][0]["name"].as_str().context("name")?.to_owned();
        ensure!(jetway(stack, &["status"]).await?.out.contains(&name));
        let doctor = jetway(stack, &["doctor"]).await?;
        ensure!(doctor.code == Some(0), "{}", doctor.out);
        let drain = jetway(stack, &["drain", &name]).await?;
        ensure!(
            drain.code == Some(0) && drain.out.contains("takes no new sessions"),
            "{} {}",
            drain.out,
            drain.err
        );
        let image = stack.image.clone();
        let refused = jetway(stack, &["connect", "late", "--image", &image]).await?;
        ensure!(refused.code == Some(1) && refused.err.contains("draining"), "{}", refused.err);
        ensure!(jetway(stack, &["drain", &name, "--undo"]).await?.code == Some(0));
        ensure!(jetway(stack, &["connect", "late", "--image", &image]).await?.code == Some(0));

        let all = jetway(stack, &["stop", "--all", "--drone", "nobody"]).await?;
        ensure!(all.code == Some(1) && all.err.contains("no drone is called"), "{} {}", all.out, all.err);
        let all = jetway(stack, &["stop", "--all", "--drone", &name]).await?;
        ensure!(all.code == Some(0) && all.out == "stopped 1 session\n", "{} {}", all.out, all.err);
        stack.no_containers(Duration::from_secs(5)).await?;
        let none = jetway(stack, &["stop", "--all", "--json"]).await?;
        let none: Value = serde_json::from_str(&none.out)?;
        ensure!(none["stopped"] == json!([]) && none["left"] == json!([]), "{none}");
        Ok(())
    });
}

/// From docker's SIGTERM to its SIGKILL.
const ENGINE_PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_role_ends_well_before_an_engine_kills_it_whatever_is_open() {
    with_stack(Options::default(), async |stack| {
        let answer = stack.connect(&stack.request("open", &json!({}), &json!({}))).await?;
        let (id, url) =
            (answer["backend_id"].as_str().context("id")?, answer["url"].as_str().context("url")?);
        // The controller a second time, with half a request that never becomes whole: it gets some seconds.
        for (role, half) in
            [(Role::Controller, false), (Role::Drone, false), (Role::Proxy, false), (Role::Controller, true)]
        {
            stack.until_ready().await?;
            let mut session = Session::open(url).await?;
            session.echo("open").await?;
            let status = format!("{}/pub/b/{id}/status-stream", stack.api);
            let mut events = SseStream::open(&stack.http, &status, None).await?;
            events.next(Duration::from_secs(5)).await?;
            let mut logs = Command::new(executable("jetway")?);
            let mut logs = logs.args(["logs", "-f", id, "--api-url", &stack.api]).spawn()?;
            let mut slow = std::net::TcpStream::connect(stack.api.trim_start_matches("http://"))?;
            if half {
                std::io::Write::write_all(&mut slow, b"GET /pub/health HTTP/1.1\r\nhost: localhost")?;
            }

            let started = Instant::now();
            let clean = stack.process(role).stop(Signal::SIGTERM).await;
            let took = started.elapsed();
            let _ended_with_its_controller = logs.kill();
            logs.wait()?;
            let most = if half { ENGINE_PATIENCE * 7 / 10 } else { ENGINE_PATIENCE / 4 };
            ensure!(clean? && took < most, "{role:?} took {took:?}");
            println!("{role:?} ended in {took:?}");
            stack.start_role(role)?;
        }
        stack.until_ready().await
    });
}

#[test]
fn health_asks_each_role_and_needs_no_ca_certificates() {
    with_stack(Options::default(), async |stack| {
        let drones = stack.get("/ctrl/drones").await?;
        let drone = drones["drones"][0]["advertise"].as_str().context("advertise")?;
        let controller = stack.api.trim_start_matches("http://").to_owned();
        let proxy = format!("127.0.0.1:{}", stack.proxy_port);
        let health = |of: &str, listen: &str| {
            let mut command = Command::new(executable("jetway")?);
            command.args(["health", of]).env("JETWAY_LISTEN", listen);
            // As in an image that holds nothing but the executable.
            anyhow::Ok(command.env("SSL_CERT_FILE", "/nowhere").env("SSL_CERT_DIR", "/nowhere").output()?)
        };
        for (role, listen) in [("controller", &controller), ("drone", &drone.to_owned()), ("proxy", &proxy)] {
            let output = health(role, listen)?;
            ensure!(output.status.success() && output.stdout == b"ok\n", "{role}: {output:?}");
        }
        ensure!(health(&format!("{}/pub/health", stack.api), "")?.status.success());
        for (of, listen, expect) in [
            ("drone", "127.0.0.1:1", "no answer from http://127.0.0.1:1/health"),
            // The proxy takes it for a token.
            ("drone", &proxy, "answered 410"),
            ("nonsense", "", "neither controller, drone or proxy"),
        ] {
            let output = health(of, listen)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(1), "{output:?}");
            ensure!(said.contains(expect) && said.lines().count() == 1, "{said}");
        }
        Ok(())
    });
}

/// A directory that goes with the test.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("jetway-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

fn ran(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(executable("jetway").expect("built"));
    command.args(arguments).envs(environment.iter().copied()).output().expect("it runs")
}

#[test]
fn secrets_are_written_once_and_serve_as_secrets() {
    let directory = Directory::new("secrets");
    let path = directory.0.join("made/secret").display().to_string();
    let first = ran(&["secrets", &path, "--mode", "0444"], &[]);
    assert_eq!(String::from_utf8_lossy(&first.stdout), format!("wrote {path}\n"), "{first:?}");
    let text = std::fs::read_to_string(&path).expect("the secret");
    let again = ran(&["secrets", &path], &[]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), format!("kept {path}\n"), "{again:?}");
    let json: Value = serde_json::from_slice(&ran(&["secrets", &path, "--json"], &[]).stdout).expect("JSON");
    assert_eq!(json["files"][0]["written"], false);
    assert_eq!(std::fs::read_to_string(&path).expect("the secret"), text);

    let cut = directory.file("cut", &text[..20]);
    let refused = ran(&["secrets", &cut], &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("delete it"), "{said}");
    assert!(!said.contains(&text[..20]) && said.lines().count() == 1, "{said}");
}

/// Starts a controller that cannot start; returns what it says.
fn refusal(flags: &[&str]) -> String {
    let arguments = [&["controller"], flags].concat();
    let environment = [("JETWAY_LISTEN", "127.0.0.1:0")];
    let output = ran(&arguments, &environment);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.status.code().is_some(), "{flags:?}: {output:?}");
    assert_eq!(said.lines().count(), 1, "{flags:?}: {said}");
    assert!(said.starts_with("jetway: ") && !said.contains("hunter2"), "{said}");
    let output = ran(&arguments, &[environment[0], ("JETWAY_LOG_FORMAT", "json")]);
    let line: Value = serde_json::from_slice(&output.stderr).expect("one line of JSON");
    assert_eq!(line["level"], "ERROR", "{line}");
    assert_eq!(line["fields"]["message"], said["jetway: ".len()..].trim_end(), "{line}");
    said
}

#[test]
fn what_a_controller_cannot_start_with_is_one_line_and_a_line_of_json() {
    let admin = std::env::var("JETWAY_TEST_DB").expect("JETWAY_TEST_DB: run the tests with tests/run");
    let directory = Directory::new("refusals");
    let good = directory.file("good", &"g".repeat(40));
    let (empty, short) = (directory.file("empty", ""), directory.file("short", "hunter2\n"));
    let (absent, here) = (format!("{}/absent", directory.0.display()), directory.0.display().to_string());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").to_string();
    let no_database = admin.replacen("/postgres?", "/there_is_none?", 1);
    let (db, cluster) = (["--db", admin.as_str()], ["--cluster", "localhost:9090"]);
    let file = ["--secret-file", good.as_str()];
    let cases: [(&[&[&str]], &str); 22] = [
        (&[&db, &cluster], "no secret: set JETWAY_SECRET"),
        (&[&db, &cluster, &["--secret", " "]], "JETWAY_SECRET is set and empty"),
        (&[&db, &cluster, &["--secret", "hunter2"]], "has 7 characters; it needs at least 32"),
        (&[&db, &cluster, &["--secret-file", &absent]], "there is no such file"),
        (&[&db, &cluster, &["--secret-file", &here]], "it is a directory"),
        (&[&db, &cluster, &["--secret-file", &empty]], "is empty"),
        (&[&db, &cluster, &["--secret-file", &short]], "has 7 characters"),
        (&[&db, &cluster, &file, &["--secret", "hunter2"]], "are both set and differ"),
        (&[&db, &cluster, &file, &["--api-key-file", &absent]], "there is no such file"),
        (&[&db, &cluster, &file, &["--api-key-file", &empty]], "is empty"),
        (&[&db, &cluster, &file, &["--api-key-file", &short]], "shorter than 16 characters"),
        (&[&db, &cluster, &file, &["--listen", "nonsense"]], "invalid value 'nonsense' for '--listen"),
        (&[&db, &cluster, &file, &["--public-url", "nonsense"]], "the public URL must be like"),
        (&[&db, &file, &["--cluster", "no spaces"]], "for '--cluster"),
        (&[&db, &file], "--cluster"),
        (&[&["--db", "nonsense"], &cluster, &file], "--db is not a Postgres URL"),
        (&[&["--db", "http://u:hunter2@127.0.0.1/n"], &cluster, &file], "it must begin with postgres://"),
        (
            &[&["--db", "postgres://u:hunter2@h/n"], &cluster, &file, &["--db-password-file", &good]],
            "--db has a password",
        ),
        (&[&db, &cluster, &file, &["--db-password-file", &empty]], "is empty"),
        (&[&db, &cluster, &file, &["--db-password-file", &absent]], "there is no such file"),
        (&[&["--db", &no_database], &cluster, &file], "Postgres refuses"),
        (&[&db, &cluster, &file, &["--listen", &port]], "cannot listen on 127.0.0.1:"),
    ];
    for (flags, expect) in cases {
        let said = refusal(&flags.concat());
        assert!(said.contains(expect), "{flags:?}: {said}");
    }
}

#[test]
fn a_controller_that_is_not_there_is_said_so() {
    let output = Command::new(executable("jetway").expect("built"))
        .args(["ls", "--api-url", "http://127.0.0.1:1"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("no controller answers"), "{text}");
}
