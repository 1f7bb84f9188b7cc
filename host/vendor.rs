//! Vendors as data: how each is reached and what is peculiar about it. A new OpenAI-compatible vendor is a row here or
//! a few lines of configuration; no other module names one.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::fit::{Abilities, CallIds, NO_RULES, Rules, Schemas};
use crate::wire::{Dialect, Format, PLAIN};

/// One row: what all targets of a vendor share.
#[derive(Debug, PartialEq)]
pub struct Vendor {
    /// The name in `vendor = "…"`.
    pub name: &'static str,
    /// What OpenTelemetry's conventions call it, where that is another name.
    pub provider: Option<&'static str>,
    /// What it speaks. A request in one of these formats passes through; any other is translated into the first.
    pub apis: &'static [Api],
    /// Where it is, as a target's `base_url` would say; `{region}` and `{project}` are the target's. `None`: the configuration
    /// must say.
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

/// One of a vendor's APIs: paths are behind the base URL; in them `{model}` is the model's name, percent-encoded, and
/// `{api_version}` the target's.
#[derive(Debug, PartialEq)]
pub struct Api {
    /// Its wire format.
    pub format: Format,
    /// Where whole answers are.
    pub whole: &'static str,
    /// Where streams are.
    pub stream: &'static str,
    /// Where tokens are counted, where they can be.
    pub count: Option<&'static str>,
    /// Headers of a client of the same format that go along.
    pub forwarded: &'static [&'static str],
    /// Headers of requests that do not bring their own.
    pub fixed: &'static [(&'static str, &'static str)],
    /// What this vendor does differently.
    pub dialect: Dialect,
    /// What this vendor refuses although its format can say it.
    pub rules: Rules,
}

