//! What a caller names a session by. One process per (namespace, name); the tag must match to be given it.

use serde::{Deserialize, Serialize};

/// Bytes of a key's name, at most.
pub const KEY_NAME_BYTES_MAX: usize = 1024;
/// Bytes of a namespace or a tag, at most.
pub const KEY_ATTRIBUTE_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        let key = |n: usize| Key { name: "k".repeat(n), namespace: String::new(), tag: String::new() };
        assert_eq!(key(0).check(), Err(InvalidKey::Empty));
        assert_eq!(key(KEY_NAME_BYTES_MAX).check(), Ok(()));
        assert!(matches!(key(KEY_NAME_BYTES_MAX + 1).check(), Err(InvalidKey::TooLong { .. })));
        let nul = Key { name: "a\0b".into(), namespace: String::new(), tag: String::new() };
        assert_eq!(nul.check(), Err(InvalidKey::Nul("name")));
    }
}
