//! Whether a cluster's name parts sessions in the host form from each other and from the web app:
//! browsers take all hosts of one registrable domain for one site. A rule of thumb, without the
//! Public Suffix List. Pure.

use jetway_protocol::ids::ClusterName;

use super::{Finding, Grade, finding};

/// Second levels under which names are registered, where the top level is a country's.
const SECOND_LEVELS: [&str; 11] = ["ac", "co", "com", "edu", "go", "gob", "gov", "ne", "net", "or", "org"];
const CHECK: &str = "cluster";

/// `api_url`: where this command finds the API. The web app is often beside it.
pub fn look(cluster: &ClusterName, api_url: &str) -> Finding {
    let name = cluster.host();
    let is_address = name.split('.').all(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if is_address {
        let text = format!("{cluster} is an address: no session can have a host of its own (url_form: host)");
        return finding(CHECK, Grade::Warning, text);
    }
    if name == "localhost" || name.ends_with(".localhost") {
        let text = format!("{cluster} is for this machine; elsewhere a cluster needs a domain of its own");
        return finding(CHECK, Grade::Good, text);
    }
    let domain = registrable(name);
    let api = host_of(api_url).filter(|host| registrable(host) == domain);
    if let Some(api) = api {
        let text = format!(
            "{cluster} is of one site with {api}, where the API is: sessions can send requests that carry the web app's cookies. Give the cluster a domain of its own, and put that on the Public Suffix List"
        );
        return finding(CHECK, Grade::Warning, text);
    }
    if domain != name {
        let text = format!(
            "{cluster} is of one site with all of {domain}: the web app must not be there, and sessions can reach each other's cookies. A domain of its own, on the Public Suffix List, is better"
        );
        return finding(CHECK, Grade::Warning, text);
    }
    let text = format!(
        "{cluster} looks like a domain of its own; where sessions do not trust each other it belongs on the Public Suffix List (publicsuffix.org)"
    );
    finding(CHECK, Grade::Good, text)
}

/// The part of a name that was registered: one label more than its suffix.
fn registrable(name: &str) -> &str {
    let labels: Vec<&str> = name.rsplit('.').take(3).collect();
    let is_second_level = |second: &str, top: &str| top.len() == 2 && SECOND_LEVELS.contains(&second);
    let count = match labels.as_slice() {
        [top, second, ..] if is_second_level(second, top) => 3,
        _ => 2,
    };
    let bytes: usize = labels.iter().take(count).map(|label| label.len() + 1).sum();
    &name[name.len().saturating_sub(bytes.saturating_sub(1))..]
}

fn host_of(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    url.domain().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_registered_below_its_suffix() {
        for (name, domain) in [
            ("sessions.example", "sessions.example"),
            ("a.sessions.example", "sessions.example"),
            ("b.a.sessions.example", "sessions.example"),
            ("example.co.uk", "example.co.uk"),
            ("a.example.co.uk", "example.co.uk"),
            ("a.example.com.au", "example.com.au"),
            // Short names that are no suffixes.
            ("sessions.abc.io", "abc.io"),
            ("sessions.ab.de", "ab.de"),
            ("co.uk", "co.uk"),
            ("internal", "internal"),
        ] {
            assert_eq!(registrable(name), domain, "{name}");
        }
    }

    #[test]
    fn a_cluster_of_one_site_with_others_is_told_of() {
        for (cluster, api, grade, said) in [
            ("sessions.example", "http://127.0.0.1:8080", Grade::Good, "Public Suffix List"),
            ("sessions.example", "https://jetway.app.example", Grade::Good, "Public Suffix List"),
            (
                "sessions.app.example",
                "http://127.0.0.1:8080",
                Grade::Warning,
                "one site with all of app.example",
            ),
            ("sessions.app.example", "https://api.app.example", Grade::Warning, "api.app.example"),
            ("app.example", "https://api.app.example", Grade::Warning, "Public Suffix List"),
            ("sessions.abc.io", "https://api.abc.io", Grade::Warning, "api.abc.io"),
            ("example.co.uk", "https://other.co.uk", Grade::Good, "Public Suffix List"),
            ("localhost:9090", "http://127.0.0.1:8080", Grade::Good, "this machine"),
            ("10.0.0.1:9090", "http://127.0.0.1:8080", Grade::Warning, "an address"),
        ] {
            let found = look(&cluster.parse().unwrap(), api);
            assert!(found.grade == grade && found.text.contains(said), "{cluster} {api}: {}", found.text);
        }
    }
}
