//! What a caller names a session by. One process per (namespace, name); the tag must match to be given it.

use serde::{Deserialize, Serialize};

/// Bytes of a key's name, at most.
pub const KEY_NAME_BYTES_MAX: usize = 1024;
/// Bytes of a namespace or a tag, at most.
pub const KEY_ATTRIBUTE_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Key {
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub tag: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("key.name must not be empty")]
    Empty,
    #[error("key.{field} is {bytes} bytes long; at most {max} are allowed")]
    TooLong { field: &'static str, bytes: usize, max: usize },
    #[error("key.{0} must not contain the character U+0000")]
    Nul(&'static str),
}

impl Key {
    pub fn check(&self) -> Result<(), InvalidKey> {
        if self.name.is_empty() {
            return Err(InvalidKey::Empty);
        }
        let fields = [
            ("name", &self.name, KEY_NAME_BYTES_MAX),
            ("namespace", &self.namespace, KEY_ATTRIBUTE_BYTES_MAX),
            ("tag", &self.tag, KEY_ATTRIBUTE_BYTES_MAX),
        ];
        for (field, text, max) in fields {
            if text.len() > max {
                return Err(InvalidKey::TooLong { field, bytes: text.len(), max });
            }
            if text.contains('\0') {
                return Err(InvalidKey::Nul(field));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_their_edges() {
        let key = |name: usize, namespace: usize, tag: usize| {
            let [name, namespace, tag] = [name, namespace, tag].map(|n| "k".repeat(n));
            Key { name, namespace, tag }
        };
        assert_eq!(key(0, 1, 1).check(), Err(InvalidKey::Empty));
        assert_eq!(key(1024, 256, 256).check(), Ok(()));
        for (long, name) in
            [(key(1025, 0, 0), "name"), (key(1, 257, 0), "namespace"), (key(1, 0, 257), "tag")]
        {
            assert!(
                matches!(long.check(), Err(InvalidKey::TooLong { field, .. }) if field == name),
                "{name}"
            );
        }
        let nul = Key { name: "a\0b".into(), namespace: String::new(), tag: String::new() };
        assert_eq!(nul.check(), Err(InvalidKey::Nul("name")));
    }
}
