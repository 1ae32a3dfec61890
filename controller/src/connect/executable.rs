//! What a caller may say of the container: every value is checked here, before anything is written or started.
//! Whether a drone offers it (mounts, networks) is placement's and the drone's to say.

use std::collections::BTreeMap;

use jetway_protocol::key::Key;
use jetway_protocol::spec::{
    CLAIM_TIMEOUT_SECONDS, Credentials, Executable, Hot, InitMode, MEMORY_LIMIT_BYTES, MEMORY_RESERVE_BYTES,
    PORT, Port, ResourceLimits,
};

use super::ports;
use super::request::{ExecutableRequest, HotRequest, LimitsRequest, MountRequest};
use super::validate::number;
use crate::error::{ApiError, ApiResult, shown};

const ENV_BYTES_MAX: usize = 256 * 1024;
const ARGUMENTS_MAX: usize = 512;
const ARGUMENTS_BYTES_MAX: usize = 128 * 1024;
const PATH_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 255;
const TMPFS_MAX: usize = 32;
/// The least that Docker accepts.
const MEMORY_BYTES_MIN: i64 = 6 * 1024 * 1024;
const BYTES_MAX: i64 = 1 << 50;
const CPUS_MAX: f64 = 4096.0;
const CLAIM_TIMEOUT_SECONDS_MAX: i64 = 60;
/// Set by the drone; a caller's value would be overwritten.
const RESERVED_ENV: [&str; 5] = [
    "PORT",
    "SESSION_BACKEND_ID",
    "SESSION_BACKEND_KEY",
    "SESSION_BACKEND_FENCING_TOKEN",
    "SESSION_BACKEND_STATIC_TOKEN",
];

pub fn check(request: ExecutableRequest, key: Option<&Key>) -> ApiResult<Executable> {
    check_image(&request.image)?;
    let limits = check_limits(&request.resource_limits)?;
    let memory_limit = limits.memory_limit_bytes.unwrap_or(MEMORY_LIMIT_BYTES);
    // A declared limit is a declared need; without one, the usual session's.
    let memory_default = limits.memory_limit_bytes.unwrap_or(MEMORY_RESERVE_BYTES);
    let memory_reserve_bytes =
        number(&at("memory_reserve_bytes"), request.memory_reserve_bytes, 0, memory_limit)?
            .unwrap_or(memory_default);
    let cpu_reserve = request.cpu_reserve.unwrap_or(0.0);
    if !(0.0..=CPUS_MAX).contains(&cpu_reserve) {
        return Err(invalid(
            "cpu_reserve",
            &format!("is {cpu_reserve}; it must be between 0 and {CPUS_MAX}"),
        ));
    }
    check_arguments("entrypoint", request.entrypoint.as_deref())?;
    check_arguments("cmd", request.cmd.as_deref())?;
    if let Some(user) = &request.user {
        check_name("user", user, ":")?;
    }
    if let Some(path) = &request.working_dir {
        check_absolute("working_dir", path)?;
    }
    if let Some(network) = &request.network_name {
        check_network(network)?;
    }
    let ready_http_path = request.ready.and_then(|ready| ready.http_path);
    if let Some(path) = &ready_http_path {
        check_http_path("ready.http_path", path)?;
    }
    let init = request.init.unwrap_or_default();
    let port = number(&at("port"), request.port, 1, 65535)?
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(PORT);
    let protocol = request.protocol.unwrap_or_default();
    check_tmpfs(&request.tmpfs)?;
    Ok(Executable {
        pull_policy: request.pull_policy.unwrap_or_default(),
        credentials: request
            .credentials
            .map(|login| check_credentials(login.username, login.password))
            .transpose()?,
        env: check_env(request.env)?,
        resource_limits: limits,
        mount: check_mount(request.mount, key)?,
        network_name: request.network_name,
        entrypoint: request.entrypoint,
        cmd: request.cmd,
        user: request.user,
        working_dir: request.working_dir,
        port,
        protocol,
        ports: ports::check(request.ports, Port { port, protocol })?,
        shm_size_bytes: number(&at("shm_size_bytes"), request.shm_size_bytes, 4096, BYTES_MAX)?,
        tmpfs: request.tmpfs,
        read_only: request.read_only,
        ready_http_path,
        hot: request.hot.map(|hot| check_hot(hot, init)).transpose()?,
        init,
        cpu_reserve,
        memory_reserve_bytes,
        image: request.image,
    })
}