/// How a request proves who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// `authorization: Bearer KEY`; none when no key is configured.
    Bearer,
    /// The key in a header of this name.
    Header(&'static str),
    /// The key in a header of this name, or else a token of Microsoft Entra.
    Azure(&'static str),
    /// `authorization: Bearer TOKEN`, with a token of Google's.
    Google,
    /// A signature of AWS for this service, or `authorization: Bearer KEY`.
    Aws(&'static str),
}

/// The OpenAI chat API, behind a base URL that ends in `/v1`.
const CHAT: Api = Api {
    format: Format::OpenAiChat,
    whole: "/chat/completions",
    stream: "/chat/completions",
    count: None,
    forwarded: &[],
    fixed: &[],
    dialect: PLAIN,
    rules: NO_RULES,
};

/// OpenAI's own dialect of chat.
const OPENAI_CHAT: Api = Api {
    forwarded: &["openai-beta"],
    dialect: Dialect {
        max_tokens: "max_completion_tokens",
        user: true,
        ..PLAIN
    },
    rules: OPENAI_RULES,
    ..CHAT
};

const OPENAI_RULES: Rules = Rules {
    // "Invalid schema for response_format: In context=(), 'additionalProperties' is required to be supplied and to be false", 400; the guide
    // to structured outputs lists what strict mode takes.
    schemas: Schemas::StrictOrLoose,
    ..NO_RULES
};

const RESPONSES: Api = Api {
    format: Format::Responses,
    whole: "/responses",
    stream: "/responses",
    rules: OPENAI_RULES,
    forwarded: &["openai-beta"],
    ..CHAT
};

const EMBEDDINGS: Api = Api {
    format: Format::Embeddings,
    whole: "/embeddings",
    stream: "/embeddings",
    ..CHAT
};

const MESSAGES: Api = Api {
    format: Format::Messages,
    whole: "/messages",
    stream: "/messages",
    count: Some("/messages/count_tokens"),
    forwarded: &["anthropic-version", "anthropic-beta"],
    // The version in which sampling parameters are still allowed: what is translated may carry them.
    fixed: &[("anthropic-version", "2023-06-01")],
    dialect: PLAIN,
    rules: Rules {
        // "metadata.user_id: user_id appears to contain an email address", 400; the API reference forbids names, email addresses and
        // telephone numbers there.
        anonymous_user: true,
        // "For 'integer' type, properties maximum, minimum are not supported", 400; "'additionalProperties' must be explicitly set to
        // false", 400; the guide to structured outputs lists what is compiled.
        schemas: Schemas::Compiled,
        json_mode: false,
        ..NO_RULES
    },
};

const GEMINI: Api = Api {
    format: Format::Gemini,
    whole: "/models/{model}:generateContent",
    stream: "/models/{model}:streamGenerateContent?alt=sse",
    count: Some("/models/{model}:countTokens"),
    rules: Rules {
        // "GenerateContentRequest.contents: contents is not specified", 400.
        turn_required: true,
        ..NO_RULES
    },
    ..CHAT
};

const GEMINI_EMBEDDINGS: Api = Api {
    format: Format::GeminiEmbeddings,
    whole: "/models/{model}:batchEmbedContents",
    stream: "/models/{model}:batchEmbedContents",
    ..CHAT
};

/// Every vendor there is, in the order in which errors list them and in which a gateway without configuration prefers
/// them.
pub static VENDORS: &[Vendor] = &[
    Vendor {
        name: "openai",
        apis: &[OPENAI_CHAT, RESPONSES, EMBEDDINGS],
        base_url: Some("https://api.openai.com/v1"),
        key_variable: Some("OPENAI_API_KEY"),
        default_model: Some("gpt-5.4-mini"),
        ..OPENAI_COMPATIBLE
    },
    // The v1 dialect. A model is the name of a deployment.
    Vendor {
        name: "azure",
        provider: Some("azure.ai.openai"),
        apis: &[OPENAI_CHAT, RESPONSES, EMBEDDINGS],
        base_url_example: "https://RESOURCE.openai.azure.com/openai/v1",
        credential: Credential::Azure("api-key"),
        key_variable: Some("AZURE_OPENAI_API_KEY"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "azure-classic",
        provider: Some("azure.ai.openai"),
        apis: &[
            Api {
                whole: "/openai/deployments/{model}/chat/completions?api-version={api_version}",
                stream: "/openai/deployments/{model}/chat/completions?api-version={api_version}",
                ..OPENAI_CHAT
            },
            Api {
                whole: "/openai/responses?api-version={api_version}",
                stream: "/openai/responses?api-version={api_version}",
                ..RESPONSES
            },
            Api {
                whole: "/openai/deployments/{model}/embeddings?api-version={api_version}",
                stream: "/openai/deployments/{model}/embeddings?api-version={api_version}",
                ..EMBEDDINGS
            },
        ],
        base_url_example: "https://RESOURCE.openai.azure.com",
        credential: Credential::Azure("api-key"),
        key_variable: Some("AZURE_OPENAI_API_KEY"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "anthropic",
        apis: &[MESSAGES],
        base_url: Some("https://api.anthropic.com/v1"),
        base_url_example: "https://HOST/v1",
        credential: Credential::Header("x-api-key"),
        key_variable: Some("ANTHROPIC_API_KEY"),
        default_model: Some("claude-haiku-4-5"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "gemini",
        provider: Some("gcp.gemini"),
        apis: &[GEMINI, GEMINI_EMBEDDINGS],
        base_url: Some("https://generativelanguage.googleapis.com/v1beta"),
        base_url_example: "https://HOST/v1beta",
        credential: Credential::Header("x-goog-api-key"),
        key_variable: Some("GEMINI_API_KEY"),
        default_model: Some("gemini-2.5-flash"),
        ..OPENAI_COMPATIBLE
    },
    // Gemini on Google Cloud.
    Vendor {
        name: "vertex",
        provider: Some("gcp.vertex_ai"),
        apis: &[
            Api {
                whole: "/publishers/google/models/{model}:generateContent",
                stream: "/publishers/google/models/{model}:streamGenerateContent?alt=sse",
                count: Some("/publishers/google/models/{model}:countTokens"),
                ..GEMINI
            },
            // Llama and the other open models there are behind an OpenAI API.
            Api {
                whole: "/endpoints/openapi/chat/completions",
                stream: "/endpoints/openapi/chat/completions",
                ..CHAT
            },
        ],
        base_url: Some(VERTEX),
        base_url_example: VERTEX_EXAMPLE,
        credential: Credential::Google,
        ..OPENAI_COMPATIBLE
    },
    // Claude on Google Cloud: the model is in the path, the version in the body.
    Vendor {
        name: "vertex-anthropic",
        provider: Some("gcp.vertex_ai"),
        apis: &[Api {
            whole: "/publishers/anthropic/models/{model}:rawPredict",
            stream: "/publishers/anthropic/models/{model}:streamRawPredict",
            count: None,
            forwarded: &["anthropic-beta"],
            fixed: &[],
            dialect: Dialect {
                body_version: Some("vertex-2023-10-16"),
                ..PLAIN
            },
            ..MESSAGES
        }],
        base_url: Some(VERTEX),
        base_url_example: VERTEX_EXAMPLE,
        credential: Credential::Google,
        ..OPENAI_COMPATIBLE
    },
    // Every model of AWS Bedrock, through Converse.
    Vendor {
        name: "bedrock",
        provider: Some("aws.bedrock"),
        apis: &[Api {
            format: Format::Converse,
            whole: "/model/{model}/converse",
            stream: "/model/{model}/converse-stream",
            rules: Rules {
                // "A text block must be included when using documents", ValidationException; the user guide says so of documents.
                text_beside_document: true,
                // As Anthropic's, whose models most of its structured output is.
                schemas: Schemas::Compiled,
                json_mode: false,
                ..NO_RULES
            },
            ..CHAT
        }],
        base_url: Some("https://bedrock-runtime.{region}.amazonaws.com"),
        base_url_example: "https://HOST",
        credential: Credential::Aws("bedrock"),
        ..OPENAI_COMPATIBLE
    },
    // Claude on AWS Bedrock in its own format.
    Vendor {
        name: "bedrock-anthropic",
        provider: Some("aws.bedrock"),
        apis: &[MESSAGES],
        base_url: Some("https://bedrock-mantle.{region}.api.aws/anthropic/v1"),
        base_url_example: "https://HOST/anthropic/v1",
        credential: Credential::Aws("bedrock-mantle"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "mistral",
        provider: Some("mistral_ai"),
        apis: &[
            Api {
                dialect: Dialect {
                    seed: "random_seed",
                    required: "any",
                    stream_options: false,
                    ..PLAIN
                },
                rules: Rules {
                    // "Tool call id was … but must be a-z, A-Z, 0-9, with a length of 9", 400, code 3280.
                    call_ids: CallIds::NineAlphanumerics,
                    // "Unexpected role 'user' after role 'tool'", 400, code 3230.
                    user_after_result: false,
                    // "Expected last role User or Tool", 400, code 3230.
                    turn_required: true,
                    ..NO_RULES
                },
                ..CHAT
            },
            EMBEDDINGS,
        ],
        base_url: Some("https://api.mistral.ai/v1"),
        key_variable: Some("MISTRAL_API_KEY"),
        default_model: Some("mistral-small-latest"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "groq",
        base_url: Some("https://api.groq.com/openai/v1"),
        key_variable: Some("GROQ_API_KEY"),
        default_model: Some("llama-3.1-8b-instant"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "together",
        base_url: Some("https://api.together.xyz/v1"),
        key_variable: Some("TOGETHER_API_KEY"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "deepseek",
        base_url: Some("https://api.deepseek.com/v1"),
        key_variable: Some("DEEPSEEK_API_KEY"),
        default_model: Some("deepseek-chat"),
        ..OPENAI_COMPATIBLE
    },
    Vendor {
        name: "openrouter",
        base_url: Some("https://openrouter.ai/api/v1"),
        key_variable: Some("OPENROUTER_API_KEY"),
        ..OPENAI_COMPATIBLE
    },
    // The AI gateway of Vercel.
    Vendor {
        name: "vercel",
        base_url: Some("https://ai-gateway.vercel.sh/v1"),
        key_variable: Some("AI_GATEWAY_API_KEY"),
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

/// The region `global` has a host of its own, without the region in front.
const VERTEX: &str = "https://{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}";
const VERTEX_EXAMPLE: &str = "https://REGION-aiplatform.googleapis.com/v1/projects/PROJECT/locations/REGION";

/// The row that the others differ from.
const OPENAI_COMPATIBLE: Vendor = Vendor {
    name: "openai-compatible",
    provider: None,
    apis: &[CHAT, EMBEDDINGS],
    base_url: None,
    base_url_example: "https://HOST/v1",
    credential: Credential::Bearer,
    key_variable: None,
    default_model: None,
    simulated: false,
};

impl Vendor {
    /// What OpenTelemetry's conventions call it; its own name where they do not know it.
    pub fn provider(&self) -> &'static str {
        self.provider.unwrap_or(self.name)
    }

    /// Whether the cloud that it is in has credentials of its own, and whether they are what is usual there.
    pub fn has_cloud_credentials(&self) -> Option<bool> {
        match self.credential {
            Credential::Google | Credential::Aws(_) => Some(true),
            Credential::Azure(_) => Some(false),
            Credential::Bearer | Credential::Header(_) => None,
        }
    }

    /// The row of a vendor's name.
    pub fn named(name: &str) -> Option<&'static Self> {
        VENDORS.iter().find(|vendor| vendor.name == name)
    }

    /// The API for a client of a format: its own, so that the request passes through, or else the first that it can be translated
    /// into. Where the model takes no tools in chat completions, that is the API of responses if the vendor has it.
    pub fn api(&self, client: Format, abilities: &Abilities) -> Option<&'static Api> {
        let own = self.apis.iter().find(|api| api.format == client);
        let into = |api: &&Api| client.is_translated_into(api.format);
        let responses = || {
            let wanted = !abilities.tools_in_chat && client.is_translated_into(Format::OpenAiChat);
            self.apis.iter().find(|api| wanted && api.format == Format::Responses)
        };
        own.or_else(responses).or_else(|| self.apis.iter().find(into))
    }

    /// Where the vendor is for a target in a region and of a project; `None` where an address must be written.
    pub fn address(&self, region: Option<&str>, project: Option<&str>) -> Option<String> {
        let address = self.base_url?;
        let address = match region {
            // Google's global endpoint has no region in its name.
            Some("global") => address.replace("{region}-aiplatform", "aiplatform"),
            _ => address.to_owned(),
        };
        let address = address.replace("{region}", region.unwrap_or("{region}"));
        let address = address.replace("{project}", project.unwrap_or("{project}"));
        (!address.contains('{')).then_some(address)
    }
}

impl Api {
    /// The templates of all its paths.
    pub fn templates(&self) -> impl Iterator<Item = &'static str> {
        [self.whole, self.stream].into_iter().chain(self.count)
    }

    /// A path of this API behind `base`, its placeholders filled.
    pub fn path(base: &str, template: &str, model: &str, api_version: &str) -> String {
        if !template.contains('{') {
            return [base, template].concat();
        }
        let filled = template.replace("{api_version}", api_version);
        [base, &filled.replace("{model}", &percent_encoded(model))].concat()
    }

    /// Those of a client's headers that go along to one vendor or another, if the client speaks its format.
    pub fn forwardable(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let present = |name: &HeaderName| Some((name.clone(), headers.get(name)?.clone()));
        FORWARDABLE.iter().filter_map(present).collect()
    }
}

/// All that the rows below and above forward.
const FORWARDABLE: [HeaderName; 3] = [
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("openai-beta"),
];

/// A name as one segment of a path: everything but RFC 3986's unreserved characters is encoded, as AWS signs it. A `/` would begin
/// another segment, and a model's name may come from a policy.
fn percent_encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.extend([byte >> 4, byte & 15].map(|half| char::from(b"0123456789ABCDEF"[usize::from(half)])));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_paths_have_their_placeholders_filled() {
        let vertex = Vendor::named("vertex").unwrap();
        let there = vertex.address(Some("us-east5"), Some("p")).unwrap();
        assert_eq!(
            there,
            "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5"
        );
        let global = vertex.address(Some("global"), Some("p")).unwrap();
        assert_eq!(
            global,
            "https://aiplatform.googleapis.com/v1/projects/p/locations/global"
        );
        assert_eq!(vertex.address(Some("us-east5"), None), None);
        let bedrock = Vendor::named("bedrock")
            .unwrap()
            .api(Format::Converse, &Abilities::PLAIN)
            .unwrap();
        let path = Api::path("/base", bedrock.stream, "anthropic.claude-v1:0/x", "");
        assert_eq!(path, "/base/model/anthropic.claude-v1%3A0%2Fx/converse-stream");
    }

    #[test]
    fn what_a_row_forwards_can_be_forwarded() {
        for api in VENDORS.iter().flat_map(|vendor| vendor.apis) {
            for name in api.forwarded {
                assert!(FORWARDABLE.iter().any(|known| known.as_str() == *name), "{name}");
            }
        }
    }

    #[test]
    fn every_client_format_has_an_api_of_every_vendor() {
        let formats = [
            Format::OpenAiChat,
            Format::Responses,
            Format::Messages,
            Format::Gemini,
            Format::Converse,
        ];
        for vendor in VENDORS {
            for format in formats {
                assert!(
                    vendor.api(format, &Abilities::PLAIN).is_some(),
                    "{} for {format:?}",
                    vendor.name
                );
            }
        }
        let azure = Vendor::named("azure").unwrap();
        assert_eq!(
            azure.api(Format::Responses, &Abilities::PLAIN).unwrap().format,
            Format::Responses
        );
        assert_eq!(
            azure.api(Format::Messages, &Abilities::PLAIN).unwrap().format,
            Format::OpenAiChat
        );
        let newest = Abilities {
            tools_in_chat: false,
            ..Abilities::PLAIN
        };
        assert_eq!(azure.api(Format::Messages, &newest).unwrap().format, Format::Responses);
        assert_eq!(
            azure.api(Format::OpenAiChat, &newest).unwrap().format,
            Format::OpenAiChat
        );
        assert_eq!(
            azure.api(Format::Embeddings, &newest).unwrap().format,
            Format::Embeddings
        );
        assert_eq!(
            Vendor::named("bedrock")
                .unwrap()
                .api(Format::Embeddings, &Abilities::PLAIN),
            None
        );
    }
}
