use crate::{Attempt, Decision, Failure, Request, Target, rank};

/// The targets that are worth an attempt now, in the order they came; where there are none, the decision that is left.
///
/// Worth an attempt is a target that the operator has not [switched off](Request::has_switched_off), that is
/// [available](Target::is_available), and that has not failed in this request. After a prompt was too long, only a
/// larger context window is.
///
/// The decision that is left is to pass, because the gateway knows best when to try a target that cools down. Passing
/// could reach a target that is switched off, though. So where one is, the decision is to route to the others, those
/// that are ready soonest first, and to reject when there are no others.
///
/// # Errors
///
/// The decision to answer with when no target is usable.
pub fn usable<'t>(request: &Request, targets: &'t [Target], attempts: &[Attempt]) -> Result<Vec<&'t Target>, Decision> {
    if attempts.last().is_some_and(Attempt::is_final) {
        return Err(Decision::pass("no other target could do better"));
    }
    let largest = largest_window_exceeded(targets, attempts);
    let untried =
        |target: &&Target| !target.has_failed(attempts) && largest.is_none_or(|it| target.context_window > it);

    let on: Vec<&Target> = targets
        .iter()
        .filter(|target| !request.has_switched_off(target))
        .collect();
    let mut left: Vec<&Target> = on.iter().copied().filter(untried).collect();
    let available: Vec<&Target> = left.iter().copied().filter(|target| target.is_available()).collect();

    if !available.is_empty() {
        return Ok(available);
    }
    Err(if on.len() == targets.len() {
        Decision::pass("no target is available")
    } else if on.is_empty() {
        Decision::reject(503, ["Every target of ", &request.model, " is switched off."].concat())
    } else if left.is_empty() {
        Decision::exhausted(
            attempts,
            ["Every target of ", &request.model, " has failed or is switched off."].concat(),
        )
    } else {
        rank(&mut left, |target| target.health.cooldown_ms);
        Decision::route(left, "no target is available; the soonest first")
    })
}

/// The largest context window that this request's prompt was too long for; `None` when it was too long for none. A
/// window that is not known counts as the smallest.
fn largest_window_exceeded(targets: &[Target], attempts: &[Attempt]) -> Option<Option<u32>> {
    let too_long = attempts
        .iter()
        .filter(|attempt| attempt.failure == Failure::ContextTooLong);
    too_long
        .map(|attempt| {
            targets
                .iter()
                .find(|target| target.name == attempt.target)
                .and_then(|it| it.context_window)
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Breaker, Health};

    fn names(usable: Result<Vec<&Target>, Decision>) -> Vec<&str> {
        usable.unwrap().iter().map(|target| target.name.as_str()).collect()
    }

    fn cooling(name: &str, cooldown_ms: u32) -> Target {
        Target {
            health: Health {
                breaker: Breaker::Open,
                cooldown_ms,
                ..Health::default()
            },
            ..Target::named(name)
        }
    }

    fn switched_off(switches: &[&str]) -> Request {
        let attributes = switches
            .iter()
            .map(|name| (format!("switch.{name}"), "off".to_owned()))
            .collect();
        Request {
            model: "smart".into(),
            attributes,
            ..Request::default()
        }
    }

    #[test]
    fn leaves_out_what_failed_cools_down_or_is_switched_off() {
        let azure = Target {
            vendor: "azure".into(),
            ..Target::named("eu")
        };
        let targets = [
            Target::named("a"),
            cooling("b", 9),
            azure,
            Target::named("d"),
            Target::named("e"),
        ];
        let attempts = [Attempt::failed("a", Failure::Timeout)];
        assert_eq!(
            names(usable(&switched_off(&["azure", "e"]), &targets, &attempts)),
            ["d"]
        );
    }

    #[test]
    fn passes_when_nothing_is_available_and_nothing_switched_off() {
        let targets = [Target::named("a"), cooling("b", 9)];
        let decision = usable(&Request::default(), &targets, &[Attempt::failed("a", Failure::Timeout)]).unwrap_err();
        assert_eq!(decision.action, Action::Pass);
    }

    #[test]
    fn never_passes_to_what_is_switched_off() {
        let targets = [Target::named("a"), cooling("b", 9), cooling("c", 3)];
        let cooling = usable(&switched_off(&["a"]), &targets, &[]).unwrap_err();
        assert_eq!(cooling.targets(), ["c", "b"]);

        let failed = [
            Attempt::failed("b", Failure::RateLimited),
            Attempt::failed("c", Failure::RateLimited),
        ];
        assert_eq!(
            usable(&switched_off(&["a"]), &targets, &failed).unwrap_err().status(),
            Some(429)
        );

        let off = usable(&switched_off(&["a", "b", "c"]), &targets, &[]).unwrap_err();
        assert_eq!(off.status(), Some(503));
        assert_eq!(off.reason, "Every target of smart is switched off.");
    }

    #[test]
    fn a_prompt_that_was_too_long_goes_only_to_a_larger_window() {
        let window = |name, context_window| Target {
            context_window,
            ..Target::named(name)
        };
        let targets = [
            window("a", Some(8)),
            window("b", Some(8)),
            window("c", None),
            window("d", Some(32)),
        ];
        let attempts = [Attempt::failed("a", Failure::ContextTooLong)];
        assert_eq!(names(usable(&Request::default(), &targets, &attempts)), ["d"]);
    }

    #[test]
    fn passes_when_no_other_target_could_do_better() {
        let targets = [Target::named("a"), Target::named("b")];
        let started = Attempt {
            answer_started: true,
            ..Attempt::failed("a", Failure::CutOff)
        };
        for last in [Attempt::failed("a", Failure::BadRequest), started] {
            assert_eq!(
                usable(&switched_off(&["b"]), &targets, &[last]).unwrap_err().action,
                Action::Pass
            );
        }
    }
}
