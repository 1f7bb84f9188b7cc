//! What the health of a target belongs to: an address, a model and a credential, not a name. An operator who repairs one of them wants
//! it to be tried at once, whatever the name of the target. Secrets are known by their digests only.

use sha2::{Digest, Sha256};

use crate::config::{self, Secret};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    address: String,
    model: String,
    credential: [u8; 32],
}

impl Identity {
    /// The identity of a target.
    pub fn of(rules: &config::Target) -> Self {
        Self {
            address: address(rules),
            model: rules.model.clone(),
            credential: credential(rules),
        }
    }

    /// Whether requests go to the same place, whichever model they ask for.
    pub fn has_address_of(&self, other: &Self) -> bool {
        self.address == other.address
    }

    /// Whether requests ask for the same model at the same place.
    pub fn has_model_of(&self, other: &Self) -> bool {
        self.has_address_of(other) && self.model == other.model
    }

    /// What is different, in words for the log; empty where nothing is.
    pub fn changes_since(&self, before: &Self) -> String {
        let differences = [
            ("address", self.address != before.address),
            ("model", self.model != before.model),
            ("credential", self.credential != before.credential),
        ];
        let changed = differences.iter().filter(|(_, is_different)| *is_different);
        changed.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// Everything that decides where a request goes.
fn address(rules: &config::Target) -> String {
    let optional = [&rules.api_version, &rules.region, &rules.project].map(|text| text.as_deref().unwrap_or_default());
    // A simulated vendor is found by its target's name.
    let simulated = rules.sim.as_ref().map_or("", |_| rules.name.as_str());
    let base_url = rules.base_url.to_string();
    [rules.vendor.name, &base_url, simulated]
        .into_iter()
        .chain(optional)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A digest of all keys, in whatever order they are listed, and of whether the cloud's credential is used.
fn credential(rules: &config::Target) -> [u8; 32] {
    let digest = |key: &Secret| -> [u8; 32] { Sha256::digest(key.reveal().as_bytes()).into() };
    let mut keys: Vec<[u8; 32]> = rules.api_keys.iter().map(digest).collect();
    keys.sort_unstable();
    let mut all = Sha256::new();
    all.update([u8::from(rules.cloud_credentials)]);
    keys.iter().for_each(|key| all.update(key));
    all.finalize().into()
}
