//! Who a container's user is, in numbers, so that a directory which is made for it can belong to
//! it. A name means what the image's own `/etc/passwd` says; it is read from the container, which
//! is made and not started yet.

use std::path::Path;

use jetway_service::tar;

use super::engine::Engine;
use crate::runtime::RuntimeError;

/// Of an archive with a file of users in it.
const ARCHIVE_BYTES_MAX: usize = 1024 * 1024;

/// As far as the user's text alone says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    Root,
    Numeric(u32, u32),
    /// A name, or a group's name.
    Named(String),
}

impl User {
    /// `user` or `user:group`, as an image and a spec name it.
    pub fn of(text: &str) -> Self {
        match text.split_once(':').unwrap_or((text, text)) {
            ("" | "root", "" | "root") => Self::Root,
            (user, group) => match (user.parse(), group.parse()) {
                (Ok(0), Ok(0)) => Self::Root,
                (Ok(user), Ok(group)) => Self::Numeric(user, group),
                _ => Self::Named(text.to_owned()),
            },
        }
    }
}

/// The owner that a directory needs for the user, on the host. `None`: the host's root, or an
/// unknown one. `remapped`: what the container's root is on the host, under `userns-remap`.
pub async fn on_host(
    engine: &Engine,
    container: &str,
    user: &User,
    remapped: Option<(u32, u32)>,
) -> Result<Option<(u32, u32)>, RuntimeError> {
    let inside = match user {
        User::Root => (0, 0),
        User::Numeric(uid, gid) => (*uid, *gid),
        User::Named(name) => {
            let passwd = read(engine, container, "/etc/passwd").await?;
            let group =
                if name.contains(':') { read(engine, container, "/etc/group").await? } else { String::new() };
            match named(name, &passwd, &group) {
                Some(owner) => owner,
                None => return Ok(None),
            }
        }
    };
    let (uid, gid) = remapped.unwrap_or_default();
    let owner = (uid.saturating_add(inside.0), gid.saturating_add(inside.1));
    Ok((owner != (0, 0)).then_some(owner))
}

/// Empty where the image has no such file.
async fn read(engine: &Engine, container: &str, path: &str) -> Result<String, RuntimeError> {
    let archive = format!("/containers/{container}/archive");
    let bytes = match engine.get_bytes(&archive, &[("path", path)], ARCHIVE_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(RuntimeError::Refused(_)) => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    Ok(String::from_utf8_lossy(tar::file_in(&bytes, name).unwrap_or_default()).into_owned())
}

fn named(text: &str, passwd: &str, group: &str) -> Option<(u32, u32)> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "root" } else { user };
    let field = |line: &str, n: usize| line.split(':').nth(n).and_then(|field| field.parse::<u32>().ok());
    let line_of =
        |file: &'_ str| file.lines().find(|line| line.split(':').next() == Some(user)).map(str::to_owned);
    let line = line_of(passwd);
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => field(line.as_deref()?, 2)?,
    };
    let gid = match wanted_group {
        None => field(line.as_deref()?, 3)?,
        Some(name) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => field(group.lines().find(|line| line.split(':').next() == Some(name))?, 2)?,
        },
    };
    Some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\nbroken:x\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:node\n";

    #[test]
    fn a_number_needs_no_file() {
        for (text, user) in [
            ("", User::Root),
            ("root", User::Root),
            ("0", User::Root),
            ("0:0", User::Root),
            ("root:root", User::Root),
            ("65534", User::Numeric(65534, 65534)),
            ("1000:50", User::Numeric(1000, 50)),
            ("0:50", User::Numeric(0, 50)),
            ("node", User::Named("node".to_owned())),
            ("1000:users", User::Named("1000:users".to_owned())),
            ("root:users", User::Named("root:users".to_owned())),
        ] {
            assert_eq!(User::of(text), user, "{text:?}");
        }
    }

    #[test]
    fn a_name_means_what_the_images_files_say() {
        for (text, owner) in [
            ("node", Some((1000, 1001))),
            ("node:users", Some((1000, 100))),
            ("node:7", Some((1000, 7))),
            ("5:users", Some((5, 100))),
            ("root:users", Some((0, 100))),
            (":users", Some((0, 100))),
            ("nobody", None),
            ("node:nogroup", None),
            ("broken", None),
        ] {
            assert_eq!(named(text, PASSWD, GROUP), owner, "{text:?}");
        }
        assert_eq!(named("node", "", ""), None);
    }
}
