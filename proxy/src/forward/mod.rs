//! One admitted request: sent to its backend and answered (`exchange`, `response_body`; a service
//! worker's script by `worker`), or switched to another protocol (`switch` is the wish, `upgrade`
//! the way from the 101 to the tunnel).

pub mod exchange;
pub mod response_body;
pub mod switch;
pub mod upgrade;
pub mod worker;
