//! The waiting room: how many requests may wait at once before an attempt, because a policy or a vendor said so. Each holds its body, its
//! client's connection and its place among the requests in progress, and an outage makes all of them wait at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The seats of a gateway. It outlives reloads.
#[derive(Debug)]
pub struct WaitingRoom {
    seats: AtomicUsize,
    taken: AtomicUsize,
}

/// The right to wait. It is free again when it is dropped.
#[derive(Debug)]
#[must_use = "a seat that is dropped is free again"]
pub struct Seat {
    room: Arc<WaitingRoom>,
}

/// How much longer than stated a wait may become: a fifth. Requests that were refused together must not come back together; design, the
/// backoff's ±20 %, of which only the plus is possible where a vendor stated the wait.
const LONGER: u32 = 5;

impl WaitingRoom {
    /// Seats where nobody says otherwise: a quarter of the requests that may be in progress, so that those that wait never keep out those
    /// that need not.
    pub const SEATS: usize = 1024;

    /// An empty room.
    pub fn new(seats: usize) -> Self {
        Self {
            seats: AtomicUsize::new(seats),
            taken: AtomicUsize::new(0),
        }
    }

    /// Changes the number of seats; whoever has one keeps it.
    pub fn set_seats(&self, seats: usize) {
        self.seats.store(seats, Ordering::Relaxed);
    }

    /// Takes a seat; `None`: all are taken.
    pub fn enter(self: &Arc<Self>) -> Option<Seat> {
        let seats = self.seats.load(Ordering::Relaxed);
        let one_more = |taken: usize| (taken < seats).then_some(taken + 1);
        let entered = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.is_ok().then(|| Seat { room: self.clone() })
    }

    /// How many wait.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Default for WaitingRoom {
    fn default() -> Self {
        Self::new(Self::SEATS)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The wait, made 0 to 20 % longer by the seed, and never shorter. The same seed makes the same of it.
pub fn jittered(wait: Duration, seed: u32) -> Duration {
    let share = f64::from(seed) / f64::from(u32::MAX);
    wait.saturating_add((wait / LONGER).mul_f64(share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn has_so_many_seats_and_gets_them_back() {
        let room = Arc::new(WaitingRoom::new(2));
        let (first, second) = (room.enter(), room.enter());
        assert!(first.is_some() && second.is_some());
        assert!(room.enter().is_none());
        drop(first);
        assert!(room.enter().is_some());
        drop(second);
        assert_eq!(room.taken(), 0);
    }

    #[test]
    fn a_smaller_room_throws_nobody_out() {
        let room = Arc::new(WaitingRoom::new(2));
        let seats = [room.enter(), room.enter()];
        room.set_seats(1);
        assert_eq!(room.taken(), 2);
        assert!(room.enter().is_none());
        drop(seats);
        let last = room.enter();
        assert!(last.is_some() && room.enter().is_none());
    }

    #[test]
    fn many_threads_get_no_more_seats_than_there_are() {
        let room = Arc::new(WaitingRoom::new(3));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let seat = room.enter();
                        assert!(room.taken() <= 3);
                        drop(seat);
                    }
                });
            }
        });
        assert_eq!(room.taken(), 0);
    }

    #[test]
    fn the_dice_go_from_nothing_to_a_fifth() {
        let wait = Duration::from_secs(10);
        assert_eq!(jittered(wait, 0), wait);
        assert_eq!(jittered(wait, u32::MAX), Duration::from_secs(12));
        assert_eq!(jittered(Duration::MAX, u32::MAX), Duration::MAX);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_stated(seconds: u64, nanos in 0u32..1_000_000_000, seed: u32) {
            let wait = Duration::new(seconds, nanos);
            let longest = wait.saturating_add(wait / 5).saturating_add(Duration::from_nanos(1 + wait.as_secs() / 1_000_000));
            prop_assert!((wait..=longest).contains(&jittered(wait, seed)));
        }

        #[test]
        fn larger_dice_wait_longer(seconds in 0u64..86_400, a: u32, b: u32) {
            let wait = Duration::from_secs(seconds);
            prop_assert!(jittered(wait, a.min(b)) <= jittered(wait, a.max(b)));
        }
    }
}
