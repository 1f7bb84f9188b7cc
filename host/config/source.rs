//! Where a configuration comes from, what goes before what it says, and what reading it found.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::files::NamedFiles;
use super::{Config, ConfigErrors, Environment, Finding, absolute, check, demo, read};

/// Where the configuration comes from, and what goes before what it says.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file; `None`: simulated vendors, and every real one whose usual key variable is set.
    pub file: Option<PathBuf>,
    /// The address for clients, instead of `listen`.
    pub listen: Option<SocketAddr>,
    /// The address for operators, instead of `admin`.
    pub admin: Option<SocketAddr>,
    /// Secrets and certificates are not read. What they would be is made up, so such a configuration can be checked, not served.
    pub without_secrets: bool,
}

/// What reading a configuration found.
#[derive(Debug)]
pub struct Reading {
    /// What it says, with defaults where something is wrong.
    pub config: Config,
    /// All that is wrong, in the order of lines.
    pub errors: Vec<Finding>,
    /// The text; `None` where there is no file or it cannot be read.
    pub text: Option<String>,
    /// The line on which each policy is named first: by a route, else by a table of its own.
    pub policy_lines: BTreeMap<String, usize>,
    /// The secrets and certificates that were not read because of [`Source::without_secrets`], as the file refers to them.
    pub not_read: Vec<String>,
}

impl Source {
    /// Reads the configuration.
    pub fn read(&self, env: Environment<'_>) -> Reading {
        let Some(file) = &self.file else {
            return self.without_file(env);
        };
        match read::text(file) {
            Ok(text) => self.read_text(&text, file, env),
            Err(ConfigErrors(errors)) => Reading {
                errors,
                ..Reading::of(Config::defaults(&folder_of(file)))
            },
        }
    }

    /// What is wrong can only come from the command line.
    fn without_file(&self, env: Environment<'_>) -> Reading {
        let config = demo::config(&absolute(Path::new(".")), self, env);
        let operators = check::fault_of_operators(&config).map(|fault| {
            let instead = "write a configuration with admin_token, or leave --admin out";
            (fault, instead)
        });
        let ports = check::fault_of_ports(&config).map(|fault| (fault, "write another port"));
        let errors = ports.into_iter().chain(operators).map(|(fault, instead)| Finding {
            file: "command line".into(),
            line: None,
            found: format!("--admin {fault}"),
            instead: instead.to_owned(),
        });
        Reading {
            errors: errors.collect(),
            ..Reading::of(config)
        }
    }

    /// Reads this text as if it were in the file. Findings name `shown` as the file.
    pub fn read_text(&self, text: &str, shown: &Path, env: Environment<'_>) -> Reading {
        let file = self.file.as_deref().unwrap_or(shown);
        let mut reading = read::config(text, shown, &folder_of(file), (self, env));
        reading.config.file = Some(absolute(file));
        reading
    }
}

impl Reading {
    fn of(config: Config) -> Self {
        Self {
            config,
            errors: Vec::new(),
            text: None,
            policy_lines: BTreeMap::new(),
            not_read: Vec::new(),
        }
    }

    /// The configuration if nothing is wrong with it.
    pub fn finish(self) -> Result<Config, ConfigErrors> {
        if self.errors.is_empty() {
            Ok(self.config)
        } else {
            Err(ConfigErrors(self.errors))
        }
    }

    /// The files that the configuration names, right or wrong.
    pub fn files(&self) -> &NamedFiles {
        &self.config.files
    }
}

/// The folder that relative paths in a file are relative to.
fn folder_of(file: &Path) -> PathBuf {
    absolute(file).parent().map(Path::to_owned).unwrap_or_default()
}
