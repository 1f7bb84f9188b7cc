//! Vendors as data: how each is reached and what is peculiar about it. A new OpenAI-compatible vendor is a row here or a few lines
//! of configuration; no other module names one.

use crate::wire::Format;

/// One row: what all targets of a vendor share.
#[derive(Debug, PartialEq)]
pub struct Vendor {
    /// The name in `vendor = "…"`.
    pub name: &'static str,
    pub format: Format,
    /// `None`: the configuration must say.
    pub base_url: Option<&'static str>,
    pub credential: Credential,
    /// The variable that usually holds the key; with no configuration, a vendor whose variable is set is served.
    pub key_variable: Option<&'static str>,
    /// The model that is served with no configuration.
    pub default_model: Option<&'static str>,
}

/// How a request proves who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// `authorization: Bearer KEY`; none when no key is configured.
    Bearer,
    /// `api-key: KEY`.
    ApiKeyHeader,
}
