//! What became of a version's decisions, counted without a lock.

use std::array;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::log::Log;
use super::version::PolicyError;
use crate::metrics::Times;

/// Decisions that are looked back on to tell whether a version keeps failing by what its code does: traps and invalid decisions.
const RECENT_FAULTS: u32 = 10;

/// Faults among them from which on it keeps failing: half of them, which no single odd request explains.
const TOO_MANY_FAULTS: u32 = 5;

/// The same for decisions that run out of time. They weigh less and it takes more of them: a machine that is busy makes a healthy
/// version miss its deadline for a moment.
const RECENT_TIMEOUTS: u32 = 32;
const TOO_MANY_TIMEOUTS: u32 = 16;

/// Buckets for each doubling of time: a percentile is at most a sixteenth off.
const PER_OCTAVE: u32 = 8;

/// The first octave starts at 2⁸ ns, a quarter of a microsecond; the last ends at 2³² ns, more than four seconds.
const FIRST_OCTAVE: u32 = 8;
const OCTAVES: u32 = 24;

/// What a version keeps failing by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Traps and invalid decisions: what its code does.
    Faults,
    /// Missed deadlines: its code, or a machine that is busy.
    Timeouts,
}

/// Octaves that the metrics show, from the one that ends at 2¹² ns, 4 microseconds, to the one that ends at 2³⁰ ns, a second.
const FIRST_SHOWN: usize = 3;
const SHOWN: usize = 19;

/// A decision that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastError {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What went wrong.
    pub error: String,
}

/// Counters of one version.
pub(super) struct Statistics {
    times: [AtomicU64; (OCTAVES * PER_OCTAVE) as usize],
    /// Of all decisions that were asked, nanoseconds.
    total_ns: AtomicU64,
    pub(super) traps: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) nonsense: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) dropped_log_lines: AtomicU64,
    /// One bit for each of the last decisions, the newest lowest: set when it was a fault.
    faults: AtomicU32,
    /// The same, set when it ran out of time.
    late: AtomicU32,
    /// Written when a decision fails, never on the way of one that does not.
    last_error: Mutex<Option<LastError>>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            times: array::from_fn(|_| AtomicU64::new(0)),
            total_ns: AtomicU64::new(0),
            traps: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            nonsense: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            dropped_log_lines: AtomicU64::new(0),
            faults: AtomicU32::new(0),
            late: AtomicU32::new(0),
            last_error: Mutex::new(None),
        }
    }
}