fn at(field: &str) -> String {
    format!("spawn_config.executable.{field}")
}

fn invalid(field: &str, problem: &str) -> ApiError {
    ApiError::invalid(format!("{} {problem}", at(field)))
}

/// `[host[:port]/]path[:tag][@digest]`, as the registries' reference grammar has it.
fn check_image(image: &str) -> ApiResult<()> {
    let wrong = || invalid("image", &format!("{} is not an image reference like name:tag", shown(image)));
    if image.is_empty() || image.len() > 512 {
        return Err(wrong());
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let digest_is_fine = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty()
                && algorithm.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                && hex.len() >= 32
                && hex.len() <= 128
                && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    });
    let last_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last_slash..].split_once(':') {
        Some((last, tag)) => (&rest[..last_slash + last.len()], Some(tag)),
        None => (rest, None),
    };
    let tag_is_fine = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    });
    let mut components = name.split('/').peekable();
    let first = components.peek().copied().unwrap_or_default();
    let has_host = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    if has_host {
        components.next();
    }
    let host_is_fine = !has_host || is_host(first);
    if !(digest_is_fine && tag_is_fine && host_is_fine && name.len() <= 255 && components.all(is_component)) {
        return Err(wrong());
    }
    Ok(())
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "1"));
    let labels = name.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    labels && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_component(component: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(component.bytes().next())
        && edge(component.bytes().last())
        && component
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
        && !component.contains("..")
}

fn check_env(mut env: BTreeMap<String, String>) -> ApiResult<BTreeMap<String, String>> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(invalid("env", &format!("is {bytes} bytes in all; at most {ENV_BYTES_MAX} are allowed")));
    }
    for (name, value) in &env {
        let mut letters = name.bytes();
        let first = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !letters.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let name = shown(name);
            return Err(invalid(
                "env",
                &format!("has the name {name}; names are A-Z, a-z, 0-9 and _, not starting with a digit"),
            ));
        }
        if value.contains('\0') {
            return Err(invalid("env", &format!("has U+0000 in the value of {name}")));
        }
    }
    for name in RESERVED_ENV {
        env.remove(name);
    }
    Ok(env)
}

fn check_limits(limits: &LimitsRequest) -> ApiResult<ResourceLimits> {
    let limit =
        |field: &str, given, min, max| number(&at(&format!("resource_limits.{field}")), given, min, max);
    let cpu_period = limit("cpu_period", limits.cpu_period, 1000, 1_000_000)?;
    let percent = limit("cpu_period_percent", limits.cpu_period_percent, 1, 100 * 4096)?;
    if let Some(percent) = percent
        && cpu_period.unwrap_or(100_000) * percent / 100 < 1000
    {
        return Err(invalid(
            "resource_limits.cpu_period_percent",
            "makes a quota of less than 1000 µs, which the kernel refuses; give a longer cpu_period",
        ));
    }
    Ok(ResourceLimits {
        cpu_period,
        cpu_period_percent: percent.and_then(|percent| u32::try_from(percent).ok()),
        cpu_time_limit: limit("cpu_time_limit", limits.cpu_time_limit, 1, i64::from(u32::MAX))?,
        memory_limit_bytes: limit(
            "memory_limit_bytes",
            limits.memory_limit_bytes,
            MEMORY_BYTES_MIN,
            BYTES_MAX,
        )?,
        disk_limit_bytes: limit("disk_limit_bytes", limits.disk_limit_bytes, 1024 * 1024, BYTES_MAX)?,
    })
}

fn check_mount(mount: Option<MountRequest>, key: Option<&Key>) -> ApiResult<Option<String>> {
    let path = match mount {
        None | Some(MountRequest::ByKey(false)) => return Ok(None),
        Some(MountRequest::Path(path)) => path,
        Some(MountRequest::ByKey(true)) => match key {
            Some(key) => key.name.clone(),
            None => return Err(invalid("mount", "is true, which means the key's name, but there is no key")),
        },
    };
    let component = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.len() > PATH_BYTES_MAX
        || path.chars().any(char::is_control)
        || !path.split('/').all(component)
        || path.split('/').any(|part| part.len() > NAME_BYTES_MAX)
    {
        let path = shown(&path);
        return Err(invalid(
            "mount",
            &format!("{path} must be a relative path without empty, . or .. parts"),
        ));
    }
    Ok(Some(path))
}

