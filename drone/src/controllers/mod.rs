//! The drone and its controllers: how it registers and stays known (`registration`, `beats`), what
//! they said last (`membership`), and how statuses reach them (`outbox`). Which controller serves is
//! [`jetway_service::controllers`]' business.

mod beats;
pub mod membership;
pub mod outbox;
pub mod registration;

#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod registration_tests;
