//! The request that `jetway connect` sends: what its file says, and over it what its flags say.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value, json};

use super::ConnectArguments;

/// Bytes of a file, as the API takes them.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

pub fn of(arguments: &ConnectArguments) -> anyhow::Result<Value> {
    let mut request = match &arguments.file {
        Some(path) => of_file(&read(path)?).with_context(|| path.display().to_string())?,
        None => json!({}),
    };
    key(&mut request["key"], arguments);
    let flags = spawn_config(arguments)?;
    let is_said = request["spawn_config"].is_object() || arguments.image.is_some();
    if is_said {
        merge(&mut request["spawn_config"], flags);
    } else if flags != json!({ "executable": {} }) {
        bail!(
            "what a session is started with needs --image or --file: without them only a running session is looked for"
        );
    }
    if let Some(fields) = request.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    set(&mut request, "url_form", arguments.host.then_some(&"host"));
    let ConnectArguments { warm_pool, user, return_url, .. } = arguments;
    for (name, word) in [("warm_pool", warm_pool), ("user", user), ("return_url", return_url)] {
        set(&mut request, name, word.as_ref());
    }
    if let Some(auth) = &arguments.auth {
        request["auth"] = serde_json::from_str(auth).context("--auth must be a JSON object")?;
    }
    if !arguments.allowed_origins.is_empty() {
        request["allowed_origins"] = json!(arguments.allowed_origins);
    }
    if arguments.wait {
        request["wait"] = json!("ready");
        set(&mut request, "wait_timeout_seconds", arguments.wait_timeout_seconds.as_ref());
    }
    Ok(request)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(text)
}

/// A whole request, or what stands in its `spawn_config`: that has an `executable`.
fn of_file(text: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(text).context("it is not JSON")?;
    ensure!(value.is_object(), "it is not a JSON object: a spawn_config, or a whole connect request");
    Ok(if value["executable"].is_null() { value } else { json!({ "spawn_config": value }) })
}

/// The name is the command's; the rest of it may be the file's.
fn key(key: &mut Value, arguments: &ConnectArguments) {
    if !key.is_object() {
        *key = json!({});
    }
    key["name"] = json!(arguments.key);
    for (name, said) in [("namespace", &arguments.namespace), ("tag", &arguments.tag)] {
        if !said.is_empty() || key[name].is_null() {
            key[name] = json!(said);
        }
    }
}

/// Only what flags say.
fn spawn_config(arguments: &ConnectArguments) -> anyhow::Result<Value> {
    let mut executable = json!({});
    set(&mut executable, "image", arguments.image.as_ref());
    set(&mut executable, "port", arguments.port.as_ref());
    set(&mut executable, "pull_policy", arguments.pull_policy.as_ref());
    if !arguments.env.is_empty() {
        executable["env"] = Value::Object(environment(&arguments.env)?);
    }
    if !arguments.ports.is_empty() {
        executable["ports"] = Value::Object(named_ports(&arguments.ports)?);
    }
    if !arguments.cmd.is_empty() {
        executable["cmd"] = json!(arguments.cmd);
    }
    if let Some(path) = &arguments.ready_path {
        executable["ready"] = json!({ "http_path": path });
    }
    if let Some(bytes) = arguments.memory {
        executable["resource_limits"] = json!({ "memory_limit_bytes": bytes });
    }
    if let Some(directory) = &arguments.mount {
        executable["mount"] = if directory.is_empty() { json!(true) } else { json!(directory) };
    }
    let mut config = json!({ "executable": executable });
    set(&mut config, "max_idle_seconds", arguments.max_idle_seconds.as_ref());
    set(&mut config, "lifetime_limit_seconds", arguments.lifetime_limit_seconds.as_ref());
    set(&mut config, "use_static_token", arguments.static_token.then_some(&true));
    let ConnectArguments { subdomain, cluster, pool, on_isolation, .. } = arguments;
    let words =
        [("subdomain", subdomain), ("cluster", cluster), ("pool", pool), ("on_isolation", on_isolation)];
    for (name, word) in words {
        set(&mut config, name, word.as_ref());
    }
    Ok(config)
}

fn set<T: serde::Serialize>(object: &mut Value, name: &str, value: Option<&T>) {
    if let Some(value) = value {
        object[name] = json!(value);
    }
}

