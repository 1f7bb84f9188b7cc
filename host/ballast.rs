//! Ballast: the bodies of all requests in progress, which must fit into memory together. Each may be large, and all are held for as long
//! as another target may still have to be sent them, which in an outage is long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// How much there is room for. One for the whole gateway.
#[derive(Debug)]
pub struct Hold {
    most: usize,
    loaded: AtomicUsize,
}

/// Room that was taken, until it is dropped.
#[derive(Debug)]
pub struct Load {
    hold: Arc<Hold>,
    bytes: usize,
}

/// Bytes of a body that need no room of their own: as many as the requests in progress are bounded anyway, they fit in.
pub const LIGHT: usize = 16 << 10;

impl Hold {
    /// Room for so many bytes.
    pub fn new(most: usize) -> Self {
        let loaded = AtomicUsize::new(0);
        Self { most, loaded }
    }

    /// Bytes that are held.
    pub fn loaded(&self) -> usize {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Nothing yet, to be added to.
    pub fn empty(self: &Arc<Self>) -> Load {
        Load {
            hold: self.clone(),
            bytes: 0,
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let more = |loaded: usize| loaded.checked_add(bytes).filter(|loaded| *loaded <= self.most);
        self.loaded
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

impl Load {
    /// Takes room for a body of so many bytes, of which there may be some already; `false` where there is no more.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if bytes <= LIGHT || more == 0 {
            return true;
        }
        let taken = self.hold.take(more);
        self.bytes += if taken { more } else { 0 };
        taken
    }

    /// A body that gives its room back when the last of it is dropped, wherever that is.
    pub fn of(self, body: Bytes) -> Bytes {
        struct Heavy {
            body: Bytes,
            _load: Load,
        }
        impl AsRef<[u8]> for Heavy {
            fn as_ref(&self) -> &[u8] {
                &self.body
            }
        }
        if self.bytes == 0 {
            return body;
        }
        Bytes::from_owner(Heavy { body, _load: self })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.hold.loaded.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Arc<Hold> {
        Arc::new(Hold::new(100 << 10))
    }

    #[test]
    fn what_does_not_fit_has_no_room_until_something_goes() {
        let hold = hold();
        let mut first = hold.empty();
        assert!(first.grow_to(60 << 10));
        let mut second = hold.empty();
        assert!(!second.grow_to(60 << 10));
        drop(first);
        assert!(second.grow_to(60 << 10));
        drop(second);
        assert_eq!(hold.loaded(), 0);
    }

    #[test]
    fn a_body_that_grows_takes_what_it_grows_by() {
        let hold = hold();
        let mut load = hold.empty();
        assert!(load.grow_to(10 << 10));
        assert_eq!(hold.loaded(), 0, "light");
        assert!(load.grow_to(20 << 10) && load.grow_to(40 << 10));
        assert_eq!(hold.loaded(), 40 << 10);
        assert!(!load.grow_to(101 << 10));
        assert_eq!(hold.loaded(), 40 << 10);
    }

    #[test]
    fn room_is_given_back_with_the_last_of_a_body() {
        let hold = hold();
        let mut load = hold.empty();
        assert!(load.grow_to(20 << 10));
        let body = load.of(Bytes::from(vec![7; 20 << 10]));
        let part = body.slice(5..9);
        drop(body);
        assert_eq!((hold.loaded(), &part[..]), (20 << 10, &[7; 4][..]));
        drop(part);
        assert_eq!(hold.loaded(), 0);
    }

    #[test]
    fn no_sum_is_too_large() {
        let hold = hold();
        let mut load = hold.empty();
        assert!(load.grow_to(50 << 10));
        assert!(!hold.empty().grow_to(usize::MAX));
    }
}
