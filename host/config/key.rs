//! Gateway keys: what clients show.

use super::document::Written;
use super::section::Section;
use super::{Secret, text};

/// One `[[key]]`: what a client shows, and what policies are told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayKey {
    /// What logs, metrics and policies call the client; unique.
    pub name: String,
    /// What the client shows; unique. `None`: only the id of its access key.
    pub secret: Option<Secret>,
    /// By what a client is known that signs its requests as AWS wants it; unique.
    pub access_key_id: Option<String>,
    /// What those signatures are verified with; `None`: they are not.
    pub secret_access_key: Option<Secret>,
    /// Facts for policies, as `client.NAME`, in the order of the file.
    pub attributes: Vec<(String, String)>,
}

impl GatewayKey {
    /// Whether a request cannot be told to be of one or the other.
    pub(super) fn is_shown_as(&self, other: &Self) -> bool {
        let shown = |key: &Self| {
            let id = key.access_key_id.clone();
            let secret = key.secret.as_ref().map(|secret| secret.reveal().to_owned());
            [secret, id]
        };
        let others = shown(other);
        shown(self)
            .into_iter()
            .flatten()
            .any(|shown| others.contains(&Some(shown)))
    }

    pub(super) fn read(mut section: Section<'_>, name: Option<Written<&str>>) -> Option<Self> {
        let secret = Secret::read(&mut section, "secret");
        let access_key_id = section.word("access_key_id").map(|id| id.value.to_owned());
        let secret_access_key = Secret::read(&mut section, "secret_access_key");
        if !section.has("secret") && !section.has("access_key_id") {
            section.missing("secret", "write secret = { env = \"NAME\" }");
        }
        if section.has("secret_access_key") && !section.has("access_key_id") {
            section.missing("access_key_id", "write the id that goes with secret_access_key");
        }
        let is_unread = section.has("secret") && secret.is_none();
        let attributes = text::attributes(&mut section);
        section.close();
        Some(Self {
            name: name?.value.to_owned(),
            secret: if is_unread { return None } else { secret },
            access_key_id,
            secret_access_key,
            attributes,
        })
    }
}
