//! The probe decision: a new version must answer a request of this configuration's shape before it serves a real one. It also
//! measures what kind of guest it is: one that carries an interpreter needs milliseconds where others need microseconds, and gets
//! a deadline that fits it, unless an operator wrote one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::contract::{Attempt, Attribute, Breaker, Failure, Health, Request, Target};
use super::log::Log;
use super::program::{Measured, Program};
use super::refusal::{Refusal, Slow, room};
use super::statistics::unix_ms;
use super::version::{Input, PolicyError, Prompt, Version};
use crate::config::{self, Config, Isolation, PolicyRules};

/// Warm-up decisions that may run out of time: the first one faults pages in, and the machine may be busy.
const WARM_UPS: usize = 2;

/// Decisions that are measured, of which the fastest counts: on a busy machine the others tell of the machine, not of the guest.
const MEASURED: usize = 5;

/// What a probe has more than a decision's own deadline, so that it can say how long a slow guest takes.
const GRACE: Duration = Duration::from_secs(1);

/// The longest deadline that a guest gets without an operator who wrote it, and the one of a guest that was not measured under its
/// present isolation.
const LONGEST_UNWRITTEN: Duration = Duration::from_millis(100);
const UNMEASURED: Duration = Duration::from_millis(50);

/// Lines of a guest that are told with the refusal of its probe.
const LAST_WORDS: usize = 3;

/// What a probe asks about.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    route: String,
    targets: Vec<Arc<config::Target>>,
    /// Nobody waits for a policy that no route names, nor configured it: what it logs is told to those who look for it only.
    quiet: bool,
}

/// One probe: the guest with time to spare, and what its rules say.
struct Probe<'a> {
    version: Version,
    rules: &'a PolicyRules,
    quiet: bool,
}

/// The rules as they fit a guest: where no operator wrote a deadline, what its probe measured gives one.
pub(super) fn fit(configured: &Arc<PolicyRules>, measured: Option<&Measured>) -> Arc<PolicyRules> {
    let Some(measured) = measured.filter(|_| !configured.deadline_written) else {
        return Arc::clone(configured);
    };
    let deadline = if measured.isolation == configured.isolation {
        room(measured.took).min(LONGEST_UNWRITTEN)
    } else {
        UNMEASURED
    };
    if deadline <= configured.deadline {
        return Arc::clone(configured);
    }
    Arc::new(PolicyRules {
        deadline,
        ..PolicyRules::clone(configured)
    })
}

/// The prompt of a probe.
struct Hello;

impl Prompt for Hello {
    fn last_user_text(&self) -> String {
        "Hello".into()
    }

    fn messages(&self) -> Vec<(String, String)> {
        vec![("user".into(), "Hello".into())]
    }
}

impl Shape {
    /// The first route that names `policy`; all targets, if none does.
    pub(super) fn of(config: &Config, policy: &str) -> Self {
        match config
            .routes
            .iter()
            .find(|route| route.policies.iter().any(|name| name == policy))
        {
            Some(route) => Self {
                route: route.model.clone(),
                targets: route.targets.clone(),
                quiet: false,
            },
            None => Self {
                route: "probe".into(),
                targets: config.targets.clone(),
                quiet: true,
            },
        }
    }

    /// Asks a program about a request that has just come, and about one whose first attempt failed; and measures it.
    pub(super) fn probe(&self, policy: &str, program: &Arc<Program>, rules: &PolicyRules) -> Result<Measured, Refusal> {
        let attributes: Vec<Vec<Attribute<'_>>> =
            self.targets.iter().map(|target| borrowed(&target.attributes)).collect();
        let targets: Vec<Target<'_>> = self
            .targets
            .iter()
            .zip(&attributes)
            .map(|(target, attributes)| healthy(target, attributes))
            .collect();
        let failed = targets.first().map(|target| Attempt {
            target: target.name,
            failure: Failure::Overloaded,
            status: Some(503),
            code: "",
            retry_after_ms: None,
            elapsed_ms: 100,
            answer_started: false,
        });
        let probe = Probe::new(policy, program, rules, self.quiet);
        let mut took = Duration::ZERO;
        for attempts in [&[], failed.as_slice()] {
            let input = Input {
                request: self.request(),
                targets: &targets,
                attempts,
                prompt: Some(Arc::new(Hello)),
            };
            probe.warm_up(&input)?;
            took = took.max(probe.measure(&input)?);
        }
        Ok(Measured {
            took,
            isolation: rules.isolation,
        })
    }

    fn request(&self) -> Request<'_> {
        Request {
            id: "probe",
            model: &self.route,
            route: &self.route,
            client: "",
            streaming: true,
            uses_tools: false,
            has_images: false,
            input_tokens: 100,
            max_output_tokens: None,
            attributes: &[],
            now_ms: unix_ms(),
            conversation: 0,
            seed: 1,
            elapsed_ms: 0,
            remaining_ms: 120_000,
        }
    }
}

