//! What the starts of each image have taken, for people who wait for one. Those that nobody had time to notice do not count: a session from
//! a warm slot says nothing of one that has none.

use std::collections::HashMap;
use std::time::Duration;

use jetway_protocol::attach::PAGE_AFTER;
use parking_lot::Mutex;

/// Images that are remembered.
const IMAGES_MAX: usize = 1024;
/// Of a new start in the mean: the last few count (an exponentially weighted moving average).
const SHARE: f64 = 0.4;

#[derive(Debug, Default)]
pub struct Usual(Mutex<HashMap<String, Duration>>);

impl Usual {
    pub fn took(&self, image: &str, length: Duration) {
        if length < PAGE_AFTER {
            return;
        }
        let mut images = self.0.lock();
        if let Some(usual) = images.get_mut(image) {
            *usual = usual.mul_f64(1.0 - SHARE) + length.mul_f64(SHARE);
            return;
        }
        if images.len() >= IMAGES_MAX {
            images.clear();
        }
        images.insert(image.to_owned(), length);
    }

    pub fn of(&self, image: &str) -> Option<Duration> {
        self.0.lock().get(image).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_starts_that_were_noticed_count_and_there_is_an_end_to_what_is_remembered() {
        let usual = Usual::default();
        usual.took("a", Duration::from_millis(5));
        assert_eq!(usual.of("a"), None);
        usual.took("a", Duration::from_secs(10));
        assert_eq!(usual.of("a"), Some(Duration::from_secs(10)));
        (0..10).for_each(|_| usual.took("a", Duration::from_secs(2)));
        assert!(usual.of("a").is_some_and(|usual| usual < Duration::from_millis(2200)), "{usual:?}");
        for number in 0..3 * IMAGES_MAX {
            usual.took(&number.to_string(), Duration::from_secs(1));
        }
        assert!(usual.0.lock().len() <= IMAGES_MAX);
    }
}
