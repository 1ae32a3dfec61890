//! Identifiers. Each is a type whose `Deserialize` goes through the same check as its `FromStr`.

use std::fmt;
use std::num::NonZero;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An identifier that breaks its rule. The message says which rule, never more than the start of the input.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    pub what: &'static str,
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err(InvalidId { what: $what, rule: $rule }) }
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// One backend: one run of one process. Never used twice.
    BackendId, "a backend id", "1 to 45 characters of a-z, 0-9 and -",
    |s| (1..=45).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);
text_id!(
    /// What people call a drone. Unique in an installation; its identity is [`DroneId`].
    DroneName, "a drone name", "1 to 63 characters of a-z, 0-9, - and ., starting with a letter or digit",
    |s| (1..=63).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
        && s.as_bytes()[0].is_ascii_alphanumeric()
);
text_id!(
    /// The host, and port where it is not the scheme's, by which browsers reach the proxies of a cluster.
    ClusterName, "a cluster name", "a host name in lower case, optionally with :port",
    is_cluster
);
text_id!(
    /// The host label of a backend under its cluster.
    Subdomain, "a subdomain", "one DNS label: 1 to 63 characters of a-z, 0-9 and -, not starting or ending with -",
    is_label
);
text_id!(
    /// A pool of drones. The empty string is the default pool.
    PoolName, "a pool name", "at most 63 characters of a-z, A-Z, 0-9, -, _ and .",
    |s| s.len() <= 63 && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
);
text_id!(
    /// A warm pool: ready slots that an operator has declared. Not to be confused with a pool of drones.
    WarmPoolName, "a warm pool's name", "1 to 63 characters of a-z, 0-9, -, _ and .",
    |s| (1..=63).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
);
text_id!(
    /// One of a backend's ports besides the main one. Stands in paths, and before a subdomain: `debug--<subdomain>`.
    PortName, "a port's name", "1 to 15 characters of a-z, 0-9 and -, not starting or ending with - and without --",
    |s| s.len() <= 15 && is_label(s) && !s.contains("--")
);
text_id!(
    /// What slots can serve: the hash of all that cannot change once a slot was made ([`crate::warm::Kind::of`]).
    WarmHash, "a warm hash", "32 characters of 0-9 and a-f",
    |s| s.len() == 32 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);

impl BackendId {
    /// A fresh id: a version 7 UUID (time-ordered, RFC 9562 §5.7) in 26 characters of base32.
    pub fn random() -> Self {
        Self(base32(Uuid::now_v7().as_bytes()))
    }
}

impl ClusterName {
    /// Host without the port.
    pub fn host(&self) -> &str {
        self.0.rsplit_once(':').map_or(&self.0, |(host, _)| host)
    }

    /// `http` where the name has a port other than 443, else `https`.
    pub fn scheme(&self) -> &'static str {
        match self.0.rsplit_once(':') {
            None | Some((_, "443")) => "https",
            Some(_) => "http",
        }
    }
}

fn is_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

fn is_cluster(s: &str) -> bool {
    let (host, port) = match s.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (s, None),
    };
    s.len() <= 253
        && !host.is_empty()
        && host.split('.').all(is_label)
        && port.is_none_or(|p| !p.starts_with('0') && p.parse::<u16>().is_ok())
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(s).map(Self)
            }
        }
    };
}

uuid_id!(
    /// Identity of a drone: made once, kept in its locked data directory.
    DroneId
);
uuid_id!(
    /// One installation: the controllers, drones and proxies over one database.
    InstallationId
);
uuid_id!(
    /// One run of one proxy process.
    ProxyId
);
uuid_id!(
    /// One container made by a drone. A cold start has a slot of its own, too.
    SlotId
);
uuid_id!(
    /// The kernel's boot id of a host.
    BootId
);

/// One permission to enter one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(pub u64);

impl GrantId {
    /// The grant behind a backend's static token: one for the backend, no user.
    pub const STATIC: GrantId = GrantId(0);

    pub fn random() -> Self {
        let any_but_static = rand::random::<NonZero<u64>>();
        Self(any_but_static.get())
    }
}
impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl FromStr for GrantId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { what: "a grant id", rule: "16 hexadecimal digits" };
        if s.len() != 16 {
            return Err(invalid);
        }
        u64::from_str_radix(s, 16).map(Self).map_err(|_| invalid)
    }
}
impl Serialize for GrantId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for GrantId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub i64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
number!(
    /// Rises with each registration of a drone; every command and event carries it.
    Term
);
number!(
    /// Rises with each backend; below 2^53 so that JavaScript can hold it. What storage compares to refuse a zombie.
    FencingToken
);

/// Lower-case base32 (RFC 4648 §6 alphabet) without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    data_encoding::BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_obey_their_own_rule() {
        let id = BackendId::random();
        assert_eq!(id.as_str().len(), 26);
        assert_eq!(id.as_str().parse::<BackendId>().unwrap(), id);
        let grant = GrantId::random();
        assert_eq!(grant.to_string().parse::<GrantId>().unwrap(), grant);
    }

    #[test]
    fn names_are_checked() {
        let long = |length: usize| "a".repeat(length);
        assert!(long(45).parse::<BackendId>().is_ok());
        for bad in ["", "A", "a_b", "a/b", "a b", "ü", &long(46)] {
            assert!(bad.parse::<BackendId>().is_err(), "{bad:?}");
        }
        for good in ["one", "host-1.example.com", "1", &long(63)] {
            assert!(good.parse::<DroneName>().is_ok(), "{good:?}");
        }
        for bad in ["", "One", "-a", ".a", "a_b", "a/b", &long(64)] {
            assert!(bad.parse::<DroneName>().is_err(), "{bad:?}");
        }
        for good in ["", "Big_one.2-a", &long(63)] {
            assert!(good.parse::<PoolName>().is_ok(), "{good:?}");
        }
        for bad in ["a b", "a/b", "ü", &long(64)] {
            assert!(bad.parse::<PoolName>().is_err(), "{bad:?}");
        }
        for good in ["localhost:9090", "example.com", "a.b-c.example:443", "127.0.0.1:9090"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good:?}");
        }
        for bad in ["", ":80", "a_b", "http://a", "a..b", "a:0", "a:99999", "a:b", "-a", "A.com", "a/b"] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?}");
        }
        assert!(long(63).parse::<Subdomain>().is_ok());
        for bad in ["", "-a", "a-", "a.b", "A", "a_b", &long(64)] {
            assert!(bad.parse::<Subdomain>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn deserializing_checks_too() {
        assert!(serde_json::from_str::<BackendId>(r#""no way""#).is_err());
        assert!(serde_json::from_str::<BackendId>(r#""yes""#).is_ok());
        assert!(serde_json::from_str::<DroneName>(r#""A""#).is_err());
        assert!(serde_json::from_str::<ClusterName>(r#""a b""#).is_err());
        assert!(serde_json::from_str::<Subdomain>(r#""a.b""#).is_err());
        assert!(serde_json::from_str::<PoolName>(r#""a b""#).is_err());
    }
}
