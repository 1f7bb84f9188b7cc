//! `fastest`: the target that is likely to answer first, hedged.
//!
//! Targets go by the median time to first token of their recent answers. A target of which none is known would never
//! become known if it were always last, so a share of the requests tries it first. If the first target has sent no
//! content by the time in which the fastest one nearly always (95 %) has, the next one starts beside it, and the first
//! content wins; the route's `hedge_share` limits how often. A target is passed over while its breaker is open or it
//! cools down, after it failed in this request, and while the operator has switched it or its vendor off
//! (`switch.TARGET`, `switch.VENDOR`).
//!
//! ```toml
//! [policy.fastest]
//! settings = { explore_percent = 2, hedge_floor_ms = 800 }
//! ```
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `explore_percent` | 5 | share of the requests that try an unknown target first, 0 to 100 |
//! | `hedge` | true | whether to hedge |
//! | `hedge_floor_ms` | 300 | never hedge earlier than this |
//! | `hedge_ceiling_ms` | 10000 | never hedge later than this; the floor goes before it |

use pointsman_policy::{Attempt, Decision, Pick, Request, Settings, Target, hash, rank, usable};

pointsman_policy::policy!(decide);

const EXPLORE_PERCENT: u32 = 5;
const HEDGE_FLOOR_MS: u32 = 300;
const HEDGE_CEILING_MS: u32 = 10_000;

/// See the crate's documentation.
pub fn decide(request: &Request, targets: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
    let usable = match usable(request, targets, attempts) {
        Ok(usable) => usable,
        Err(decision) => return decision,
    };
    let (mut order, unknown): (Vec<&Target>, Vec<&Target>) = usable
        .into_iter()
        .partition(|target| target.health.first_token_p50_ms > 0);
    rank(&mut order, |target| target.health.first_token_p50_ms);
    let hedge = order.first().and_then(|fastest| hedge_after_ms(fastest, settings));

    let known = order.len();
    order.extend(unknown);
    let explored = explored(request, order.len() - known, settings).map(|index| known + index);
    let reason = match explored {
        // The explored target goes to the front; the others keep their order.
        Some(index) => {
            order[..=index].rotate_right(1);
            ["finding out how fast ", &order[0].name, " is"].concat()
        }
        None => [&order[0].name, " is the fastest"].concat(),
    };
    Decision::route(picks(&order, hedge), reason)
}

/// Which of the unknown targets this request tries first, if it does.
fn explored(request: &Request, unknown: usize, settings: &Settings) -> Option<usize> {
    let percent = settings.number("explore_percent", 0..=100, EXPLORE_PERCENT);
    let dice = hash(request.seed.to_le_bytes());
    // The lower half says whether, the upper half which, so that one does not follow from the other.
    let explores = unknown > 0 && dice as u32 % 100 < percent;
    explores.then(|| (dice >> 32) as usize % unknown)
}

/// When to start the next target beside the first: when the fastest would nearly always have answered.
fn hedge_after_ms(fastest: &Target, settings: &Settings) -> Option<u32> {
    let p95 = fastest.health.first_token_p95_ms;
    if p95 == 0 || !settings.flag("hedge", true) {
        return None;
    }
    let floor = settings.number("hedge_floor_ms", 0.., HEDGE_FLOOR_MS);
    let ceiling = settings.number("hedge_ceiling_ms", 0.., HEDGE_CEILING_MS);
    Some(p95.min(ceiling).max(floor))
}

