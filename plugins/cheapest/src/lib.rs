//! `cheapest`: the target on which a request is likely to cost least.
//!
//! The cost is estimated from the target's prices in the configuration, the size of the prompt, and the usual length of
//! an answer, which the request's own limit caps. Targets of unknown price come last; targets of equal cost keep the
//! order of the configuration. A target is passed over while its breaker is open or it cools down, after it failed in
//! this request, and while the operator has switched it or its vendor off (`switch.TARGET`, `switch.VENDOR`).
//!
//! ```toml
//! [policy.cheapest]
//! settings = { expected_output_tokens = 800 }
//! ```
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `expected_output_tokens` | 500 | usual length of an answer, in tokens |

use pointsman_policy::{Attempt, Decision, Request, Settings, Target, rank, usable};

pointsman_policy::policy!(decide);

const EXPECTED_OUTPUT_TOKENS: u32 = 500;

/// See the crate's documentation.
pub fn decide(request: &Request, targets: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
    let mut usable = match usable(request, targets, attempts) {
        Ok(usable) => usable,
        Err(decision) => return decision,
    };
    let output_tokens = settings.number("expected_output_tokens", 1.., EXPECTED_OUTPUT_TOKENS);
    rank(&mut usable, |target| {
        target.cost(request, output_tokens).unwrap_or(f64::INFINITY)
    });
    let reason = [&usable[0].name, " is the cheapest"].concat();
    Decision::route(usable, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_policy::{Failure, Health};

    fn priced(name: &str, input_price: f64, output_price: f64) -> Target {
        Target {
            input_price: Some(input_price),
            output_price: Some(output_price),
            ..Target::named(name)
        }
    }

    /// `reader` is cheap to ask, `writer` is cheap to hear.
    fn targets() -> [Target; 3] {
        [
            Target::named("unknown"),
            priced("reader", 1.0, 20.0),
            priced("writer", 10.0, 2.0),
        ]
    }

    fn prompt(input_tokens: u32) -> Request {
        Request {
            input_tokens,
            ..Request::default()
        }
    }

    #[test]
    fn the_cheapest_for_this_request_is_first_and_the_unknown_last() {
        let decide = |request, settings| decide(&request, &targets(), &[], &settings);
        assert_eq!(
            decide(prompt(10_000), Settings::from([])).targets(),
            ["reader", "writer", "unknown"]
        );
        assert_eq!(
            decide(prompt(10), Settings::from([])).targets(),
            ["writer", "reader", "unknown"]
        );

        let long_answers = Settings::from([("expected_output_tokens", "8000")]);
        assert_eq!(
            decide(prompt(10_000), long_answers).targets(),
            ["writer", "reader", "unknown"]
        );
    }

    #[test]
    fn the_request_caps_the_length_of_its_answer() {
        let long_answers = Settings::from([("expected_output_tokens", "8000")]);
        let capped = Request {
            max_output_tokens: Some(100),
            ..prompt(10_000)
        };
        assert_eq!(
            decide(&capped, &targets(), &[], &long_answers).targets(),
            ["reader", "writer", "unknown"]
        );
    }

    #[test]
    fn a_bad_setting_leaves_the_default() {
        let decision = decide(
            &prompt(10_000),
            &targets(),
            &[],
            &Settings::from([("expected_output_tokens", "-1")]),
        );
        assert_eq!(decision.targets(), ["reader", "writer", "unknown"]);
    }

    #[test]
    fn passes_over_what_is_not_healthy_or_has_failed() {
        let mut targets = targets();
        targets[1].health = Health {
            cooldown_ms: 900,
            ..Health::default()
        };
        let attempts = [Attempt::failed("writer", Failure::Timeout)];
        assert_eq!(
            decide(&prompt(10), &targets, &attempts, &Settings::from([])).targets(),
            ["unknown"]
        );
    }
}
