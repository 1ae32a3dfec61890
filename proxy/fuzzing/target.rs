//! A request's target and Host: what is forwarded is a path and nothing else, what is compared is
//! one host in lower case.

use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Uri, Version};
use jetway_protocol::ids::{ClusterName, Subdomain};
use jetway_protocol::token::STATIC_PREFIX;

use crate::route::hosts::{HostKind, OwnHost};
use crate::route::{self, BackendTarget, InvalidTarget, Target};

/// `bytes`: lines with the request's target, a subdomain, a cluster, and any number of Hosts.
pub fn target(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (uri, subdomain, cluster) = (line(), line(), line());
    let Ok(uri) = Uri::try_from(uri) else { return };
    let hosts: Vec<_> = lines.filter_map(|host| HeaderValue::from_bytes(host).ok()).collect();
    let backend = a_target(&uri);
    let subdomain = text(subdomain).and_then(|text| text.parse::<Subdomain>().ok());
    let cluster = text(cluster).and_then(|text| text.parse::<ClusterName>().ok());
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let Some(host) = a_host(version, &uri, &hosts) else { continue };
        let (Some(subdomain), Some(cluster)) = (&subdomain, &cluster) else { continue };
        let kind = HostKind::of(&host, cluster);
        let own = kind.leads_to(Some(subdomain.as_str()));
        assert_eq!(own, whose(&host, subdomain.as_str(), cluster.as_str()), "{host} in {cluster}");
        let shared = kind.leads_to(None) == OwnHost::Main;
        assert_eq!(shared, is_shared(&host, cluster.as_str()), "{host} in {cluster}");
        assert!(kind != HostKind::Foreign || own == OwnHost::No, "{host} in {cluster}");
        if let Some(backend) = &backend {
            one_port(own, backend);
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn a_target(uri: &Uri) -> Option<BackendTarget> {
    assert_eq!(route::target(true, uri), Err(InvalidTarget::NotAPath), "a plain CONNECT");
    let path = uri.path();
    let found = match route::target(false, uri) {
        Err(reason) => {
            assert_eq!((reason, path.starts_with('/')), (InvalidTarget::NotAPath, false), "{uri}");
            return None;
        }
        Ok(Target::Root) => {
            assert_eq!(path, "/");
            return None;
        }
        Ok(Target::Ready) => {
            assert_eq!(path, "/ready");
            return None;
        }
        Ok(Target::Backend(found)) => found,
    };
    assert_eq!(found.verified_path, path, "the path as it was sent");
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let is_static = parts[0].starts_with(STATIC_PREFIX);
    assert_eq!(found.is_static, is_static, "{path}");
    assert_eq!(found.token, if is_static { &parts[0][STATIC_PREFIX.len()..] } else { parts[0] });
    let port = (parts.get(1) == Some(&"_port")).then(|| parts.get(2).copied().unwrap_or_default());
    assert_eq!(found.port.as_deref(), port, "{path}");

    let ours = if port.is_some() { parts.len().min(3) } else { 1 };
    let prefix = format!("/{}", parts[..ours].join("/"));
    assert_eq!(found.shared().prefix, prefix, "{path}");
    assert_eq!((found.shared().asked, found.shared().path_is_kept), (path, is_static));
    let rest: String = parts[ours..].iter().map(|part| format!("/{part}")).collect();
    let forward = match (is_static, rest.as_str()) {
        (true, _) => path,
        (false, "") => "/",
        (false, rest) => rest,
    };
    assert_eq!(found.forward.path(), forward, "{path}");
    assert_eq!(found.forward.query(), uri.query(), "{uri}");
    let is_plain = |byte: u8| byte > b' ' && byte != b'#' && byte != 127;
    assert!(found.forward.as_str().starts_with('/'), "{uri}");
    assert!(found.forward.as_str().bytes().all(is_plain), "{uri}");
    Some(found)
}

fn a_host(version: Version, uri: &Uri, hosts: &[HeaderValue]) -> Option<String> {
    let headers: HeaderMap = hosts.iter().map(|host| (HOST, host.clone())).collect();
    let found = route::host(version, uri, &headers).ok()?;
    let said: Vec<&[u8]> = match hosts {
        [] if version == Version::HTTP_2 => Vec::new(),
        [one] => vec![one.as_bytes()],
        _ => panic!("{} Hosts in {version:?}", hosts.len()),
    };
    let said = said.into_iter().chain(uri.authority().map(|authority| authority.as_str().as_bytes()));
    for said in said {
        assert!(said.eq_ignore_ascii_case(found.as_bytes()), "{said:?} and {found}");
    }
    // Where it stands between quotes, in `Forwarded`, none may end them.
    let is_odd = |byte: u8| byte <= b' ' || byte >= 127 || b"\"\\/@?#<>".contains(&byte);
    assert!(!found.is_empty() && !found.bytes().any(is_odd), "{found:?}");
    assert!(!found.bytes().any(|byte| byte.is_ascii_uppercase()), "{found}");
    match route::lone_host(uri, &headers) {
        Some(lone) => assert!(hosts == [lone] && uri.authority().is_none()),
        None => assert!(uri.authority().is_some()),
    }
    Some(found)
}

/// All hosts that a backend has, written out.
fn whose<'a>(host: &'a str, subdomain: &str, cluster: &str) -> OwnHost<'a> {
    let (name, port) = cluster.split_once(':').map_or((cluster, None), |(name, port)| (name, Some(port)));
    let ends = match port {
        None => vec![format!(".{name}"), format!(".{name}:80"), format!(".{name}:443")],
        Some("80" | "443") => vec![format!(".{name}"), format!(".{cluster}")],
        Some(_) => vec![format!(".{cluster}")],
    };
    if is_shared(host, cluster) {
        return OwnHost::No;
    }
    let Some(label) = ends.iter().find_map(|end| host.strip_suffix(end.as_str())) else { return OwnHost::No };
    if label == subdomain {
        return OwnHost::Main;
    }
    match label.strip_suffix(&format!("--{subdomain}")) {
        Some(port) if !port.contains('.') => OwnHost::Port(port),
        _ => OwnHost::No,
    }
}

/// Whether sessions without a subdomain are served there.
fn is_shared(host: &str, cluster: &str) -> bool {
    let bare = |text: &str| match text.rfind(':') {
        Some(at) if at + 1 < text.len() && text[at + 1..].chars().all(|c| c.is_ascii_digit()) => {
            text[..at].to_owned()
        }
        _ => text.to_owned(),
    };
    let name = bare(host);
    let is_v6 = name.starts_with('[')
        && format!("{name}:1").parse::<std::net::SocketAddrV6>().is_ok()
        && !name.contains('%');
    name == bare(cluster)
        || name == "localhost"
        || is_v6
        || format!("{name}:1").parse::<std::net::SocketAddrV4>().is_ok()
}

fn one_port(own: OwnHost<'_>, backend: &BackendTarget) {
    let in_host = if let OwnHost::Port(port) = own { Some(port) } else { None };
    let named: Vec<&str> = in_host.into_iter().chain(backend.port.as_deref()).collect();
    let expect = match named[..] {
        [one, other] if one != other => Err(InvalidTarget::TwoPorts),
        _ => Ok(named.first().copied()),
    };
    assert_eq!(route::port_named(own, backend.port.as_deref()), expect);
}
