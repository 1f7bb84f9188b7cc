//! `plan-b`: an order of preference, and the next in line when a target fails.
//!
//! The first target that is usable gets the request; the others stand by in order. A target is passed over while its
//! breaker is open or it cools down, after it failed in this request, and while the operator has switched it or its
//! vendor off.
//!
//! ```toml
//! [policy.plan-b]
//! settings = { order = ["gpt", "claude", "llama"] }
//! ```
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `order` | | names of targets, the preferred one first; targets that are not named come after them |
//! | `primary` | | name of the preferred target, where `order` is not set |
//!
//! Without settings the order is that of the route in the configuration.
//!
//! | switch | meaning |
//! |---|---|
//! | `switch.VENDOR` = `off` | no request goes to this vendor |
//! | `switch.TARGET` = `off` | no request goes to this target |
//!
//! When no target is available the policy passes, and the gateway decides whether to wait for one. Where a switch is
//! off it must not: then the targets that are left are tried, those that are ready soonest first, and the request is
//! rejected when there are none (503; 429 when all attempts met a rate limit).

use pointsman_policy::{Attempt, Decision, Request, Settings, Target, rank, usable};

pointsman_policy::policy!(decide);

/// See the crate's documentation.
pub fn decide(request: &Request, targets: &[Target], attempts: &[Attempt], settings: &Settings) -> Decision {
    let mut usable = match usable(request, targets, attempts) {
        Ok(usable) => usable,
        Err(decision) => return decision,
    };
    let mut order = settings.list("order");
    if order.is_empty() {
        order.extend(settings.text("primary"));
    }
    rank(&mut usable, |target| {
        order
            .iter()
            .position(|name| *name == target.name)
            .unwrap_or(order.len())
    });
    let reason = match attempts.last() {
        Some(failed) => ["plan B: ", &failed.target, " failed"].concat(),
        None => [&usable[0].name, " is first in order"].concat(),
    };
    Decision::route(usable, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_policy::{Action, Failure, Health};

    fn targets() -> [Target; 3] {
        [("gpt", "openai"), ("claude", "anthropic"), ("llama", "vllm")].map(|(name, vendor)| Target {
            vendor: vendor.into(),
            ..Target::named(name)
        })
    }

    fn off(switches: &[&str]) -> Request {
        let attributes = switches
            .iter()
            .map(|name| (format!("switch.{name}"), "off".to_owned()))
            .collect();
        Request {
            attributes,
            ..Request::default()
        }
    }

    #[test]
    fn keeps_the_order_of_the_configuration_without_settings() {
        let decision = decide(&Request::default(), &targets(), &[], &Settings::from([]));
        assert_eq!(decision.targets(), ["gpt", "claude", "llama"]);
        assert_eq!(decision.reason, "gpt is first in order");
    }

    #[test]
    fn prefers_what_the_settings_say() {
        let first = |settings| decide(&Request::default(), &targets(), &[], &Settings::from([settings]));
        assert_eq!(first(("primary", "llama")).targets(), ["llama", "gpt", "claude"]);
        assert_eq!(first(("order", "llama,claude")).targets(), ["llama", "claude", "gpt"]);
        assert_eq!(first(("order", "unknown,claude")).targets(), ["claude", "gpt", "llama"]);
    }

    #[test]
    fn falls_back_when_a_target_fails() {
        let attempts = [Attempt::failed("gpt", Failure::Overloaded)];
        let decision = decide(&Request::default(), &targets(), &attempts, &Settings::from([]));
        assert_eq!(decision.targets(), ["claude", "llama"]);
        assert_eq!(decision.reason, "plan B: gpt failed");
    }

    #[test]
    fn passes_over_a_target_that_cools_down() {
        let mut targets = targets();
        targets[0].health = Health {
            cooldown_ms: 900,
            ..Health::default()
        };
        assert_eq!(
            decide(&Request::default(), &targets, &[], &Settings::from([])).targets(),
            ["claude", "llama"]
        );
    }

    #[test]
    fn obeys_the_switches_of_vendors_and_targets() {
        let decide = |request| decide(&request, &targets(), &[], &Settings::from([]));
        assert_eq!(decide(off(&["openai"])).targets(), ["claude", "llama"]);
        assert_eq!(decide(off(&["claude"])).targets(), ["gpt", "llama"]);
        assert_eq!(decide(off(&["openai", "anthropic", "llama"])).status(), Some(503));
    }

    #[test]
    fn leaves_a_request_that_is_at_fault_to_the_gateway() {
        let attempts = [Attempt::failed("gpt", Failure::BadRequest)];
        let decision = decide(&Request::default(), &targets(), &attempts, &Settings::from([]));
        assert_eq!(decision.action, Action::Pass);
    }
}
