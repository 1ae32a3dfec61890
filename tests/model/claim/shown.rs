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
        let mut hasher = DefaultHasher::new();
        format!("{value:?}").hash(&mut hasher);
        Self { value: Arc::new(value), print: hasher.finish() }
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
