//! Vendors as data: how each is reached and what is peculiar about it. A new OpenAI-compatible vendor is a row here or
//! a few lines of configuration; no other module names one.

use crate::wire::Format;

/// One row: what all targets of a vendor share.
#[derive(Debug, PartialEq)]
pub struct Vendor {
    /// The name in `vendor = "…"`.
    pub name: &'static str,
    /// The wire format it speaks.
    pub format: Format,
    /// Where it is, as a target's `base_url` would say. `None`: the configuration must say.
    pub base_url: Option<&'static str>,
    /// What such an address looks like, for whoever has to write one.
    pub base_url_example: &'static str,
    /// How a request to it proves who pays.
    pub credential: Credential,
    /// The variable that usually holds the key; with no configuration, a vendor whose variable is set is served.
    /// `None`: a key is not usual.
    pub key_variable: Option<&'static str>,
    /// The model that is served with no configuration: a cheap one, for whoever tries the gateway out pays for it.
    pub default_model: Option<&'static str>,
    /// It is played by the gateway itself: nothing is sent anywhere.
    pub simulated: bool,
}

/// How a request proves who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// `authorization: Bearer KEY`; none when no key is configured.
    Bearer,
    /// `api-key: KEY`.
    ApiKeyHeader,
}

/// Every vendor there is, in the order in which errors list them and in which a gateway without configuration prefers
/// them.
pub static VENDORS: &[Vendor] = &[
    Vendor {
        name: "openai",
        base_url: Some("https://api.openai.com/v1"),
        key_variable: Some("OPENAI_API_KEY"),
        default_model: Some("gpt-5.4-mini"),
        ..OPENAI_COMPATIBLE
    },
    // The v1 dialect. A model is the name of a deployment.
    Vendor {
        name: "azure",
        base_url_example: "https://RESOURCE.openai.azure.com/openai/v1",
        credential: Credential::ApiKeyHeader,
        key_variable: Some("AZURE_OPENAI_API_KEY"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "mistral",
        base_url: Some("https://api.mistral.ai/v1"),
        key_variable: Some("MISTRAL_API_KEY"),
        default_model: Some("mistral-small-latest"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "ollama",
        base_url: Some("http://127.0.0.1:11434/v1"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "vllm",
        base_url: Some("http://127.0.0.1:8000/v1"),
        ..OPENAI_COMPATIBLE
    },
    // llama-server's own default, which is also ours: one of the two has to move, and loading warns about it.
    Vendor {
        name: "llamacpp",
        base_url: Some("http://127.0.0.1:8080/v1"),
        ..OPENAI_COMPATIBLE
    },
    OPENAI_COMPATIBLE,
    // No host ever has this name (RFC 2606), should anything try to reach it after all.
    Vendor {
        name: "sim",
        base_url: Some("http://sim.invalid/v1"),
        simulated: true,
        ..OPENAI_COMPATIBLE
    },
];

/// The row that the others differ from.
const OPENAI_COMPATIBLE: Vendor = Vendor {
    name: "openai-compatible",
    format: Format::OpenAiChat,
    base_url: None,
    base_url_example: "https://HOST/v1",
    credential: Credential::Bearer,
    key_variable: None,
    default_model: None,
    simulated: false,
};

impl Vendor {
    /// The row of a vendor's name.
    pub fn named(name: &str) -> Option<&'static Self> {
        VENDORS.iter().find(|vendor| vendor.name == name)
    }
}
