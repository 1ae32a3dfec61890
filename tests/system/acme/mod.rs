//! Certificates that are ordered: by whole controllers and proxies, from Let's Encrypt's own test server.

mod demand;
mod fleet;
mod flood;
mod front;
mod host_form;
mod issue;
mod issuer;
mod renew;
