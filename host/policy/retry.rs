//! When something that failed is tried again: after a pause that grows each time.

use std::time::{Duration, Instant};

/// When the next try is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Retry {
    pub(super) at: Instant,
    pause: Duration,
}

impl Retry {
    /// A first try after `pause`.
    pub(super) fn after(pause: Duration) -> Self {
        Self {
            at: Instant::now() + pause,
            pause,
        }
    }

    /// The try after `before` failed: after twice its pause, and at most after `longest`; after `first` if there was none before.
    pub(super) fn next(before: Option<Self>, first: Duration, longest: Duration) -> Self {
        Self::after(before.map_or(first, |before| (before.pause * 2).clamp(first, longest.max(first))))
    }

    /// The same pause once more.
    pub(super) fn put_off(&mut self) {
        *self = Self::after(self.pause);
    }

    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    pub(super) fn is_due(&self) -> bool {
        self.at <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (first, longest) = (Duration::from_secs(2), Duration::from_secs(10));
        let mut retry = None;
        let pauses = [0; 5].map(|_| {
            let next = Retry::next(retry, first, longest);
            retry = Some(next);
            next.pause().as_secs()
        });
        assert_eq!(pauses, [2, 4, 8, 10, 10]);
        assert!(!retry.unwrap().is_due());
        // What took longer than that waits longer.
        let slow = Retry::next(retry, Duration::from_secs(600), longest);
        assert_eq!(slow.pause().as_secs(), 600);
    }
}
