//! The configuration as a whole: what each mistake is answered with, what the defaults are, and what must hold for any
//! text.

mod defaults;
mod errors;
mod examples;
mod properties;
mod secrets;
mod warnings;

use std::path::Path;

use super::{Config, ConfigErrors};

/// The environment of these tests.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "OPENAI_API_KEY" => "sk-openai-secret",
        "AZURE_OPENAI_API_KEY" => "azure-secret",
        "MISTRAL_API_KEY" => "mistral-secret",
        "TEAM_KEY" | "SAME_KEY" => "team-secret",
        "EMPTY" => "",
        "TWO_LINES" => "first\nsecond",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("pointsman.toml"), Path::new("/gateway"), &env)
}

/// What a target and a route need at the least; follows what a test is about.
const REST: &str = r#"
[[target]]
name = "rest"
vendor = "sim"
model = "m"
[[route]]
model = "rest"
targets = ["rest"]
"#;

/// The configuration of a `text` that is completed by [`REST`].
fn config(text: &str) -> Config {
    parse(&format!("{text}{REST}")).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The errors of a `text` that is completed by [`REST`], without the name of the file before each.
fn errors(text: &str) -> Vec<String> {
    all_errors(&format!("{text}{REST}"))
}

/// The errors of a whole text.
fn all_errors(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err("should be refused").to_string();
    errors
        .lines()
        .map(|line| line.strip_prefix("pointsman.toml:").unwrap_or(line).to_owned())
        .collect()
}

fn warnings(text: &str) -> Vec<String> {
    config(text)
        .warnings
        .iter()
        .map(|warning| warning.to_string().replace("pointsman.toml:", ""))
        .collect()
}
