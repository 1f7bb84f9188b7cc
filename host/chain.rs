//! The built-in chain: what is tried next where no policy says otherwise. Pure.

use std::time::Duration;

use crate::config::RouteTimeouts;
use crate::failure::{Fallback, Kind};
use crate::health::Reading;

/// One attempt to make. What is left out is the target's own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pick {
    /// Index of the target in its route.
    pub target: usize,
    /// Ask for this model instead of the target's own.
    pub model: Option<String>,
    /// Deadlines that can only shorten the target's.
    pub deadlines: RouteTimeouts,
    /// Start the next pick beside this one if no content has come by then.
    pub hedge_after: Option<Duration>,
    /// Wait before the attempt. On a target that failed in this request already, this says that it is meant.
    pub wait: Option<Duration>,
    /// JSON Merge Patch over the body.
    pub patch: Option<String>,
}

impl Pick {
    /// Of its deadlines those that a well target keeps, so that one which does not has failed. Any other says nothing about the target,
    /// which other routes share, whatever their policies think of it: a deadline for content below twice the time within which nearly all
    /// of the target's answers begin (`usual`; below a second where that is not known), one for a connection or between two frames below
    /// a second, and any for the whole answer, whose length is the request's doing.
    pub fn fair_deadlines(&self, usual: impl FnOnce() -> Option<Duration>) -> RouteTimeouts {
        const UNKNOWN: Duration = Duration::from_secs(1);
        if self.deadlines == RouteTimeouts::default() {
            return self.deadlines;
        }
        let content = usual().map_or(UNKNOWN, |usual| usual * 2);
        RouteTimeouts {
            connect: self.deadlines.connect.map(|connect| connect.max(UNKNOWN)),
            first_content: self.deadlines.first_content.map(|first| first.max(content)),
            whole_content: self.deadlines.whole_content.map(|first| first.max(content)),
            between_frames: self.deadlines.between_frames.map(|between| between.max(UNKNOWN)),
            whole: None,
            request: None,
        }
    }
}

/// An attempt of this request that failed, as far as the next choice depends on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// Index of the target in its route.
    pub target: usize,
    /// Why it failed.
    pub kind: Kind,
    /// The wait that the vendor stated.
    pub retry_after: Option<Duration>,
}

/// The order in which the built-in chain tries the `candidates`: as given, those that may be tried now; when there is none left, one
/// that stated a short wait, once more.
pub fn order(candidates: &[usize], tried: &[Tried], readings: &[Reading], longest_wait: Duration) -> Vec<Pick> {
    let fresh = |target: &usize| tried.iter().all(|tried| tried.target != *target);
    let ready = |target: &usize| readings[*target].cooldown.is_zero();
    let pick = |target: usize| Pick {
        target,
        ..Pick::default()
    };
    let fresh: Vec<Pick> = candidates
        .iter()
        .copied()
        .filter(fresh)
        .filter(ready)
        .map(pick)
        .collect();
    if fresh.is_empty() {
        again(candidates, tried, longest_wait).into_iter().collect()
    } else {
        fresh
    }
}

/// The target whose stated wait is shortest, if that is short enough to sit through and it has not been tried twice.
fn again(candidates: &[usize], tried: &[Tried], longest_wait: Duration) -> Option<Pick> {
    let times = |target: usize| tried.iter().filter(|tried| tried.target == target).count();
    let waits = tried
        .iter()
        .filter(|tried| candidates.contains(&tried.target) && times(tried.target) == 1);
    let short = waits.filter_map(|tried| Some((tried.target, tried.retry_after.filter(|wait| *wait <= longest_wait)?)));
    let (target, wait) = short.min_by_key(|(_, wait)| *wait)?;
    Some(Pick {
        target,
        wait: Some(wait),
        ..Pick::default()
    })
}

