//! The lease, terms, claims and adoption, checked exhaustively for small sizes.
//!
//! Each file is one model: a few processes, the messages between them, and everything that may go wrong with them, in every order.
//! A message that is never delivered is a lost one, a late one may overtake; a process that does nothing for a while
//! is a stopped one. What a step decides is decided by the product's own functions (`jetway_protocol::lease`, and the drone's
//! whole core in `claim`) wherever there is one; each file says which, and what it copies. A model takes a mistake as its
//! parameter, to show that the checker would see it.

mod explore;

mod address;
mod claim;
mod dispatch;
mod failover;
mod lease;
mod register;
mod warm;
