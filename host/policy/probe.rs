//! The probe decision: a new version must answer a request of this configuration's shape before it serves a real one.

use std::sync::Arc;

use super::contract::{Attempt, Attribute, Breaker, Failure, Health, Request, Target};
use super::refusal::Refusal;
use super::statistics::unix_ms;
use super::version::{Input, PolicyError, Prompt, Version};
use crate::config::{self, Config};

/// How often a decision that ran out of time is asked again: the first one faults pages in, and the machine may be busy.
const TRIES: usize = 3;

/// What a probe asks about.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    route: String,
    targets: Vec<Arc<config::Target>>,
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
            },
            None => Self {
                route: "probe".into(),
                targets: config.targets.clone(),
            },
        }
    }

    /// Asks `version` twice: about a request that has just come, and about one whose first attempt failed.
    pub(super) fn probe(&self, version: &Version) -> Result<(), Refusal> {
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
        for attempts in [&[], failed.as_slice()] {
            let input = Input {
                request: self.request(),
                targets: &targets,
                attempts,
                prompt: Some(Arc::new(Hello)),
            };
            ask(version, &input).map_err(|error| Refusal::probe(version.name(), &error))?;
        }
        Ok(())
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

fn ask(version: &Version, input: &Input<'_>) -> Result<(), PolicyError> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let (answer, log) = version.ask(input);
        log.emit(version.label(), input.request.id);
        match answer {
            Err(PolicyError::Timeout { .. }) if tries > 0 => continue,
            answer => return answer.map(drop),
        }
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