/// Whether `next` may be tried after `failed`, as the host sees it: what nobody can serve goes nowhere, and what was too long goes
/// only where more fits.
pub fn may_follow(failed: &Tried, next: usize, window: impl Fn(usize) -> Option<u32>) -> bool {
    match failed.kind.fallback() {
        Fallback::Next => true,
        Fallback::LargerWindow => window(next) > window(failed.target) && window(failed.target).is_some(),
        Fallback::Never => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::State;
    use proptest::prelude::*;

    const READY: Reading = Reading {
        state: State::Closed,
        cooldown: Duration::ZERO,
        limited: false,
        error_rate: 0.0,
        in_flight: 0,
        first_token_p50_ms: 0,
        first_token_p95_ms: 0,
        headroom: 1.0,
    };
    const COOLING: Reading = Reading {
        cooldown: Duration::from_secs(5),
        ..READY
    };
    const LONGEST: Duration = Duration::from_secs(2);

    fn tried(target: usize, kind: Kind, wait_ms: Option<u64>) -> Tried {
        Tried {
            target,
            kind,
            retry_after: wait_ms.map(Duration::from_millis),
        }
    }

    fn targets(picks: Vec<Pick>) -> Vec<usize> {
        picks.into_iter().map(|pick| pick.target).collect()
    }

    #[test]
    fn goes_by_the_configurations_order_past_what_is_cooling_or_failed() {
        let readings = [READY, COOLING, READY, READY];
        let failed = [tried(0, Kind::ServerError, None)];
        assert_eq!(targets(order(&[0, 1, 2, 3], &failed, &readings, LONGEST)), [2, 3]);
        assert_eq!(targets(order(&[3, 0], &[], &readings, LONGEST)), [3, 0]);
    }

    #[test]
    fn tries_the_same_target_again_only_after_a_short_stated_wait_and_only_once() {
        let again = order(&[0], &[tried(0, Kind::RateLimited, Some(1500))], &[COOLING], LONGEST);
        assert_eq!(
            again,
            [Pick {
                target: 0,
                wait: Some(Duration::from_millis(1500)),
                ..Pick::default()
            }]
        );
        assert!(order(&[0], &[tried(0, Kind::RateLimited, Some(2500))], &[COOLING], LONGEST).is_empty());
        assert!(order(&[0], &[tried(0, Kind::ServerError, None)], &[READY], LONGEST).is_empty());
        let twice = [
            tried(0, Kind::RateLimited, Some(10)),
            tried(0, Kind::RateLimited, Some(10)),
        ];
        assert!(order(&[0], &twice, &[COOLING], LONGEST).is_empty());
    }

    #[test]
    fn switching_goes_before_waiting() {
        let failed = [tried(0, Kind::RateLimited, Some(10))];
        assert_eq!(targets(order(&[0, 1], &failed, &[COOLING, READY], LONGEST)), [1]);
    }

    #[test]
    fn what_is_too_long_goes_only_to_a_larger_window() {
        let window = |target: usize| [Some(8_000), Some(128_000), None, Some(8_000)][target];
        let failed = tried(0, Kind::ContextTooLong, None);
        assert_eq!(
            [1, 2, 3].map(|next| may_follow(&failed, next, window)),
            [true, false, false]
        );
        assert!(
            !may_follow(&tried(2, Kind::ContextTooLong, None), 1, window),
            "nobody knows how large the failed one was"
        );
    }

    #[test]
    fn a_target_is_at_fault_where_it_misses_what_it_usually_keeps() {
        let ms = Duration::from_millis;
        let pick = |first_content: u64| Pick {
            deadlines: RouteTimeouts {
                first_content: Some(ms(first_content)),
                whole: Some(ms(first_content)),
                connect: Some(ms(first_content)),
                ..RouteTimeouts::default()
            },
            ..Pick::default()
        };
        for (deadline, usual, fair) in [
            (500, Some(200), 500),
            (500, Some(400), 800),
            (500, None, 1000),
            (2000, None, 2000),
        ] {
            let deadlines = pick(deadline).fair_deadlines(|| usual.map(ms));
            assert_eq!(deadlines.first_content, Some(ms(fair)), "{deadline} of {usual:?}");
            assert_eq!(
                (deadlines.whole, deadlines.connect),
                (None, Some(ms(deadline.max(1000))))
            );
        }
        let none = Pick::default().fair_deadlines(|| panic!("nobody asks"));
        assert_eq!(none, RouteTimeouts::default());
    }

    #[test]
    fn a_bad_request_goes_nowhere() {
        assert!(!may_follow(&tried(0, Kind::BadRequest, None), 1, |_| None));
        assert!(may_follow(&tried(0, Kind::Connect, None), 1, |_| None));
    }

    /// Targets of a random route.
    const TARGETS: usize = 6;

    fn any_tried() -> impl Strategy<Value = Tried> {
        let kind = prop::sample::select(Kind::ALL.to_vec());
        (0..TARGETS, kind, prop::option::of(0u64..4_000)).prop_map(|(target, kind, wait)| tried(target, kind, wait))
    }

    fn any_readings() -> impl Strategy<Value = Vec<Reading>> {
        prop::collection::vec(
            any::<bool>().prop_map(|ready| if ready { READY } else { COOLING }),
            TARGETS,
        )
    }

    proptest! {
        /// Whatever has failed and whoever cools: what is picked are candidates, none twice, and either all those that are ready and untried,
        /// in the configuration's order and at once, or one alone after the wait that it stated.
        #[test]
        fn picks_what_is_ready_in_its_order_or_one_to_wait_for(
            candidates in prop::sample::subsequence((0..TARGETS).collect::<Vec<_>>(), 0..=TARGETS).prop_shuffle(),
            failed in prop::collection::vec(any_tried(), 0..8),
            readings in any_readings(),
        ) {
            let picks = order(&candidates, &failed, &readings, LONGEST);
            let times = |target: usize| failed.iter().filter(|tried| tried.target == target).count();
            let fresh = |target: &usize| times(*target) == 0 && readings[*target].cooldown.is_zero();
            let expected: Vec<usize> = candidates.iter().copied().filter(fresh).collect();
            if !expected.is_empty() {
                prop_assert!(picks.iter().all(|pick| pick.wait.is_none()));
                prop_assert_eq!(targets(picks), expected);
            } else if let Some(pick) = picks.first() {
                prop_assert_eq!(picks.len(), 1);
                prop_assert!(candidates.contains(&pick.target));
                prop_assert_eq!(times(pick.target), 1);
                let stated = failed.iter().find(|tried| tried.target == pick.target).and_then(|tried| tried.retry_after);
                prop_assert_eq!(pick.wait, stated);
                prop_assert!(stated.is_some_and(|wait| wait <= LONGEST));
            }
        }

        /// A route is left sooner or later: when each pick fails at once, no target is tried more than twice.
        #[test]
        fn a_chain_that_always_fails_ends(
            failures in prop::collection::vec(any_tried(), 2 * TARGETS + 1),
            readings in any_readings(),
        ) {
            let candidates: Vec<usize> = (0..TARGETS).collect();
            let mut failed = Vec::new();
            let mut ends = false;
            for failure in failures {
                let picks = order(&candidates, &failed, &readings, LONGEST);
                let Some(pick) = picks.first() else {
                    ends = true;
                    break;
                };
                failed.push(Tried {
                    target: pick.target,
                    ..failure
                });
            }
            prop_assert!(ends);
        }
    }
}