/// Objects member by member; everything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn named_ports(pairs: &[String]) -> anyhow::Result<Map<String, Value>> {
    let port = |pair: &String| {
        let (name, port) = pair.split_once('=')?;
        Some((name.to_owned(), json!(port.parse::<u16>().ok()?)))
    };
    let port = |pair| port(pair).with_context(|| format!("--named-port {pair:?} must be NAME=PORT"));
    pairs.iter().map(port).collect()
}

pub fn environment(pairs: &[String]) -> anyhow::Result<Map<String, Value>> {
    pairs
        .iter()
        .map(|pair| {
            let (name, value) =
                pair.split_once('=').with_context(|| format!("--env {pair:?} must be NAME=VALUE"))?;
            Ok((name.to_owned(), json!(value)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connect: ConnectArguments,
    }

    fn said(line: &str) -> anyhow::Result<Value> {
        let words = ["connect", "k"].into_iter().chain(line.split_whitespace());
        of(&Line::try_parse_from(words)?.connect)
    }

    #[test]
    fn every_flag_is_a_field_of_the_request() {
        let request = said(
            "--image i --port 80 --named-port debug=9229 --subdomain s --cluster c --pool p --on-isolation keep \
             --allowed-origin https://a --allowed-origin null --wait --wait-timeout-seconds 9 --memory 1g --mount=a/b \
             --static-token --ready-path /ok --pull-policy Never --env A=b --max-idle-seconds 5 --host \
             --return-url https://a/x -- run it",
        )
        .unwrap();
        let expect = json!({
            "key": { "name": "k", "namespace": "", "tag": "" },
            "allowed_origins": ["https://a", "null"],
            "wait": "ready",
            "wait_timeout_seconds": 9,
            "url_form": "host",
            "return_url": "https://a/x",
            "spawn_config": {
                "subdomain": "s", "cluster": "c", "pool": "p", "on_isolation": "keep", "use_static_token": true,
                "max_idle_seconds": 5,
                "executable": {
                    "image": "i", "port": 80, "ports": { "debug": 9229 }, "cmd": ["run", "it"], "env": { "A": "b" },
                    "resource_limits": { "memory_limit_bytes": 1_073_741_824 }, "mount": "a/b",
                    "ready": { "http_path": "/ok" }, "pull_policy": "Never",
                },
            },
        });
        assert_eq!(request, expect);
        assert_eq!(said("--image i --mount").unwrap()["spawn_config"]["executable"]["mount"], true);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for line in [
            "--subdomain s",
            "--memory 1g",
            "--mount",
            "--named-port a=1",
            "--image i --named-port a=x",
            "--image i --on-isolation perhaps",
            "--image i --memory much",
            "--image i --pull-policy Sometimes",
            "--wait-timeout-seconds 3",
            "--return-url https://a/",
            "--file /nowhere/at/all",
        ] {
            assert!(said(line).is_err(), "{line}");
        }
        assert_eq!(said("").unwrap(), json!({ "key": { "name": "k", "namespace": "", "tag": "" } }));
    }

    #[test]
    fn a_file_is_a_spawn_config_or_a_request_and_flags_outrank_it() {
        let path = std::env::temp_dir().join(format!("jetway-spec-{}.json", uuid::Uuid::new_v4()));
        let with = |content: &str, flags: &str| {
            std::fs::write(&path, content).unwrap();
            said(&format!("--file {} {flags}", path.display()))
        };
        let spec =
            r#"{ "executable": { "image": "i", "env": { "A": "1", "B": "2" } }, "max_idle_seconds": 9 }"#;
        let request = with(spec, "--env A=3 --memory 1k").unwrap();
        let executable = &request["spawn_config"]["executable"];
        assert_eq!(executable["env"], json!({ "A": "3", "B": "2" }));
        assert_eq!(
            (&executable["image"], &request["spawn_config"]["max_idle_seconds"]),
            (&json!("i"), &json!(9))
        );
        let whole = r#"{ "key": { "name": "x", "namespace": "n" }, "user": "ann", "spawn_config": { "executable": { "image": "i" } } }"#;
        let request = with(whole, "--user bob").unwrap();
        assert_eq!(request["key"], json!({ "name": "k", "namespace": "n", "tag": "" }));
        assert_eq!(
            (&request["user"], request["spawn_config"]["executable"]["image"] == "i"),
            (&json!("bob"), true)
        );
        for bad in ["", "[1]", "{"] {
            assert!(with(bad, "").is_err(), "{bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
