//! The fields of a connect in the host form, checked: where browsers are sent that may not enter,
//! and further hosts. Pure: it looks at the request, the session's spec and the clusters that it is
//! told of.

use jetway_api::connect::UrlForm;
use jetway_protocol::certificates::HostName;
use jetway_protocol::error::Code;
use jetway_protocol::host::{LABEL_CHARS_MAX, is_derived};
use jetway_protocol::ids::{ClusterName, Subdomain};
use jetway_protocol::spec::BackendSpec;
use reqwest::Url;

use crate::error::{ApiError, ApiResult, shown};
use crate::host_names;

const HOSTS_MAX: usize = 8;
const RETURN_URL_BYTES_MAX: usize = 2048;
/// `xn--` begins names of another kind, so no port of two characters has a host.
const PORT_CHARS_WITHOUT_HOST: usize = 2;
const STATIC: &str = "use_static_token gives every caller one URL, and \"url_form\": \"host\" lets each one in by a cookie of its own: leave one of them out";

/// A connect with `"url_form": "host"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostForm {
    pub return_url: Option<ReturnUrl>,
    /// Customers' own names.
    pub hosts: Vec<HostName>,
}

/// An absolute http or https URL, as browsers write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnUrl {
    url: String,
    /// Without a dot at its end.
    host: String,
}

impl ReturnUrl {
    pub fn as_str(&self) -> &str {
        &self.url
    }

    pub fn leads_to(&self, host: &str) -> bool {
        self.host == host
    }

    /// Whether it leads to the host of a label, or to one of its ports'.
    pub fn leads_to_label(&self, host: &str) -> bool {
        let before = self.host.strip_suffix(host);
        self.leads_to(host) || before.is_some_and(|before| before.ends_with("--") && !before.contains('.'))
    }
}

/// `None`: the path form.
pub fn check(
    form: Option<UrlForm>,
    return_url: Option<&str>,
    hosts: &[String],
    allowed_origins: &[String],
) -> ApiResult<Option<HostForm>> {
    if form.unwrap_or_default() == UrlForm::Path {
        for (field, is_there) in [("return_url", return_url.is_some()), ("hosts", !hosts.is_empty())] {
            if is_there {
                return Err(ApiError::invalid(format!(
                    "{field} belongs to the host form: send \"url_form\": \"host\" with it, or leave it out"
                )));
            }
        }
        return Ok(None);
    }
    if allowed_origins.iter().any(|origin| origin == "null") {
        return Err(ApiError::invalid(
            "allowed_origins: null cannot be allowed in the host form, where every sandboxed page has it: name the page's own origin",
        ));
    }
    let return_url = return_url.map(check_return_url).transpose()?;
    Ok(Some(HostForm { return_url, hosts: check_hosts(hosts)? }))
}

fn check_return_url(text: &str) -> ApiResult<ReturnUrl> {
    let refused = |why: String| ApiError::invalid(format!("return_url: {} {why}", shown(text)));
    let too_long = || refused(format!("is longer than {RETURN_URL_BYTES_MAX} bytes"));
    let no_url = || refused("is no absolute URL like https://app.example.com/open?doc=1".to_owned());
    if text.len() > RETURN_URL_BYTES_MAX {
        return Err(too_long());
    }
    // The parser mends some mistakes; here they are refused.
    let (scheme, _) = text.split_once("://").ok_or_else(no_url)?;
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        || !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
    {
        return Err(no_url());
    }
    let url = Url::parse(text).map_err(|_| no_url())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ApiError::invalid(
            "return_url has a user or a password, which every browser would be shown: leave them out",
        ));
    }
    let host = url.host_str().ok_or_else(no_url)?;
    let host = host.strip_suffix('.').unwrap_or(host).to_owned();
    let url = String::from(url);
    if url.len() > RETURN_URL_BYTES_MAX { Err(too_long()) } else { Ok(ReturnUrl { url, host }) }
}

fn check_hosts(hosts: &[String]) -> ApiResult<Vec<HostName>> {
    if hosts.len() > HOSTS_MAX {
        return Err(ApiError::invalid(format!("hosts has more than {HOSTS_MAX} entries")));
    }
    let mut checked = Vec::new();
    for text in hosts {
        let host = text.parse::<HostName>().ok().filter(|host| host.as_str() == text);
        let Some(host) = host else {
            return Err(ApiError::invalid(format!(
                "hosts: {} is no host name in lower case, like doc.customer.example",
                shown(text)
            )));
        };
        if is_derived(text.split('.').next().unwrap_or_default()) {
            return Err(ApiError::invalid(format!(
                "hosts: {host} begins like a label that is derived from a key: choose another"
            )));
        }
        if checked.contains(&host) {
            return Err(ApiError::invalid(format!("hosts names {host} twice")));
        }
        checked.push(host);
    }
    Ok(checked)
}

/// No further host may be a cluster's, or one of its sessions'.
pub fn check_apart<'a>(
    hosts: &[HostName],
    clusters: impl IntoIterator<Item = &'a ClusterName>,
) -> ApiResult<()> {
    if hosts.is_empty() {
        return Ok(());
    }
    for cluster in clusters {
        let is_of = |host: &&HostName| {
            let before = host.as_str().strip_suffix(cluster.host());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        if let Some(host) = hosts.iter().find(is_of) {
            return Err(ApiError::invalid(format!(
                "hosts: {host} belongs to the cluster {cluster}: choose a subdomain instead"
            )));
        }
    }
    Ok(())
}

/// Whether a session of this spec can be in the host form.
pub fn check_spec(spec: &BackendSpec) -> ApiResult<()> {
    if spec.use_static_token {
        return Err(static_token());
    }
    if let Some(subdomain) = &spec.subdomain {
        check_label(subdomain)?;
    }
    let mut ports = spec.executable.ports.keys();
    if let Some(port) = ports.find(|port| !has_host(port.as_str())) {
        return Err(ApiError::invalid(format!(
            "spawn_config.executable.ports: in the host form a port has a host of its own, and no name of two characters can begin one: rename {port}"
        )));
    }
    Ok(())
}

/// Whether a port's name can stand before `--` in a host.
pub fn has_host(port: &str) -> bool {
    port.len() != PORT_CHARS_WITHOUT_HOST
}

pub fn static_token() -> ApiError {
    ApiError::invalid(STATIC)
}

/// A subdomain as the label of a session.
pub fn check_label(subdomain: &Subdomain) -> ApiResult<()> {
    if host_names::may_be_host_form(subdomain) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "the subdomain {subdomain} cannot be had in the host form, where ports stand before it, as in debug--{subdomain}: at most {LABEL_CHARS_MAX} characters, without --, and none that looks derived"
    )))
}

/// Browsers keep the cookie only where the session's host is a secure context.
pub fn check_cluster(cluster: &ClusterName, hosts: &[HostName]) -> ApiResult<()> {
    let name = cluster.host();
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(ApiError::invalid(format!(
            "the cluster {cluster} is an address, and no host can be below one: the host form needs a cluster with a name"
        )));
    }
    let is_https = cluster.scheme() == "https";
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    if !is_https && !is_localhost {
        return Err(ApiError::new(
            Code::HostFormNeedsHttps,
            format!(
                "browsers reach the cluster {cluster} without TLS, and would not keep the host form's cookie: give the proxies certificates and name the cluster without a port, or use \"url_form\": \"path\""
            ),
        ));
    }
    if !is_https && !hosts.is_empty() {
        return Err(ApiError::new(
            Code::HostFormNeedsHttps,
            format!("hosts need TLS, and browsers reach the cluster {cluster} without it: leave them out"),
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
