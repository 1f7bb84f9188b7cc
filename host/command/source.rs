//! Where the configuration comes from.

use std::path::{Path, PathBuf};

use clap::Args;
use pointsman::config::{Config, ConfigErrors};

/// The configuration that a command works with.
#[derive(Args, Default)]
pub struct Source {
    /// The configuration file; without one, simulated vendors are served
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Source {
    /// Reads the configuration.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        let env = |name: &str| std::env::var(name).ok();
        match &self.config {
            Some(file) => Config::load(file, &env),
            None => Ok(Config::without_file(Path::new("."), &env)),
        }
    }
}
