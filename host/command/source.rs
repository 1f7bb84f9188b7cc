//! Where the configuration comes from, as the command line says it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use pointsman::config::Source;

/// The configuration that a command works with.
#[derive(Args, Default)]
pub struct SourceArguments {
    /// The configuration file; without one, simulated vendors are served
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where clients connect, instead of the configuration's `listen`, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where operators connect, instead of the configuration's `admin`, such as 127.0.0.1:8081
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
}

impl SourceArguments {
    /// The source.
    pub fn source(&self) -> Source {
        Source {
            file: self.config.clone(),
            listen: self.listen,
            admin: self.admin,
            without_secrets: false,
        }
    }
}

/// The environment of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