fn check_network(network: &str) -> ApiResult<()> {
    if matches!(network, "host" | "none") || network.starts_with("container:") {
        return Err(invalid("network_name", &format!("{} is never allowed", shown(network))));
    }
    check_name("network_name", network, "")
}

/// Docker's usual name: starts with a letter or digit, and what `more` allows.
fn check_name(field: &str, name: &str, more: &str) -> ApiResult<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') || more.contains(c);
    if name.is_empty()
        || name.len() > 128
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        || !name.chars().all(fine)
    {
        return Err(invalid(field, &format!("{} has characters that are not allowed there", shown(name))));
    }
    Ok(())
}

fn check_arguments(field: &str, arguments: Option<&[String]>) -> ApiResult<()> {
    let Some(arguments) = arguments else { return Ok(()) };
    let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    if arguments.len() > ARGUMENTS_MAX || bytes > ARGUMENTS_BYTES_MAX {
        return Err(invalid(
            field,
            &format!("has more than {ARGUMENTS_MAX} arguments or {ARGUMENTS_BYTES_MAX} bytes"),
        ));
    }
    if arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(invalid(field, "must not contain U+0000"));
    }
    Ok(())
}

fn check_absolute(field: &str, path: &str) -> ApiResult<()> {
    if !path.starts_with('/')
        || path.len() > PATH_BYTES_MAX
        || path.chars().any(char::is_control)
        || path.split('/').any(|part| part == "..")
    {
        return Err(invalid(field, &format!("{} must be an absolute path without ..", shown(path))));
    }
    Ok(())
}

/// An application that takes its session late must have an init beside it, which tells the drone that it listens.
fn check_hot(hot: HotRequest, init: InitMode) -> ApiResult<Hot> {
    if init == InitMode::Exec {
        return Err(invalid("hot", "cannot be had with init \"exec\": leave one of them out"));
    }
    if let Some(path) = &hot.claim_path {
        check_http_path("hot.claim_path", path)?;
    }
    let seconds =
        number(&at("hot.claim_timeout_seconds"), hot.claim_timeout_seconds, 1, CLAIM_TIMEOUT_SECONDS_MAX)?;
    let claim_timeout_seconds =
        seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(CLAIM_TIMEOUT_SECONDS);
    Ok(Hot { claim_path: hot.claim_path, claim_timeout_seconds })
}

fn check_http_path(field: &str, path: &str) -> ApiResult<()> {
    if !path.starts_with('/')
        || path.len() > PATH_BYTES_MAX
        || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
    {
        return Err(invalid(field, &format!("{} must be a path like /healthz", shown(path))));
    }
    Ok(())
}

fn check_tmpfs(tmpfs: &BTreeMap<String, String>) -> ApiResult<()> {
    if tmpfs.len() > TMPFS_MAX {
        return Err(invalid("tmpfs", &format!("has more than {TMPFS_MAX} entries")));
    }
    for (path, options) in tmpfs {
        check_absolute("tmpfs", path)?;
        if path.split('/').skip(1).any(|part| part.is_empty() || part == ".") {
            return Err(invalid("tmpfs", &format!("{} must have no empty and no . parts", shown(path))));
        }
        if path.contains([':', ',']) || path.starts_with("/.jetway") {
            return Err(invalid("tmpfs", &format!("{} cannot be mounted over", shown(path))));
        }
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b',' | b'_' | b'-' | b'%');
        if options.len() > NAME_BYTES_MAX || !options.bytes().all(fine) {
            return Err(invalid(
                "tmpfs",
                &format!("has the options {}, which Docker would not take", shown(options)),
            ));
        }
    }
    Ok(())
}

fn check_credentials(username: String, password: String) -> ApiResult<Credentials> {
    if username.len() > PATH_BYTES_MAX || password.len() > 16 * 1024 {
        return Err(invalid("credentials", "is too long"));
    }
    if username.contains('\0') || password.contains('\0') {
        return Err(invalid("credentials", "must not contain U+0000"));
    }
    Ok(Credentials { username, password })
}
