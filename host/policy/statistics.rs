//! What became of a version's decisions, counted without a lock.

use std::array;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::log::Log;
use super::version::PolicyError;

/// Decisions that are looked back on to tell whether a version keeps failing.
const RECENT: u32 = 10;

/// Failures among [`RECENT`] decisions from which on a version keeps failing: half of them, which no single odd request explains.
const TOO_MANY: u32 = 5;

/// Buckets for each doubling of time: a percentile is at most a sixteenth off.
const PER_OCTAVE: u32 = 8;

/// The first octave starts at 2⁸ ns, a quarter of a microsecond; the last ends at 2³² ns, more than four seconds.
const FIRST_OCTAVE: u32 = 8;
const OCTAVES: u32 = 24;

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
    pub(super) traps: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) nonsense: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) dropped_log_lines: AtomicU64,
    /// One bit for each of the last decisions, the newest lowest: set when it failed.
    recent: AtomicU32,
    /// Written when a decision fails, never on the way of one that does not.
    last_error: Mutex<Option<LastError>>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            times: array::from_fn(|_| AtomicU64::new(0)),
            traps: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            nonsense: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            dropped_log_lines: AtomicU64::new(0),
            recent: AtomicU32::new(0),
            last_error: Mutex::new(None),
        }
    }
}

impl Statistics {
    /// Counts one decision. Returns true when the version keeps failing.
    pub(super) fn count(&self, took: Duration, error: Option<&PolicyError>) -> bool {
        let Some(error) = error else {
            self.times[bucket(took)].fetch_add(1, Ordering::Relaxed);
            self.remember(false);
            return false;
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
        // That others were using all instances, or all memory, is not this version's failure.
        if matches!(error, PolicyError::Busy { .. } | PolicyError::NoMemory) {
            return false;
        }
        self.times[bucket(took)].fetch_add(1, Ordering::Relaxed);
        self.remember(true)
    }

    /// Counts what a decision logged in vain.
    pub(super) fn log(&self, log: &Log) {
        if log.dropped() > 0 {
            self.dropped_log_lines.fetch_add(log.dropped(), Ordering::Relaxed);
        }
    }

    fn remember(&self, failed: bool) -> bool {
        let push = |recent: u32| (recent << 1 | u32::from(failed)) & ((1 << RECENT) - 1);
        let before = self.recent.load(Ordering::Relaxed);
        // A healthy version has nothing to write here, so that decisions on many cores do not fight over this word.
        if before == 0 && !failed {
            return false;
        }
        let recent = self
            .recent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |recent| Some(push(recent)));
        push(recent.unwrap_or_default()).count_ones() >= TOO_MANY
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
    fn every_time_has_a_bucket() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), (OCTAVES * PER_OCTAVE - 1) as usize);
    }

    #[test]
    fn half_of_the_last_ten_is_too_many() {
        let trap = PolicyError::Trap("unreachable".into());
        let statistics = Statistics::default();
        let verdicts: Vec<bool> = (0..9)
            .map(|n| statistics.count(Duration::from_micros(8), (n % 2 == 0).then_some(&trap)))
            .collect();
        assert_eq!(verdicts, [false, false, false, false, false, false, false, false, true]);
    }

    #[test]
    fn a_busy_moment_is_no_failure() {
        let statistics = Statistics::default();
        assert!((0..100).all(|_| !statistics.count(Duration::ZERO, Some(&PolicyError::Busy { limit: 1 }))));
        assert_eq!(statistics.times().0, 0);
    }
}
