//! What of the configuration matters for keeping policies current.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::compile::Cancel;
use super::folder;
use super::load::{Order, Source};
use super::probe::Shape;
use super::program::Hash;
use crate::config::{CompileLimits, Config, PolicyRules};

/// See the module.
pub(super) struct Settings {
    /// The plugin folder.
    pub(super) directory: PathBuf,
    /// How often it is looked through without an event.
    pub(super) poll: Duration,
    pub(super) max_file_bytes: u64,
    /// Earlier versions of each policy that are kept.
    pub(super) keep_versions: usize,
    /// Plugins that no route uses and that are loaded all the same.
    pub(super) max_unused: usize,
    limits: CompileLimits,
    defaults: Arc<PolicyRules>,
    rules: BTreeMap<String, Arc<PolicyRules>>,
    /// Policies that a route names.
    pub(super) named: BTreeSet<String>,
    /// What to ask in a probe.
    shapes: BTreeMap<String, Shape>,
    any_shape: Shape,
}

impl Settings {
    /// Takes what matters out of a configuration.
    pub(super) fn of(config: &Config) -> Self {
        let policies = &config.policies;
        let named: BTreeSet<_> = config
            .routes
            .iter()
            .flat_map(|route| route.policies.iter().cloned())
            .collect();
        Self {
            directory: policies.directory.clone(),
            poll: policies.poll,
            max_file_bytes: policies.max_file_bytes,
            keep_versions: policies.keep_versions,
            max_unused: policies.max_unused,
            limits: policies.compile.clone(),
            defaults: Arc::new(policies.defaults.clone()),
            rules: config
                .policy
                .iter()
                .map(|(name, rules)| (name.clone(), Arc::new(rules.clone())))
                .collect(),
            shapes: named
                .iter()
                .map(|name| (name.clone(), Shape::of(config, name)))
                .collect(),
            any_shape: Shape::of(config, ""),
            named,
        }
    }

    /// The file of a policy.
    pub(super) fn file(&self, policy: &str) -> Source {
        Source::File(folder::path(&self.directory, policy), self.max_file_bytes)
    }

    /// The rules of a policy.
    pub(super) fn rules(&self, policy: &str) -> &Arc<PolicyRules> {
        self.rules.get(policy).unwrap_or(&self.defaults)
    }

    /// Time after which a thread that loads a plugin counts as lost: reading, compiling and probing have limits of their own, so
    /// nothing but a mistake or a file system that hangs takes longer.
    pub(super) fn load_limit(&self) -> Duration {
        self.limits.wall + Duration::from_secs(60)
    }

    /// What it takes to load a plugin for a policy.
    pub(super) fn order(&self, policy: &str, source: Source, known: Vec<Hash>) -> Order {
        Order {
            policy: policy.into(),
            source,
            known,
            rules: Arc::clone(self.rules(policy)),
            limits: self.limits.clone(),
            cancel: Cancel::default(),
            shape: self.shapes.get(policy).unwrap_or(&self.any_shape).clone(),
        }
    }
}
