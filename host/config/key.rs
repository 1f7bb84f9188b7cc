//! Gateway keys: what clients show.

use super::document::Written;
use super::section::Section;
use super::{Secret, text};

/// One `[[key]]`: what a client shows, and what policies are told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayKey {
    /// What logs, metrics and policies call the client; unique.
    pub name: String,
    /// What the client shows; unique.
    pub secret: Secret,
    /// Facts for policies, as `client.NAME`, in the order of the file.
    pub attributes: Vec<(String, String)>,
}

impl GatewayKey {
    pub(super) fn read(mut section: Section<'_>, name: Option<Written<&str>>) -> Option<Self> {
        let secret = Secret::read(&mut section, "secret");
        if !section.has("secret") {
            section.missing("secret", "write secret = { env = \"NAME\" }");
        }
        let attributes = text::attributes(&mut section);
        section.close();
        Some(Self {
            name: name?.value.to_owned(),
            secret: secret?,
            attributes,
        })
    }
}
