//! How many requests ended in the last minute and hour, and how many of them failed. Counting one is a single change of an atomic.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// A ring of cells, each of which counts a few seconds.
#[derive(Debug)]
pub struct Recent {
    began: Instant,
    cells: [AtomicU64; CELLS],
}

/// What ended within some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Requests that have ended.
    pub requests: u64,
    /// Those of them that the gateway answered with a status of 500 or more, or whose answer broke off.
    pub failed: u64,
}

/// Seconds that a cell counts.
const CELL: u64 = 5;
/// An hour, and the cell that is being filled.
const CELLS: usize = 721;

/// A cell is one number: which seconds it counts, requests, failures. So it is never seen half changed.
const COUNT_BITS: u32 = 20;
const MOST: u64 = (1 << COUNT_BITS) - 1;

impl Default for Recent {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            cells: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Recent {
    /// A request has ended.
    pub fn count(&self, failed: bool) {
        let number = self.number(Instant::now());
        let cell = &self.cells[number as usize % CELLS];
        let add = |packed: u64| Some(pack(number, added(unpack(packed, number), failed)));
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// What has ended within this time before now, to a few seconds.
    pub fn within(&self, time: Duration) -> Traffic {
        let now = self.number(Instant::now());
        let cells = (time.as_secs() / CELL).min(CELLS as u64 - 1);
        let oldest = now.saturating_sub(cells);
        (oldest..=now).fold(Traffic::default(), |sum, number| {
            let packed = self.cells[number as usize % CELLS].load(Ordering::Relaxed);
            let counted = unpack(packed, number);
            Traffic {
                requests: sum.requests + counted.requests,
                failed: sum.failed + counted.failed,
            }
        })
    }

    /// The number of the cell at this moment; that of the first is 1, so that empty cells count no time at all.
    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / CELL + 1
    }
}

fn pack(number: u64, counted: Traffic) -> u64 {
    number << (2 * COUNT_BITS) | counted.requests << COUNT_BITS | counted.failed
}

/// What a cell counted of the seconds of this number; nothing where it still has those of an hour ago.
fn unpack(packed: u64, number: u64) -> Traffic {
    let mask = u64::MAX >> (2 * COUNT_BITS);
    if packed >> (2 * COUNT_BITS) != number & mask {
        return Traffic::default();
    }
    Traffic {
        requests: packed >> COUNT_BITS & MOST,
        failed: packed & MOST,
    }
}

fn added(counted: Traffic, failed: bool) -> Traffic {
    Traffic {
        requests: (counted.requests + 1).min(MOST),
        failed: (counted.failed + u64::from(failed)).min(MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn counts(traffic: Traffic) -> (u64, u64) {
        (traffic.requests, traffic.failed)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_ago_counts_no_more() {
        let recent = Recent::default();
        assert_eq!(counts(recent.within(HOUR)), (0, 0));
        recent.count(false);
        recent.count(true);
        assert_eq!(counts(recent.within(MINUTE)), (2, 1));
        tokio::time::advance(2 * MINUTE).await;
        recent.count(true);
        assert_eq!(counts(recent.within(MINUTE)), (1, 1));
        assert_eq!(counts(recent.within(HOUR)), (3, 2));
        tokio::time::advance(HOUR - MINUTE).await;
        assert_eq!(counts(recent.within(HOUR)), (1, 1));
        tokio::time::advance(10 * HOUR).await;
        assert_eq!(counts(recent.within(HOUR)), (0, 0));
        recent.count(false);
        assert_eq!(counts(recent.within(HOUR)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn every_second_of_an_hour_is_counted_once() {
        let recent = Recent::default();
        for second in 0..4000 {
            recent.count(second % 4 == 0);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let (requests, failed) = counts(recent.within(HOUR));
        assert!((3595..=3605).contains(&requests), "{requests}");
        assert!((895..=905).contains(&failed), "{failed}");
        let (requests, _) = counts(recent.within(MINUTE));
        assert!((58..=65).contains(&requests), "{requests}");
    }

    #[test]
    fn threads_lose_nothing() {
        let recent = Recent::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|number| recent.count(number % 2 == 0)));
            }
        });
        assert_eq!(counts(recent.within(HOUR)), (4000, 2000));
    }
}
