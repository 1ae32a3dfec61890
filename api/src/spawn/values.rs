//! Rules for the values of an executable: images, environments, paths, arguments, names.

use std::collections::BTreeMap;

use jetway_protocol::image::Reference;
use jetway_protocol::key::Key;
use jetway_protocol::spec::Credentials;

use super::executable::{MountRequest, invalid};
use crate::refusal::{Checked, shown};

const ENV_BYTES_MAX: usize = 256 * 1024;
const ARGUMENTS_MAX: usize = 512;
const ARGUMENTS_BYTES_MAX: usize = 128 * 1024;
const PATH_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 255;
const TMPFS_MAX: usize = 32;
/// Set by the drone; a caller's value would be overwritten.
const RESERVED_ENV: [&str; 5] = [
    "PORT",
    "SESSION_BACKEND_ID",
    "SESSION_BACKEND_KEY",
    "SESSION_BACKEND_FENCING_TOKEN",
    "SESSION_BACKEND_STATIC_TOKEN",
];

pub fn check_image(image: &str) -> Checked<()> {
    Reference::parse(image).map(drop).map_err(|error| invalid("image", &format!("is refused: {error}")))
}

pub fn check_env(mut env: BTreeMap<String, String>) -> Checked<BTreeMap<String, String>> {
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

pub fn check_mount(mount: Option<MountRequest>, key: Option<&Key>) -> Checked<Option<String>> {
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

pub fn check_network(network: &str) -> Checked<()> {
    if matches!(network, "host" | "none") || network.starts_with("container:") {
        return Err(invalid("network_name", &format!("{} is never allowed", shown(network))));
    }
    check_name("network_name", network, "")
}

/// Docker's usual name: starts with a letter or digit, and what `more` allows.
pub fn check_name(field: &str, name: &str, more: &str) -> Checked<()> {
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

pub fn check_arguments(field: &str, arguments: Option<&[String]>) -> Checked<()> {
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

pub fn check_absolute(field: &str, path: &str) -> Checked<()> {
    if !path.starts_with('/')
        || path.len() > PATH_BYTES_MAX
        || path.chars().any(char::is_control)
        || path.split('/').any(|part| part == "..")
    {
        return Err(invalid(field, &format!("{} must be an absolute path without ..", shown(path))));
    }
    Ok(())
}

pub fn check_http_path(field: &str, path: &str) -> Checked<()> {
    if !path.starts_with('/')
        || path.len() > PATH_BYTES_MAX
        || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
    {
        return Err(invalid(field, &format!("{} must be a path like /healthz", shown(path))));
    }
    Ok(())
}

pub fn check_tmpfs(tmpfs: &BTreeMap<String, String>) -> Checked<()> {
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

pub fn check_credentials(username: String, password: String) -> Checked<Credentials> {
    if username.len() > PATH_BYTES_MAX || password.len() > 16 * 1024 {
        return Err(invalid("credentials", "is too long"));
    }
    if username.contains('\0') || password.contains('\0') {
        return Err(invalid("credentials", "must not contain U+0000"));
    }
    Ok(Credentials { username, password })
}