impl Statistics {
    /// Counts one decision. Returns what the version keeps failing by, if it does.
    pub(super) fn count(&self, took: Duration, error: Option<&PolicyError>) -> Option<Trouble> {
        let Some(error) = error else {
            self.time(took);
            return self.remember(None);
        };
        let counter = match error {
            PolicyError::Busy { .. } | PolicyError::NoMemory => &self.busy,
            PolicyError::Timeout { .. } => &self.timeouts,
            PolicyError::Trap(_) => &self.traps,
            PolicyError::Nonsense(_) => &self.nonsense,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let last = LastError {
            at_ms: unix_ms(),
            error: error.to_string(),
        };
        *self.last_error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(last);
        let trouble = match error {
            // That others were using all instances, or all memory, is not this version's failure.
            PolicyError::Busy { .. } | PolicyError::NoMemory => return None,
            PolicyError::Timeout { .. } => Trouble::Timeouts,
            PolicyError::Trap(_) | PolicyError::Nonsense(_) => Trouble::Faults,
        };
        self.time(took);
        self.remember(Some(trouble))
    }

    /// A version that comes back after it was set aside has less credit: a few failures at its beginning are enough.
    pub(super) fn start_on_probation(&self) {
        let ones = |count: u32| (1 << count) - 1;
        self.faults.store(ones(TOO_MANY_FAULTS - 1), Ordering::Relaxed);
        self.late.store(ones(TOO_MANY_TIMEOUTS - 4), Ordering::Relaxed);
    }

    /// Counts what a decision logged in vain.
    pub(super) fn log(&self, log: &Log) {
        if log.dropped() > 0 {
            self.dropped_log_lines.fetch_add(log.dropped(), Ordering::Relaxed);
        }
    }

    fn time(&self, took: Duration) {
        self.times[bucket(took)].fetch_add(1, Ordering::Relaxed);
        let ns = took.as_nanos().min(u64::MAX.into()) as u64;
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// The times of all decisions that were asked, a bucket for each doubling.
    pub(super) fn histogram(&self) -> Times {
        let counts: Vec<u64> = self.times.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let octaves = counts.chunks(PER_OCTAVE as usize).map(|octave| octave.iter().sum());
        let ends = (1..).map(|octave| 2_f64.powi((FIRST_OCTAVE + octave) as i32) / 1e9);
        let octaves: Vec<(f64, u64)> = ends.zip(octaves).collect();
        // What is faster or slower than all policies that anybody writes shares a bucket.
        let (fast, rest) = octaves.split_at(FIRST_SHOWN);
        let (shown, slow) = rest.split_at(SHOWN);
        let sum = |octaves: &[(f64, u64)]| octaves.iter().map(|(_, count)| count).sum::<u64>();
        let mut buckets = shown.to_vec();
        buckets[0].1 += sum(fast);
        buckets.push((f64::INFINITY, sum(slow)));
        Times {
            sum: self.total_ns.load(Ordering::Relaxed) as f64 / 1e9,
            count: counts.iter().sum(),
            buckets,
        }
    }

    fn remember(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        let faults = push(&self.faults, RECENT_FAULTS, trouble == Some(Trouble::Faults));
        let late = push(&self.late, RECENT_TIMEOUTS, trouble == Some(Trouble::Timeouts));
        match trouble? {
            Trouble::Faults => (faults >= TOO_MANY_FAULTS).then_some(Trouble::Faults),
            Trouble::Timeouts => (late >= TOO_MANY_TIMEOUTS).then_some(Trouble::Timeouts),
        }
    }

    /// Decisions that were asked, and the times below which half and 99 % of them stayed, in microseconds.
    pub(super) fn times(&self) -> (u64, f64, f64) {
        let counts: Vec<u64> = self.times.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all = counts.iter().sum();
        (all, percentile(&counts, all, 0.50), percentile(&counts, all, 0.99))
    }

    pub(super) fn last_error(&self) -> Option<LastError> {
        self.last_error
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

/// Adds a decision to the last `count` of them. Returns how many of them failed.
fn push(recent: &AtomicU32, count: u32, failed: bool) -> u32 {
    // A healthy version has nothing to write here, so that decisions on many cores do not fight over this word.
    if recent.load(Ordering::Relaxed) == 0 && !failed {
        return 0;
    }
    let mask = u32::MAX >> (32 - count);
    let next = |recent: u32| (recent << 1 | u32::from(failed)) & mask;
    let before = recent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |recent| Some(next(recent)));
    next(before.unwrap_or_default()).count_ones()
}

/// Milliseconds since the Unix epoch.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn bucket(took: Duration) -> usize {
    let ns = (took.as_nanos().min(u64::MAX.into()) as u64).max(1 << FIRST_OCTAVE);
    let octave = ns.ilog2();
    let eighth = (ns >> (octave - PER_OCTAVE.ilog2())) as u32 - PER_OCTAVE;
    ((octave - FIRST_OCTAVE) * PER_OCTAVE + eighth).min(OCTAVES * PER_OCTAVE - 1) as usize
}

/// The middle of a bucket, in nanoseconds.
fn middle(bucket: usize) -> f64 {
    let octave = FIRST_OCTAVE + bucket as u32 / PER_OCTAVE;
    let eighth = bucket as u32 % PER_OCTAVE;
    f64::from(octave).exp2() * (1.0 + (f64::from(eighth) + 0.5) / f64::from(PER_OCTAVE))
}

fn percentile(counts: &[u64], all: u64, share: f64) -> f64 {
    let rank = ((all as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    for (bucket, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= rank {
            return (middle(bucket) / 100.0).round() / 10.0;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_at_most_a_sixteenth_off() {
        for ns in [300_u64, 1_000, 7_800, 38_000, 5_000_000, 1_000_000_000] {
            let read = middle(bucket(Duration::from_nanos(ns)));
            assert!(
                (read / ns as f64 - 1.0).abs() <= 1.0 / 16.0,
                "{ns} ns was read as {read}"
            );
        }
        let statistics = Statistics::default();
        (0..98).for_each(|_| _ = statistics.count(Duration::from_micros(8), None));
        (0..2).for_each(|_| _ = statistics.count(Duration::from_micros(900), None));
        let (all, p50, p99) = statistics.times();
        assert_eq!(all, 100);
        assert!(
            (7.5..8.5).contains(&p50) && (850.0..960.0).contains(&p99),
            "{p50} and {p99}"
        );
    }

    #[test]
    fn the_histogram_has_every_decision_and_their_sum() {
        let statistics = Statistics::default();
        for took in [
            Duration::ZERO,
            Duration::from_micros(8),
            Duration::from_millis(5),
            Duration::MAX / 4,
        ] {
            statistics.time(took);
        }
        let times = statistics.histogram();
        assert_eq!((times.count, times.buckets.len()), (4, SHOWN + 1));
        let count = |bound: f64| times.buckets.iter().find(|(upper, _)| *upper == bound).unwrap().1;
        assert_eq!((times.buckets[0].0, count(4.096e-6), count(8.192e-6)), (4.096e-6, 1, 1));
        assert_eq!((count(8.388608e-3), count(f64::INFINITY)), (1, 1));
        assert!(times.sum > 5e-3);
    }

    #[test]
    fn every_time_has_a_bucket() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), (OCTAVES * PER_OCTAVE - 1) as usize);
    }

    fn trap() -> PolicyError {
        PolicyError::Trap("unreachable".into())
    }

    fn timeout() -> PolicyError {
        PolicyError::Timeout {
            deadline: Duration::from_millis(5),
        }
    }

    /// What a version keeps failing by after decisions of which each second one fails with `error`; and after how many.
    fn every_second(error: &PolicyError) -> (Option<Trouble>, usize) {
        let statistics = Statistics::default();
        let mut decisions = (1..).map(|n: usize| {
            let failed = (n % 2 == 1).then_some(error);
            (statistics.count(Duration::from_micros(8), failed), n)
        });
        decisions.find(|(trouble, _)| trouble.is_some()).unwrap()
    }

    #[test]
    fn half_of_the_last_ten_is_too_many() {
        assert_eq!(every_second(&trap()), (Some(Trouble::Faults), 9));
    }

    /// A busy machine that makes a few decisions late takes no version out.
    #[test]
    fn missed_deadlines_weigh_less_than_traps() {
        assert_eq!(every_second(&timeout()), (Some(Trouble::Timeouts), 31));
        let statistics = Statistics::default();
        let late = (0..15).filter_map(|_| statistics.count(Duration::from_millis(5), Some(&timeout())));
        assert_eq!(late.count(), 0);
        let traps = (0..4).filter_map(|_| statistics.count(Duration::from_millis(1), Some(&trap())));
        assert_eq!(traps.count(), 0, "each kind is counted by itself");
    }

    #[test]
    fn a_version_on_probation_has_less_credit() {
        let statistics = Statistics::default();
        statistics.start_on_probation();
        assert_eq!(
            statistics.count(Duration::from_millis(1), Some(&trap())),
            Some(Trouble::Faults)
        );
        let statistics = Statistics::default();
        statistics.start_on_probation();
        (0..32).for_each(|_| _ = statistics.count(Duration::from_micros(8), None));
        assert_eq!(
            statistics.count(Duration::from_millis(1), Some(&trap())),
            None,
            "it earns it back"
        );
    }

    #[test]
    fn a_busy_moment_is_no_failure() {
        let statistics = Statistics::default();
        let busy = PolicyError::Busy { limit: 1 };
        assert!((0..100).all(|_| statistics.count(Duration::ZERO, Some(&busy)).is_none()));
        assert_eq!(statistics.times().0, 0);
    }
}
