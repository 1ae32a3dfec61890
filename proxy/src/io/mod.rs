//! Bytes, buffers and waits, without HTTP: the threads of clients' connections (`workers`), a
//! socket with bytes read ahead (`socket`), buffers that a thread lends (`buffers`), signals that
//! hardly ever come (`signal`), and an executor for hyper (`executor`).

pub mod buffers;
pub mod executor;
pub mod signal;
pub mod socket;
pub mod workers;
