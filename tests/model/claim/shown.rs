//! Values of the product's that a state of a model holds: compared by what they show.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A value that is equal to another where it shows the same.
#[derive(Clone)]
pub struct Shown<T> {
    pub value: Arc<T>,
    print: u64,
}

impl<T: fmt::Debug> Shown<T> {
    pub fn new(value: T) -> Self {
        let mut print = Print(DefaultHasher::new());
        fmt::write(&mut print, format_args!("{value:?}")).expect("a hash takes anything");
        Self { value: Arc::new(value), print: print.0.finish() }
    }
}

struct Print(DefaultHasher);

impl fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl<T> PartialEq for Shown<T> {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl<T> Eq for Shown<T> {}

impl<T> Hash for Shown<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}

impl<T: fmt::Debug> fmt::Debug for Shown<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}
