//! Reads a configuration file into what the program uses.

/// One thing that is wrong, and what to write instead.
#[derive(Debug)]
pub struct ConfigError;

/// All that is wrong.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);
