//! Where a session stands on its origin: what its answers may say there, and to whom.

use http::header::HeaderValue;

use super::guard::Guard;

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

/// The form in which a session is served.
#[derive(Debug, Clone, Copy)]
pub enum Served<'a> {
    /// By a token in the path, on an origin that other sessions have too.
    Shared(Shared<'a>),
    /// By a token in the path, on an origin of its own.
    Alone,
    /// In the host form.
    Guarded(&'a Guard, &'a Readers),
}

impl<'a> Served<'a> {
    pub fn shared(&self) -> Option<&Shared<'a>> {
        match self {
            Served::Shared(shared) => Some(shared),
            Served::Alone | Served::Guarded(..) => None,
        }
    }

    pub fn is_guarded(&self) -> bool {
        matches!(self, Served::Guarded(..))
    }
}

/// Which page gets an answer of the host form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readers {
    /// The session's own, or a person who navigates.
    Own,
    /// A listed page's script: its origin.
    Script(HeaderValue),
    /// A listed page, as a picture and the like.
    Part,
    /// A listed page, as a frame.
    Frame,
    /// A client with a token of its own, which no browser adds by itself.
    Bearer,
}
