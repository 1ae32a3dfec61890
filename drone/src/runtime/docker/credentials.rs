//! A registry's login where a spec brings none: from Docker's own configuration file and the credential programs that
//! it names. Not its business: the login's use.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use jetway_protocol::image::Reference;
use jetway_protocol::spec::Credentials;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::text;

/// Where Docker's configuration file keeps the login of its own registry.
const HUB_LOGIN: &str = "https://index.docker.io/v1/";
/// A credential program that asks a person never ends by itself.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(10);
const PROGRAM_BYTES_MAX: u64 = 64 * 1024;
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The user name by which a credential program says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// The login for an image: the spec's own, else the configuration file's. A file that cannot be used is logged, and
/// the pull tried without a login: most images need none.
pub async fn login(reference: &Reference, given: Option<&Credentials>) -> Option<DockerCredentials> {
    let server = login_server(reference);
    if let Some(given) = given {
        return Some(DockerCredentials {
            username: Some(given.username.clone()),
            password: Some(given.password.clone()),
            serveraddress: Some(server.to_owned()),
            ..DockerCredentials::default()
        });
    }
    let config = configuration().await?;
    match program(&config, server) {
        Some(program) => from_program(&program, server).await,
        None => from_file(&config, server),
    }
}

/// The server's name in Docker's configuration file.
fn login_server(reference: &Reference) -> &str {
    match reference.registry() {
        "docker.io" => HUB_LOGIN,
        registry => registry,
    }
}

async fn configuration() -> Option<Value> {
    let directory = match std::env::var_os("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    let path = directory.join("config.json");
    let file = tokio::fs::File::open(&path).await.ok()?;
    let mut bytes = Vec::new();
    if let Err(error) = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await {
        tracing::warn!(path = %path.display(), %error, "Docker's configuration file cannot be read");
        return None;
    }
    serde_json::from_slice(&bytes)
        .inspect_err(
            |error| tracing::warn!(path = %path.display(), %error, "Docker's configuration file is not JSON"),
        )
        .ok()
}

/// The credential program for a server: its own, else the one for all.
fn program(config: &Value, server: &str) -> Option<String> {
    let helpers = config["credHelpers"].as_object();
    let own = helpers.and_then(|helpers| helpers.iter().find(|(name, _)| is_same_server(name, server)));
    let suffix = own.map(|(_, suffix)| text(suffix)).unwrap_or_else(|| text(&config["credsStore"]));
    let is_plain = suffix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    (is_plain && !suffix.is_empty()).then(|| format!("docker-credential-{suffix}"))
}

fn from_file(config: &Value, server: &str) -> Option<DockerCredentials> {
    let auths = config["auths"].as_object()?;
    // An exact name first: several spellings of one server may be there.
    let entry = auths.get(server).or_else(|| {
        let same = auths.iter().find(|(name, _)| is_same_server(name, server));
        same.map(|(_, entry)| entry)
    })?;
    let (username, password) = match entry["auth"].as_str().filter(|auth| !auth.is_empty()) {
        Some(auth) => decode(auth)?,
        None => (text(&entry["username"]), text(&entry["password"])),
    };
    let identity_token = entry["identitytoken"].as_str().filter(|token| !token.is_empty());
    if username.is_empty() && identity_token.is_none() {
        return None;
    }
    Some(credentials(server, username, password, identity_token.map(str::to_owned)))
}

async fn from_program(program: &str, server: &str) -> Option<DockerCredentials> {
    let asked = tokio::time::timeout(PROGRAM_DEADLINE, ask(program, server)).await;
    let output = match asked {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            tracing::debug!(program, %error, "no login from the credential program");
            return None;
        }
        Err(_) => {
            tracing::warn!(program, "the credential program did not answer in time");
            return None;
        }
    };
    let answer: Value = serde_json::from_slice(&output).ok()?;
    let (username, secret) = (text(&answer["Username"]), text(&answer["Secret"]));
    match username.as_str() {
        "" => None,
        TOKEN_USER => Some(credentials(server, String::new(), String::new(), Some(secret))),
        _ => Some(credentials(server, username, secret, None)),
    }
}

async fn ask(program: &str, server: &str) -> std::io::Result<Vec<u8>> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(server.as_bytes()).await?;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(PROGRAM_BYTES_MAX).read_to_end(&mut output).await?;
    }
    match child.wait().await? {
        status if status.success() => Ok(output),
        status => Err(std::io::Error::other(status.to_string())),
    }
}

fn credentials(
    server: &str,
    username: String,
    password: String,
    identity_token: Option<String>,
) -> DockerCredentials {
    DockerCredentials {
        username: Some(username),
        password: Some(password),
        identitytoken: identity_token,
        serveraddress: Some(server.to_owned()),
        ..DockerCredentials::default()
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let bytes = data_encoding::BASE64.decode(auth.trim().as_bytes()).ok()?;
    let plain = String::from_utf8(bytes).ok()?;
    let (username, password) = plain.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// The file's names may carry a scheme and a path.
fn is_same_server(one: &str, other: &str) -> bool {
    let host = |name: &str| {
        let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
        let host = name.split('/').next().unwrap_or_default().to_ascii_lowercase();
        if host == "docker.io" { "index.docker.io".to_owned() } else { host }
    };
    host(one) == host(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_file_is_read_as_docker_does() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": data_encoding::BASE64.encode(b"hub:se:cret")},
            "https://ghcr.io/v2/": {"username": "g", "password": "p"},
            "127.0.0.1:5000": {"auth": "", "identitytoken": "t"},
            "empty.example": {},
            "bad.example": {"auth": "%%%"},
        }});
        let user = |server: &str| from_file(&config, server).and_then(|found| found.username);
        assert_eq!(user("https://index.docker.io/v1/").as_deref(), Some("hub"));
        let hub = from_file(&config, "https://index.docker.io/v1/").unwrap();
        assert_eq!(hub.password.as_deref(), Some("se:cret"));
        assert_eq!(user("ghcr.io").as_deref(), Some("g"));
        assert_eq!(from_file(&config, "127.0.0.1:5000").unwrap().identitytoken.as_deref(), Some("t"));
        for none in ["empty.example", "bad.example", "other.example", "hcr.io"] {
            assert_eq!(from_file(&config, none), None, "{none}");
        }
    }

    #[test]
    fn dockers_own_registry_has_a_login_name_of_its_own() {
        for (image, server) in [
            ("alpine", HUB_LOGIN),
            ("index.docker.io/team/app", HUB_LOGIN),
            ("ghcr.io/team/app", "ghcr.io"),
            ("localhost:5000/app", "localhost:5000"),
        ] {
            assert_eq!(login_server(&Reference::parse(image).unwrap()), server, "{image}");
        }
    }

    #[test]
    fn a_program_is_chosen_by_server_and_cannot_be_a_path() {
        let config = json!({"credHelpers": {"ghcr.io": "own"}, "credsStore": "all"});
        assert_eq!(program(&config, "ghcr.io").as_deref(), Some("docker-credential-own"));
        assert_eq!(program(&config, "x.example").as_deref(), Some("docker-credential-all"));
        assert_eq!(program(&json!({"credsStore": "../../bin/sh"}), "x"), None);
        assert_eq!(program(&json!({}), "x"), None);
    }
}
