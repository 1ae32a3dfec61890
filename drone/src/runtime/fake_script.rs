//! What the fake engine of the tests, its inits and their applications are told to do. Doing it is `fake`'s business.

use std::net::IpAddr;

use super::{ImageError, RuntimeError};

/// How the fake engine and its inits behave from now on.
#[derive(Debug, Clone)]
pub struct Script {
    pub application: Application,
    pub image_error: Option<ImageError>,
    pub pull_hangs: bool,
    pub create_hangs: bool,
    pub create_error: Option<RuntimeError>,
    pub kill_hangs: bool,
    pub inspect_fails: bool,
    pub init_is_silent: bool,
    pub remove_fails: bool,
    pub open_line_fails: bool,
    /// The address that every container says it has, where the test listens.
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Application {
    BecomesReady,
    NeverListens,
    ListensElsewhere,
    ExitsAtOnce(i32),
    IgnoresStop,
    /// Init becomes it, and nobody is on the line any more.
    TakesInitsPlace,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            application: Application::BecomesReady,
            image_error: None,
            pull_hangs: false,
            create_hangs: false,
            create_error: None,
            kill_hangs: false,
            inspect_fails: false,
            init_is_silent: false,
            remove_fails: false,
            open_line_fails: false,
            address: None,
        }
    }
}
