//! What a policy asks about a target.

use crate::request::lookup;
use crate::{Attempt, Breaker, Health, Request, Target};

const TOKENS_PER_PRICE: f64 = 1e6;

impl Target {
    /// A healthy target of which nothing but the name is known: what tests start from.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            vendor: String::new(),
            model: String::new(),
            context_window: None,
            input_price: None,
            output_price: None,
            attributes: Vec::new(),
            health: Health::default(),
        }
    }

    /// The value of an attribute from the configuration, such as `region`; `None` when the target has no such
    /// attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        lookup(&self.attributes, name)
    }

    /// Whether the target may be tried now: its breaker is not open and it is not cooling down.
    pub fn is_available(&self) -> bool {
        self.health.breaker != Breaker::Open && self.health.cooldown_ms == 0
    }

    /// Whether one of these attempts was on this target.
    pub fn has_failed(&self, attempts: &[Attempt]) -> bool {
        attempts.iter().any(|attempt| attempt.target == self.name)
    }

    /// What the request is likely to cost on this target, in US dollars; `None` when either price is unknown.
    ///
    /// `output_tokens` is how long an answer usually is; the request's own limit caps it.
    pub fn cost(&self, request: &Request, output_tokens: u32) -> Option<f64> {
        let output_tokens = output_tokens.min(request.max_output_tokens.unwrap_or(u32::MAX));
        let input = f64::from(request.input_tokens) * self.input_price?;
        let output = f64::from(output_tokens) * self.output_price?;
        Some((input + output) / TOKENS_PER_PRICE)
    }
}

/// The health of a target that has not been used yet: nothing is wrong with it and nothing is known.
impl Default for Health {
    fn default() -> Self {
        Self {
            breaker: Breaker::Closed,
            cooldown_ms: 0,
            error_rate: 0.0,
            in_flight: 0,
            first_token_p50_ms: 0,
            first_token_p95_ms: 0,
            headroom: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_both_prices_times_their_tokens() {
        let request = Request {
            input_tokens: 1_000,
            ..Request::default()
        };
        let target = Target {
            input_price: Some(2.0),
            output_price: Some(8.0),
            ..Target::named("a")
        };
        assert_eq!(target.cost(&request, 500), Some(0.006));

        let capped = Request {
            max_output_tokens: Some(250),
            ..request.clone()
        };
        assert_eq!(target.cost(&capped, 500), Some(0.004));

        assert_eq!(
            Target {
                output_price: None,
                ..target
            }
            .cost(&request, 500),
            None
        );
    }

    #[test]
    fn neither_an_open_breaker_nor_a_cooldown_is_available() {
        let with = |health| {
            Target {
                health,
                ..Target::named("a")
            }
            .is_available()
        };
        assert!(with(Health::default()));
        assert!(with(Health {
            breaker: Breaker::HalfOpen,
            ..Health::default()
        }));
        assert!(!with(Health {
            breaker: Breaker::Open,
            ..Health::default()
        }));
        assert!(!with(Health {
            cooldown_ms: 1,
            ..Health::default()
        }));
    }
}
