//! What is served without a configuration file, so that a newcomer's first request is answered: three simulated
//! vendors, and every real one whose usual key variable is set.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Config, Environment, OnError, Route, RouteTimeouts, Secret, Sim, SimError, Source, Target, Timeouts};
use crate::catalog::{self, Prices};
use crate::vendor::{VENDORS, Vendor};
use crate::wire::loss::Lossy;

/// A simulated target, as far as they differ.
struct Simulated {
    name: &'static str,
    region: &'static str,
    prices: (f64, f64),
    first_token_ms: u64,
    tokens_per_second: f64,
    errors: &'static [(SimError, f64)],
}

/// The first is fast and fails now and then, so that a few requests show a fallback; the others never fail, so that
/// every request is answered. None wins at everything, so that policies differ in what they choose.
const SIMULATED: [Simulated; 3] = [
    Simulated {
        name: "sim-fast",
        region: "us",
        prices: (2.5, 10.0),
        first_token_ms: 60,
        tokens_per_second: 200.0,
        errors: &[(SimError::Status(429), 0.1), (SimError::Status(503), 0.1)],
    },
    Simulated {
        name: "sim-steady",
        region: "eu",
        prices: (1.25, 5.0),
        first_token_ms: 200,
        tokens_per_second: 100.0,
        errors: &[],
    },
    Simulated {
        name: "sim-cheap",
        region: "eu",
        prices: (0.15, 0.6),
        first_token_ms: 500,
        tokens_per_second: 50.0,
        errors: &[],
    },
];

/// Real vendors come first, for whoever has a key wants to see them answer; the simulated ones are their plan B.
pub(super) fn config(base: &Path, source: &Source, env: Environment<'_>) -> Config {
    let default = Config::defaults(base);
    let real = VENDORS.iter().filter_map(|vendor| real(vendor, &default.timeouts, env));
    let simulated = VENDORS.iter().filter(|vendor| vendor.simulated).flat_map(|vendor| {
        SIMULATED
            .iter()
            .filter_map(|target| simulated(vendor, target, &default.timeouts))
    });
    let targets: Vec<_> = real.chain(simulated).map(Arc::new).collect();
    let route = |model: &str, policies: &[&str]| Route {
        model: model.to_owned(),
        targets: targets.clone(),
        policies: policies.iter().map(|policy| policy.to_string()).collect(),
        on_error: OnError::Pass,
        hold: None,
        continuation: false,
        attempts_detail: false,
        lossy: Lossy::Table,
        hedge_share: Route::HEDGE_SHARE,
        timeouts: RouteTimeouts::default(),
        max_attempts: default.attempts.max,
    };
    Config {
        listen: source.listen.unwrap_or(default.listen),
        admin: source.admin.unwrap_or(default.admin),
        routes: vec![route("smart", &["plan-b"]), route("*", &[])],
        targets,
        ..default
    }
}

/// The target of a real vendor; `None` when it has no key, or no address or model without being told.
fn real(vendor: &'static Vendor, timeouts: &Timeouts, env: Environment<'_>) -> Option<Target> {
    let key = env(vendor.key_variable?)?;
    let target = target(vendor, vendor.name, vendor.default_model?, timeouts)?;
    Some(Target {
        api_keys: vec![Secret::checked(&key).ok()?],
        ..target
    })
}

fn simulated(vendor: &'static Vendor, simulated: &Simulated, timeouts: &Timeouts) -> Option<Target> {
    let target = target(vendor, simulated.name, simulated.name, timeouts)?;
    let sim = Sim {
        first_token: Duration::from_millis(simulated.first_token_ms),
        tokens_per_second: simulated.tokens_per_second,
        errors: simulated.errors.to_vec(),
        ..Sim::default()
    };
    Some(Target {
        context_window: Some(128_000),
        prices: Some(Prices {
            input: simulated.prices.0,
            cached_input: None,
            cache_write: None,
            output: simulated.prices.1,
            long_prompt: None,
        }),
        attributes: vec![("region".to_owned(), simulated.region.to_owned())],
        sim: Some(sim),
        ..target
    })
}

/// A target of which nothing is known but where it is, and what the catalog says of its model.
fn target(vendor: &'static Vendor, name: &str, model: &str, timeouts: &Timeouts) -> Option<Target> {
    let known = catalog::lookup(vendor.name, model);
    Some(Target {
        name: name.to_owned(),
        vendor,
        model: model.to_owned(),
        base_url: vendor.address(None, None)?.parse().ok()?,
        api_keys: Vec::new(),
        cloud_credentials: false,
        concurrency: Default::default(),
        region: None,
        project: None,
        api_version: None,
        context_window: known.map(|known| known.context_window),
        max_output: known.and_then(|known| known.max_output),
        abilities: catalog::abilities(model).clone(),
        prices: known.map(|known| known.prices),
        attributes: Vec::new(),
        timeouts: *timeouts,
        sim: None,
    })
}
