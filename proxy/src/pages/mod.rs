//! The proxy's own answers: `answer` makes the response, `page` the HTML for people. A `Problem` is
//! the reason; `request::stage` tells the waiting page how far a start is. `entry` has those on the
//! way in to a session's host.

pub mod answer;
pub mod entry;
pub mod page;
