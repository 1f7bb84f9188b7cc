//! The retry budget of one target: how much of its load may be retries. A target that fails gets more attempts because it fails, and
//! attempts are what it cannot bear; a ceiling on their share ends that circle (Google, *Site Reliability Engineering*, chapter 22;
//! Finagle's `RetryBudget`; Linkerd). It reads no clock; which attempt is a retry is the caller's to say.
//!
//! What to bear in mind there: a fallback adds nothing to the load of the target that failed. If a request that comes to its second target
//! for the first time were that one's retry, a quiet target could not take over from a busy one that is down.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far back requests and retries count: as in Finagle and Linkerd, 10 s.
pub const WINDOW: Duration = Duration::from_secs(10);

/// A tenth of the window: what is counted is forgotten in such steps.
const SLICE: Duration = Duration::from_secs(1);

/// Slices of the window.
const IN_WINDOW: u64 = 10;

/// Slices kept: the window's and one more. Requests count in whole slices that lie inside the last 10 s, retries in all slices that
/// touch them. So what is rounded is rounded against the retry, and the ceiling holds exactly.
const KEPT: usize = IN_WINDOW as usize + 1;

/// How much may be retried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Retries for each request in the window, 0 and more; default: 0.2, as in Finagle and Linkerd.
    pub share: f32,
    /// Retries in the window that need no requests, so that the first failure of a quiet target is not the client's. Default: 3, once
    /// all the attempts that a request has; Finagle's 10 a second is meant for services that see far more requests than a target does.
    pub floor: u32,
}

/// The retry budget of one target. It outlives reloads.
#[derive(Debug)]
pub struct RetryBudget {
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    rules: Rules,
    origin: Instant,
    /// The newest slice that was written to.
    newest: u64,
    slices: [Slice; KEPT],
}

/// Requests and retries of one slice.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Which slice since the origin this counts.
    number: u64,
    requests: u32,
    retries: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { share: 0.2, floor: 3 }
    }
}

