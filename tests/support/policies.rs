//! A plugin folder, a configuration for it, and a library that serves it: what tests and measurements of policies start from.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pointsman::config::*;
use pointsman::policy::{
    Breaker as BreakerState, Decision, Health, Input, Library, PolicyError, PolicyState, PolicyStatus, ReadyMade,
    Request, Target,
};
use tempfile::TempDir;

/// The gateway's own binary.
pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_pointsman").into()
}

/// A gateway without its sockets.
pub struct Yard {
    pub home: TempDir,
    pub config: Config,
}

impl Yard {
    /// An empty plugin folder, and one route that names `policies`.
    pub fn new(policies: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("plugins")).unwrap();
        let config = config(home.path(), policies);
        Self { home, config }
    }

    pub fn plugins(&self) -> &Path {
        &self.config.policies.directory
    }

    /// Drops a plugin in as one should: written beside its name and renamed into place.
    pub fn drop_in(&self, policy: &str, plugin: &[u8]) {
        let beside = self.home.path().join("beside");
        fs::write(&beside, plugin).unwrap();
        fs::rename(&beside, self.file(policy)).unwrap();
    }

    pub fn file(&self, policy: &str) -> PathBuf {
        self.plugins().join(format!("{policy}.wasm"))
    }

    /// The rules of a policy, to change them.
    pub fn rules(&mut self, policy: &str) -> &mut PolicyRules {
        let defaults = self.config.policies.defaults.clone();
        self.config.policy.entry(policy.into()).or_insert(defaults)
    }

    pub fn open(&self) -> Library {
        self.open_with(&[])
    }

    pub fn open_with(&self, ready_made: &'static [ReadyMade]) -> Library {
        Library::open(&self.config, ready_made, program()).unwrap()
    }
}

/// What [`Library::status`] tells of one policy.
pub fn status(library: &Library, policy: &str) -> PolicyStatus {
    let found = library.status().into_iter().find(|status| status.name == policy);
    found.unwrap_or_else(|| panic!("nothing is known of {policy}: {:?}", library.status()))
}

/// Waits until a policy is in `state` for the reason given, and returns what is told of it then.
pub fn wait_for(library: &Library, policy: &str, state: PolicyState, problem: &str) -> PolicyStatus {
    let start = Instant::now();
    loop {
        let found = library.status().into_iter().find(|status| status.name == policy);
        if let Some(found) = &found
            && found.state == state
            && found.problem.as_deref().unwrap_or_default().contains(problem)
        {
            return found.clone();
        }
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{policy} is not {state:?} for `{problem}`: {found:#?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Asks a policy about a request with these attributes, and eight targets.
pub fn ask(library: &Library, policy: &str, attributes: &[(&str, &str)]) -> Result<Decision, PolicyError> {
    let targets = targets();
    let request = Request {
        attributes,
        ..request()
    };
    let input = Input {
        request,
        targets: &targets,
        attempts: &[],
        prompt: None,
    };
    library
        .versions()
        .get(policy)
        .unwrap_or_else(|| panic!("{policy} does not serve: {:#?}", library.status()))
        .decide(&input)
}

/// The reason that a policy gives.
pub fn reason(library: &Library, policy: &str, what: &str) -> String {
    ask(library, policy, &[("do", what)]).unwrap().reason
}

pub fn request() -> Request<'static> {
    Request {
        id: "01JD4Z8QK7",
        model: "smart",
        route: "smart",
        client: "team-a",
        streaming: true,
        uses_tools: true,
        has_images: false,
        input_tokens: 1800,
        max_output_tokens: Some(4096),
        attributes: &[("header.x-team", "search"), ("session", "5d0e8a1c")],
        now_ms: 1_700_000_000_123,
        conversation: 77,
        seed: 4,
        elapsed_ms: 0,
        remaining_ms: 120_000,
    }
}

/// Eight targets as a busy gateway knows them.
pub fn targets() -> [Target<'static>; 8] {
    let names = [
        "gpt",
        "claude",
        "gemini",
        "llama",
        "azure-gpt",
        "bedrock-claude",
        "mistral",
        "local",
    ];
    names.map(|name| Target {
        name,
        vendor: "openai",
        model: "gpt-5-2025-08-07",
        context_window: Some(400_000),
        input_price: Some(1.25),
        output_price: Some(10.0),
        attributes: &[("region", "us")],
        health: Health {
            breaker: BreakerState::Closed,
            cooldown_ms: 0,
            error_rate: 0.01,
            in_flight: 12,
            first_token_p50_ms: 420,
            first_token_p95_ms: 1900,
            headroom: 0.8,
        },
    })
}

/// Three targets, and one route that names `policies`. Deadlines are generous, because the tests share the machine.
fn config(home: &Path, policies: &[&str]) -> Config {
    let text = format!(
        r#"
        [policies]
        poll_ms = 500
        deadline_ms = 100
        keep_versions = 3

        [[target]]
        name = "gpt"
        vendor = "sim"
        model = "gpt-5"

        [[target]]
        name = "claude"
        vendor = "sim"
        model = "claude-sonnet-4-5"
        attributes = {{ region = "eu" }}

        [[route]]
        model = "smart"
        targets = ["gpt", "claude"]
        policies = {policies:?}
        "#
    );
    let mut config =
        Config::parse(&text, &home.join("pointsman.toml"), home, &|_| None).expect("the configuration is right");
    config.policies.defaults.max_picks = 32;
    config
}
