//! What OpenTelemetry's conventions call things, version 1.42: <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/> and
//! what these refer to. A test holds the names against the conventions' own crate; the gateway is built without it, since its names of
//! generative AI are about to move to another place.

/// Pairs of a constant here and its name in the crate, for the test.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*

        #[cfg(test)]
        #[expect(deprecated, reason = "the conventions for generative AI move to a repository of their own")]
        #[test]
        fn the_names_are_those_of_the_conventions() {
            $(assert_eq!($name, opentelemetry_semantic_conventions::attribute::$name);)*
        }
    };
}

names! {
    /// Why something failed.
    ERROR_TYPE = "error.type";
    /// What is wanted of a model.
    GEN_AI_OPERATION_NAME = "gen_ai.operation.name";
    /// Who serves the model.
    GEN_AI_PROVIDER_NAME = "gen_ai.provider.name";
    /// The model that is asked for.
    GEN_AI_REQUEST_MODEL = "gen_ai.request.model";
    /// The answer is wanted as a stream.
    GEN_AI_REQUEST_STREAM = "gen_ai.request.stream";
    /// Seconds until the first content of a stream.
    GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk";
    /// Tokens that were written to the vendor's cache.
    GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS = "gen_ai.usage.cache_creation.input_tokens";
    /// Tokens that were read from the vendor's cache.
    GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens";
    /// Tokens of the prompt.
    GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens";
    /// Tokens of the answer.
    GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens";
    /// Tokens of the answer that were thought.
    GEN_AI_USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens";
    /// The method of a request.
    HTTP_REQUEST_METHOD = "http.request.method";
    /// The status of an answer.
    HTTP_RESPONSE_STATUS_CODE = "http.response.status_code";
    /// The host that was called.
    SERVER_ADDRESS = "server.address";
    /// The port that was called.
    SERVER_PORT = "server.port";
    /// The path of a request, without its query.
    URL_PATH = "url.path";
}
