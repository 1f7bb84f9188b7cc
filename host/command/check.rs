//! `check`: says all that is wrong with a configuration and its policies, and leaves nothing behind.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use pointsman::config::{Finding, Reading, Source};
use pointsman::policy::{CheckedPolicy, Library, running_program};
use pointsman::{READY_MADE, catalog};
use serde_json::{Value, json};

use super::output::{complain, say};
use super::source::{SourceArguments, environment};

/// Arguments of the command.
#[derive(Args, Default)]
pub struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Read neither variables nor files with secrets and certificates: for a machine that does not have them
    #[arg(long)]
    without_secrets: bool,
    /// Print one JSON object to standard output
    #[arg(long)]
    json: bool,
}

/// What `--help` says of them.
pub const EXIT_CODES: &str = "\
Exit codes: 0 when all is well, warnings aside; 1 when something is wrong; 2 for arguments that cannot be used.";

/// Runs the command; see [`EXIT_CODES`].
pub fn run(arguments: &Arguments) -> ExitCode {
    let source = Source {
        without_secrets: arguments.without_secrets,
        ..arguments.source.source()
    };
    let mut reading = source.read(&environment);
    let policies = match check_policies(&mut reading) {
        Ok(policies) => policies,
        Err(error) => {
            complain(format_args!("pointsman: the policies cannot be checked: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let report = Report::new(source, reading, policies);
    if arguments.json {
        say(report.json());
    } else {
        report.print();
    }
    match report.errors.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Loads every policy as far as the configuration can be read, with a state folder that is gone afterwards.
fn check_policies(reading: &mut Reading) -> anyhow::Result<Vec<CheckedPolicy>> {
    let folder = tempfile::Builder::new().prefix("pointsman-check-").tempdir()?;
    let own = std::mem::replace(&mut reading.config.state, folder.path().join("state"));
    let checked = Library::check(&reading.config, READY_MADE, running_program()?);
    reading.config.state = own;
    Ok(checked?)
}

/// What was checked and what was found.
struct Report {
    source: Source,
    reading: Reading,
    policies: Vec<CheckedPolicy>,
    /// Of the configuration and of policies, in the order of lines.
    errors: Vec<Finding>,
    /// About the catalog, beside those of the configuration.
    outdated: Option<String>,
}

impl Report {
    fn new(source: Source, mut reading: Reading, policies: Vec<CheckedPolicy>) -> Self {
        let mut errors = std::mem::take(&mut reading.errors);
        errors.extend(policies.iter().filter_map(|policy| finding(&source, &reading, policy)));
        errors.sort_by_key(|finding| finding.line);
        Self {
            source,
            reading,
            policies,
            errors,
            outdated: catalog::outdated(SystemTime::now()),
        }
    }

    /// For people: what was checked to standard output, what was found to standard error.
    fn print(&self) {
        let config = &self.reading.config;
        let file = self.source.file.as_ref().map(|file| file.display().to_string());
        say(format_args!(
            "checked {}",
            file.as_deref().unwrap_or("what is served without a configuration")
        ));
        for target in &config.targets {
            say(format_args!(
                "  target {:<16} {} {}",
                target.name, target.vendor.name, target.model
            ));
        }
        for route in &config.routes {
            let targets: Vec<_> = route.targets.iter().map(|target| target.name.as_str()).collect();
            say(format_args!("  route  {:<16} {}", route.model, targets.join(", ")));
        }
        for policy in &self.policies {
            let from = policy.from.as_deref().unwrap_or("nowhere");
            say(format_args!("  policy {:<16} {from}", policy.policy));
        }
        for place in &self.reading.not_read {
            say(format_args!("  not read: {place}"));
        }
        for warning in &config.warnings {
            complain(format_args!("warning: {warning}"));
        }
        self.outdated
            .iter()
            .for_each(|outdated| complain(format_args!("warning: {outdated}")));
        self.errors.iter().for_each(complain);
        let counts = format!(
            "{} targets, {} routes, {} policies",
            config.targets.len(),
            config.routes.len(),
            self.policies.len()
        );
        match self.errors.len() {
            0 => say(format_args!("all is well: {counts}")),
            count => complain(format_args!("{count} wrong: {counts}")),
        }
    }

    /// For machines.
    fn json(&self) -> Value {
        let config = &self.reading.config;
        let targets = config
            .targets
            .iter()
            .map(|target| json!({ "name": target.name, "vendor": target.vendor.name, "model": target.model }));
        let routes = config.routes.iter().map(|route| {
            let targets: Vec<_> = route.targets.iter().map(|target| target.name.as_str()).collect();
            json!({ "model": route.model, "targets": targets, "policies": route.policies })
        });
        let policies = self
            .policies
            .iter()
            .map(|policy| json!({ "name": policy.policy, "from": policy.from, "problem": policy.problem }));
        let finding = |finding: &Finding| {
            json!({
                "file": finding.file.display().to_string(),
                "line": finding.line,
                "found": finding.found,
                "instead": Some(&finding.instead).filter(|instead| !instead.is_empty()),
            })
        };
        let outdated = self.outdated.iter().map(|outdated| json!({ "found": outdated }));
        json!({
            "ok": self.errors.is_empty(),
            "file": self.source.file.as_ref().map(|file| file.display().to_string()),
            "targets": targets.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "policies": policies.collect::<Vec<_>>(),
            "not_read": self.reading.not_read,
            "errors": self.errors.iter().map(finding).collect::<Vec<_>>(),
            "warnings": config.warnings.iter().map(finding).chain(outdated).collect::<Vec<_>>(),
        })
    }
}

/// What is wrong with a policy, at the line that names it.
fn finding(source: &Source, reading: &Reading, policy: &CheckedPolicy) -> Option<Finding> {
    let problem = policy.problem.as_ref()?;
    let line = reading.policy_lines.get(&policy.policy).copied();
    let plugin = policy.from.as_ref().map(PathBuf::from);
    let file = source.file.clone().filter(|_| line.is_some()).or(plugin);
    Some(Finding {
        file: file.unwrap_or_else(|| reading.config.policies.directory.clone()),
        line,
        found: match policy.policy.as_str() {
            "" => problem.clone(),
            name => format!("policy `{name}`: {problem}"),
        },
        instead: String::new(),
    })
}
