//! What is wrong or suspicious about a configuration, in words for the operator who wrote it.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong or suspicious. Prints as `FILE:LINE: what was found; what to write instead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The configuration file, spelled as the user did.
    pub file: PathBuf,
    /// Line in the file, from 1; `None` when it is about the whole file.
    pub line: Option<usize>,
    /// What was found; never a secret.
    pub found: String,
    /// What to write instead; empty where `found` says it.
    pub instead: String,
}

/// All that is wrong with a configuration, in the order of lines; never empty. Prints one finding a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Finding>);

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.found)?;
        match self.instead.as_str() {
            "" => Ok(()),
            instead => write!(f, "; {instead}"),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{finding}")?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}