impl RetryBudget {
    /// A budget of which nothing is used.
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            ledger: Mutex::new(Ledger::new(rules, now)),
        }
    }

    /// Changes the rules; what is counted stays.
    pub fn set_rules(&self, rules: Rules) {
        self.ledger().rules = rules;
    }

    /// Counts a request of the target.
    pub fn note_request(&self, now: Instant) {
        self.ledger().slice(now).requests += 1;
    }

    /// Takes one retry out of the budget; `false`: there is none left. When it is `true`, the retries of the last 10 s, with this one,
    /// are at most `floor + share × requests` of the same 10 s.
    pub fn take_retry(&self, now: Instant) -> bool {
        let mut ledger = self.ledger();
        let newest = ledger.slice(now).number;
        let is_left = ledger.retries(newest) < ledger.allowed(newest);
        if is_left {
            ledger.slice(now).retries += 1;
        }
        is_left
    }

    /// Gives a request or a retry back that was never sent.
    pub fn give_back(&self, was_retry: bool, now: Instant) {
        let mut ledger = self.ledger();
        let slice = ledger.slice(now);
        let count = if was_retry {
            &mut slice.retries
        } else {
            &mut slice.requests
        };
        *count = count.saturating_sub(1);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Counters: a panic elsewhere cannot leave them wrong.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn new(rules: Rules, now: Instant) -> Self {
        Self {
            rules,
            origin: now,
            newest: 0,
            slices: Default::default(),
        }
    }

    /// The slice of this moment. Threads read their clocks before they get here: one that is late counts as the newest.
    fn slice(&mut self, now: Instant) -> &mut Slice {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos() / SLICE.as_nanos();
        self.newest = self.newest.max(elapsed as u64);
        let slice = &mut self.slices[(self.newest % KEPT as u64) as usize];
        if slice.number != self.newest {
            *slice = Slice {
                number: self.newest,
                ..Slice::default()
            };
        }
        slice
    }

    fn allowed(&self, newest: u64) -> u64 {
        let inside = |slice: &&Slice| slice.number + IN_WINDOW > newest;
        let requests: u64 = self
            .slices
            .iter()
            .filter(inside)
            .map(|slice| u64::from(slice.requests))
            .sum();
        let shared = requests as f64 * f64::from(self.rules.share.max(0.0));
        u64::from(self.rules.floor).saturating_add(shared as u64)
    }

    fn retries(&self, newest: u64) -> u64 {
        let touching = |slice: &&Slice| slice.number + IN_WINDOW >= newest;
        self.slices
            .iter()
            .filter(touching)
            .map(|slice| u64::from(slice.retries))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(share: f32, floor: u32) -> (RetryBudget, Instant) {
        let now = Instant::now();
        (RetryBudget::new(Rules { share, floor }, now), now)
    }

    fn taken(budget: &RetryBudget, now: Instant) -> usize {
        (0..1000).take_while(|_| budget.take_retry(now)).count()
    }

    #[test]
    fn a_quiet_target_may_be_retried_a_few_times() {
        let (budget, now) = budget(0.2, 3);
        assert_eq!(taken(&budget, now), 3);
        assert_eq!(taken(&budget, now + Duration::from_secs(5)), 0);
        assert_eq!(taken(&budget, now + Duration::from_secs(11)), 3, "the window went by");
    }

    #[test]
    fn a_busy_target_is_retried_for_a_fifth_of_its_requests() {
        let (budget, now) = budget(0.2, 3);
        for _ in 0..100 {
            budget.note_request(now);
        }
        assert_eq!(taken(&budget, now + Duration::from_secs(1)), 23);
        budget.note_request(now + Duration::from_secs(1));
        assert_eq!(
            taken(&budget, now + Duration::from_secs(1)),
            0,
            "one request is a fifth of a retry"
        );
    }

    #[test]
    fn nothing_may_be_retried_where_the_rules_say_so() {
        let (budget, now) = budget(0.0, 0);
        budget.note_request(now);
        assert!(!budget.take_retry(now));
    }

    #[test]
    fn rules_change_and_counts_stay() {
        let (budget, now) = budget(0.2, 3);
        assert_eq!(taken(&budget, now), 3);
        budget.set_rules(Rules { share: 0.2, floor: 5 });
        assert_eq!(taken(&budget, now), 2);
    }

    #[test]
    fn a_late_clock_forgets_nothing() {
        let (budget, now) = budget(0.0, 3);
        let later = now + Duration::from_secs(30);
        assert_eq!(taken(&budget, later), 3);
        assert_eq!(taken(&budget, now), 0);
        assert_eq!(taken(&budget, later), 0);
    }

    #[test]
    fn many_threads_take_no_more_than_there_is() {
        let (budget, now) = budget(0.5, 10);
        for _ in 0..100 {
            budget.note_request(now);
        }
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&budget, now))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(all, 60);
    }

    proptest! {
        /// At each retry that is granted, and so at every moment: retries of the last 10 s <= floor + share × requests of the last 10 s.
        #[test]
        fn retries_stay_within_the_budget_of_the_last_ten_seconds(
            share in 0.0f32..1.5,
            floor in 0u32..5,
            steps in prop::collection::vec((0u64..3_000, 0u32..12, 0u32..6), 1..80),
        ) {
            let (budget, mut now) = budget(share, floor);
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            for (milliseconds, asked, again) in steps {
                now += Duration::from_millis(milliseconds);
                for _ in 0..asked {
                    budget.note_request(now);
                    requests.push(now);
                }
                for _ in 0..again {
                    if !budget.take_retry(now) {
                        continue;
                    }
                    retries.push(now);
                    let recent = |all: &[Instant]| all.iter().filter(|then| now - **then < WINDOW).count() as f64;
                    let allowed = f64::from(floor) + f64::from(share) * recent(&requests);
                    prop_assert!(recent(&retries) <= allowed, "{} of {allowed}", recent(&retries));
                }
            }
        }

        /// What rounding takes away is at most a slice's worth: what the last 9 s allow beyond the retries of the last 11 s is granted.
        #[test]
        fn a_retry_is_refused_only_when_the_budget_is_used(
            steps in prop::collection::vec((0u64..3_000, 0u32..12, 0u32..6), 1..80),
        ) {
            let rules = Rules::default();
            let (budget, mut now) = budget(rules.share, rules.floor);
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            for (milliseconds, asked, again) in steps {
                now += Duration::from_millis(milliseconds);
                for _ in 0..asked {
                    budget.note_request(now);
                    requests.push(now);
                }
                for _ in 0..again {
                    let within = |all: &[Instant], span| all.iter().filter(|then| now - **then <= span).count() as f64;
                    let shared = (f64::from(rules.share) * within(&requests, WINDOW - SLICE)).floor();
                    let allowed = f64::from(rules.floor) + shared;
                    let used = within(&retries, WINDOW + SLICE);
                    let granted = budget.take_retry(now);
                    prop_assert!(granted || used + 1.0 > allowed, "{used} of {allowed}");
                    retries.extend(granted.then_some(now));
                }
            }
        }
    }
}
