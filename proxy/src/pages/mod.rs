//! The proxy's own answers: `answer` makes the response, `page` the HTML for people. A `Problem` is
//! the reason; `request::stage` tells the waiting page how far a start is.

pub mod answer;
pub mod page;
