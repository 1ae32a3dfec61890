//! Secrets from the environment or from files, never from the command line's visible arguments.

use std::path::Path;

use jetway_protocol::secret::{Secret, SecretTooShort};

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(
        "no secret: set JETWAY_SECRET or JETWAY_SECRET_FILE (for example to the output of: openssl rand -hex 32)"
    )]
    Missing,
    #[error("cannot read the secret file {path}")]
    Unreadable { path: String, source: std::io::Error },
    #[error(transparent)]
    TooShort(#[from] SecretTooShort),
}

/// The installation's secret, from its text or from a file.
pub fn installation_secret(text: Option<&str>, file: Option<&Path>) -> Result<Secret, SecretError> {
    match (text, file) {
        (Some(text), _) => Ok(Secret::new(text)?),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| SecretError::Unreadable { path: path.display().to_string(), source })?;
            Ok(Secret::new(&text)?)
        }
        (None, None) => Err(SecretError::Missing),
    }
}