/// The targets as picks, the first of them hedged where another one can be.
fn picks(order: &[&Target], hedge_after_ms: Option<u32>) -> Vec<Pick> {
    let mut picks: Vec<Pick> = order.iter().map(|target| Pick::to(target)).collect();
    if picks.len() > 1 {
        picks[0].hedge_after_ms = hedge_after_ms;
    }
    picks
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_policy::{Failure, Health};

    fn timed(name: &str, first_token_p50_ms: u32, first_token_p95_ms: u32) -> Target {
        Target {
            health: Health {
                first_token_p50_ms,
                first_token_p95_ms,
                ..Health::default()
            },
            ..Target::named(name)
        }
    }

    fn targets() -> [Target; 4] {
        [
            timed("slow", 900, 3_000),
            timed("new", 0, 0),
            timed("fast", 200, 700),
            timed("newer", 0, 0),
        ]
    }

    fn explore(percent: &str) -> Settings {
        Settings::from([("explore_percent", percent)])
    }

    #[test]
    fn the_fastest_is_first_and_hedged_at_its_p95() {
        let decision = decide(&Request::default(), &targets(), &[], &explore("0"));
        assert_eq!(decision.targets(), ["fast", "slow", "new", "newer"]);
        assert_eq!(decision.reason, "fast is the fastest");
        let hedges: Vec<_> = decision.picks().iter().map(|pick| pick.hedge_after_ms).collect();
        assert_eq!(hedges, [Some(700), None, None, None]);
    }

    #[test]
    fn a_share_of_the_requests_tries_unknown_targets_first() {
        let targets = targets();
        let mut first = std::collections::BTreeMap::new();
        for seed in 0..10_000 {
            let decision = decide(
                &Request {
                    seed,
                    ..Request::default()
                },
                &targets,
                &[],
                &explore("10"),
            );
            assert_eq!(decision.picks().len(), 4);
            assert_eq!(
                decision.picks()[0].hedge_after_ms,
                Some(700),
                "an explored target is hedged as well"
            );
            *first.entry(decision.targets()[0].to_owned()).or_insert(0) += 1;
        }
        assert!((8_800..9_200).contains(&first["fast"]), "{first:?}");
        assert!((400..600).contains(&first["new"]), "{first:?}");
        assert!((400..600).contains(&first["newer"]), "{first:?}");
        assert!(!first.contains_key("slow"), "{first:?}");
    }

    #[test]
    fn the_explored_target_does_not_disturb_the_others() {
        let decision = decide(&Request::default(), &targets()[..3], &[], &explore("100"));
        assert_eq!(decision.targets(), ["new", "fast", "slow"]);
        assert_eq!(decision.reason, "finding out how fast new is");
    }

    #[test]
    fn hedges_within_floor_and_ceiling_and_only_where_another_target_is_left() {
        let hedge = |settings| decide(&Request::default(), &targets(), &[], &settings).picks()[0].hedge_after_ms;
        assert_eq!(
            hedge(Settings::from([("explore_percent", "0"), ("hedge_floor_ms", "800")])),
            Some(800)
        );
        assert_eq!(
            hedge(Settings::from([("explore_percent", "0"), ("hedge_ceiling_ms", "500")])),
            Some(500)
        );
        assert_eq!(
            hedge(Settings::from([("hedge_ceiling_ms", "5"), ("hedge_floor_ms", "50")])),
            Some(50)
        );
        assert_eq!(hedge(Settings::from([("hedge", "false")])), None);

        let alone = decide(&Request::default(), &[timed("fast", 200, 700)], &[], &explore("0"));
        assert_eq!(alone.picks()[0].hedge_after_ms, None);
    }

    #[test]
    fn keeps_the_order_of_the_configuration_while_nothing_is_known() {
        let targets = ["a", "b", "c"].map(Target::named);
        let decision = decide(&Request::default(), &targets, &[], &explore("0"));
        assert_eq!(decision.targets(), ["a", "b", "c"]);
        assert_eq!(decision.picks()[0].hedge_after_ms, None);
    }

    #[test]
    fn falls_back_to_the_next_fastest() {
        let attempts = [Attempt::failed("fast", Failure::Timeout)];
        let decision = decide(&Request::default(), &targets(), &attempts, &explore("0"));
        assert_eq!(decision.targets(), ["slow", "new", "newer"]);
    }
}
