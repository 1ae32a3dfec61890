//! Where a session stands on an origin that it shares with others.

/// An origin that a session has in common with others: the path form.
#[derive(Debug, Clone, Copy)]
pub struct Shared<'a> {
    /// Everything of the session is below this path: the token's, or the token's and a port's. No
    /// slash at its end.
    pub prefix: &'a str,
    /// The path of the request, as the client sent it.
    pub asked: &'a str,
    /// The application sees its prefix.
    pub path_is_kept: bool,
}
