//! What a certificate is for: one name or several, wildcards among them.

use std::str::FromStr;

use jetway_protocol::certificates::HostName;

/// Of one certificate: as many as Let's Encrypt takes.
const NAMES_MAX: usize = 100;

/// In the order in which they were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<String>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be host names like example.com and *.example.com; several in one certificate are joined by '+', as in example.com+*.example.com"
)]
pub struct InvalidNames;

impl Names {
    /// Those of a row.
    pub fn stored(names: &[String]) -> Result<Self, InvalidNames> {
        names.join("+").parse()
    }

    pub fn id(&self) -> String {
        self.0.join("+")
    }

    pub fn all(&self) -> &[String] {
        &self.0
    }

    pub fn has_wildcard(&self) -> bool {
        self.0.iter().any(|name| name.starts_with("*."))
    }

    /// The hosts whose control is shown: a wildcard's is the name below it.
    pub fn hosts(&self) -> Vec<String> {
        self.0.iter().map(|name| name.strip_prefix("*.").unwrap_or(name).to_owned()).collect()
    }
}

impl FromStr for Names {
    type Err = InvalidNames;

    fn from_str(text: &str) -> Result<Self, InvalidNames> {
        let mut names = Vec::new();
        for part in text.split('+') {
            let (wildcard, host) = match part.trim().strip_prefix("*.") {
                Some(host) => ("*.", host),
                None => ("", part.trim()),
            };
            let host: HostName = host.parse().map_err(|_| InvalidNames)?;
            let name = format!("{wildcard}{host}");
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.len() > NAMES_MAX { Err(InvalidNames) } else { Ok(Self(names)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts_and_wildcards_below_two_labels() {
        let names: Names = "Example.com+*.example.com+example.com".parse().unwrap();
        assert_eq!(names.all(), ["example.com", "*.example.com"]);
        assert_eq!(names.id(), "example.com+*.example.com");
        assert_eq!(Names::stored(names.all()), Ok(names.clone()));
        assert_eq!(names.hosts(), ["example.com", "example.com"]);
        assert!(names.has_wildcard() && !"a.example".parse::<Names>().unwrap().has_wildcard());
        let many = ["a.example"; 3].join("+");
        assert_eq!(many.parse::<Names>().unwrap().all().len(), 1);
        let too_many = (0..=NAMES_MAX).map(|n| format!("n{n}.example")).collect::<Vec<_>>().join("+");
        for wrong in
            ["", "+", "a.example+", "*", "*.com", "*.*.example.com", "a.*.example.com", "10.0.0.1", &too_many]
        {
            assert_eq!(wrong.parse::<Names>(), Err(InvalidNames), "{wrong}");
        }
    }
}