impl<'a> Probe<'a> {
    fn new(policy: &str, program: &Arc<Program>, rules: &'a PolicyRules, quiet: bool) -> Self {
        let generous = PolicyRules {
            deadline: rules.deadline + GRACE,
            deadline_written: true,
            ..rules.clone()
        };
        let version = Version::new(policy, Arc::clone(program), Arc::new(generous), Box::new(|_, _| ()));
        Self { version, rules, quiet }
    }

    /// The longest time that a decision may take.
    fn limit(&self) -> Duration {
        if self.rules.deadline_written {
            self.rules.deadline
        } else {
            self.rules.deadline.max(LONGEST_UNWRITTEN)
        }
    }

    /// The first decision: its time does not count, and what it logs is logged.
    fn warm_up(&self, input: &Input<'_>) -> Result<(), Refusal> {
        for _ in 0..WARM_UPS {
            let (answer, log) = self.version.ask(input);
            self.emit(&log, input);
            match answer {
                Err(PolicyError::Timeout { .. }) => {}
                Err(error) => return Err(self.failed(&error, &log)),
                Ok(_) => return Ok(()),
            }
        }
        Err(self.slow(None))
    }

    /// The time of the fastest of some decisions. The first one is enough where it is far below what is allowed.
    fn measure(&self, input: &Input<'_>) -> Result<Duration, Refusal> {
        let mut fastest = None;
        for _ in 0..MEASURED {
            let start = Instant::now();
            let (answer, log) = self.version.ask(input);
            let took = start.elapsed();
            match answer {
                Err(PolicyError::Timeout { .. }) => continue,
                Err(error) => return Err(self.failed(&error, &log)),
                Ok(_) => fastest = Some(fastest.map_or(took, |fastest: Duration| fastest.min(took))),
            }
            if fastest.is_some_and(|fastest| room(fastest) <= self.rules.deadline) {
                break;
            }
        }
        match fastest {
            Some(took) if took <= self.limit() => Ok(took),
            took => Err(self.slow(took)),
        }
    }

    fn emit(&self, log: &Log, input: &Input<'_>) {
        if self.quiet {
            log.emit_quietly(self.version.label(), input.request.id);
        } else {
            log.emit(self.version.label(), input.request.id);
        }
    }

    fn failed(&self, error: &PolicyError, log: &Log) -> Refusal {
        Refusal::probe(self.version.name(), error, log.last_words(LAST_WORDS))
    }

    fn slow(&self, took: Option<Duration>) -> Refusal {
        Refusal::Slow(Slow {
            policy: self.version.name().into(),
            took,
            given: self.rules.deadline + GRACE,
            limit: self.limit(),
            written: self.rules.deadline_written,
            fresh: self.rules.isolation == Isolation::Fresh,
        })
    }
}

fn borrowed(attributes: &[(String, String)]) -> Vec<Attribute<'_>> {
    attributes
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn healthy<'a>(target: &'a config::Target, attributes: &'a [Attribute<'a>]) -> Target<'a> {
    Target {
        name: &target.name,
        vendor: target.vendor.name,
        model: &target.model,
        context_window: target.context_window,
        input_price: target.prices.map(|prices| prices.input),
        output_price: target.prices.map(|prices| prices.output),
        attributes,
        health: Health {
            breaker: Breaker::Closed,
            cooldown_ms: 0,
            error_rate: 0.0,
            in_flight: 0,
            first_token_p50_ms: 0,
            first_token_p95_ms: 0,
            headroom: 1.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(took_us: u64, measured: Isolation, rules: PolicyRules) -> u128 {
        let measured = Measured {
            took: Duration::from_micros(took_us),
            isolation: measured,
        };
        fit(&Arc::new(rules), Some(&measured)).deadline.as_millis()
    }

    #[test]
    fn a_deadline_fits_the_kind_of_guest() {
        let fresh = |took_us| fitted(took_us, Isolation::Fresh, PolicyRules::default());
        // A small guest; one in JavaScript; one in Python; one that is too slow for any default.
        assert_eq!([8, 600, 2_750, 4_500, 60_000].map(fresh), [5, 10, 30, 50, 100]);
        let isolation = Isolation::Reuse;
        let reuse = PolicyRules {
            isolation,
            ..PolicyRules::default()
        };
        assert_eq!(fitted(400, Isolation::Reuse, reuse.clone()), 5);
        assert_eq!(
            fitted(400, Isolation::Fresh, reuse),
            50,
            "measured under the other isolation"
        );
    }

    #[test]
    fn a_deadline_that_an_operator_wrote_holds() {
        let rules = PolicyRules {
            deadline_written: true,
            ..PolicyRules::default()
        };
        assert_eq!(fitted(4_500, Isolation::Fresh, rules), 5);
    }
}
