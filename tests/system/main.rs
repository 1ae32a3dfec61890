//! Whole-system tests: real Postgres, real Docker, real sockets, the roles as separate processes.
//!
//! `tests/run` starts what they need. One binary, so that it links once. Each test has a database, a drone, a network and
//! directories of its own, and asserts at its end that nothing of it is left.

mod fake_runtime;
mod harness;

mod acme;
mod cli;
mod cloned;
mod close_codes;
mod compose;
mod connect;
mod dev;
mod drone_in_container;
mod ends;
mod engine_calls;
mod engine_restarts;
mod events;
mod failover;
mod flood;
mod hints;
mod host_form;
mod hosts;
mod idle_cost;
mod input;
mod known_death;
mod large;
mod lease;
mod pages;
mod plane_client;
mod postgres_stall;
mod postgres_vanishes;
mod refused_starts;
mod remote_proxy;
mod restarts;
mod starts;
mod tidy;
mod warm;
