//! Failures of attempts: what went wrong, who is at fault, and what the built-in chain does about it. One table; adding a class or a
//! vendor's code is a row.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

/// Why an attempt failed: the classes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No connection: DNS, TCP or TLS.
    Connect,
    /// A deadline passed, ours or the vendor's.
    Timeout,
    /// Too many requests for this credential.
    RateLimited,
    /// The vendor is up and says that it cannot serve.
    Overloaded,
    /// The credential or the model it names was not accepted.
    Unauthorized,
    /// The account behind the credential has no quota or money left.
    OutOfQuota,
    /// The prompt does not fit into the model's context window.
    ContextTooLong,
    /// The vendor's safety system declined.
    Refused,
    /// The client's request is at fault, and would be everywhere.
    BadRequest,
    /// The vendor failed.
    ServerError,
    /// The vendor answered something that is no answer.
    BadResponse,
    /// The answer stopped before its end.
    CutOff,
    /// The gateway itself, or the machine under it, was at a limit: the target was never asked.
    LocalLimit,
}

/// What the built-in chain does after a failure of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// The next target.
    Next,
    /// Only a target with a larger context window.
    LargerWindow,
    /// The vendor's answer goes to the client as it is.
    Never,
}

/// What a failure of a kind says about the target's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// It counts against the target in its breaker.
    Target,
    /// The target is well but wants to be left alone for a while.
    Cooldown,
    /// The operator has to act: the target rests for long.
    Rest,
    /// The target did what it should.
    Nobody,
    /// The gateway failed: nothing is known of the target.
    Gateway,
}

impl Kind {
    /// Every kind, in the order of the contract; the gateway's own is behind them.
    pub const ALL: [Kind; 13] = [
        Kind::Connect,
        Kind::Timeout,
        Kind::RateLimited,
        Kind::Overloaded,
        Kind::Unauthorized,
        Kind::OutOfQuota,
        Kind::ContextTooLong,
        Kind::Refused,
        Kind::BadRequest,
        Kind::ServerError,
        Kind::BadResponse,
        Kind::CutOff,
        Kind::LocalLimit,
    ];

    /// The table of the design: name in logs and metrics, what the built-in chain does, whose fault it is.
    const fn row(self) -> (&'static str, Fallback, Blame) {
        match self {
            Kind::Connect => ("connect", Fallback::Next, Blame::Target),
            Kind::Timeout => ("timeout", Fallback::Next, Blame::Target),
            Kind::RateLimited => ("rate-limited", Fallback::Next, Blame::Cooldown),
            Kind::Overloaded => ("overloaded", Fallback::Next, Blame::Target),
            Kind::Unauthorized => ("unauthorized", Fallback::Next, Blame::Rest),
            Kind::OutOfQuota => ("out-of-quota", Fallback::Next, Blame::Rest),
            Kind::ContextTooLong => ("context-too-long", Fallback::LargerWindow, Blame::Nobody),
            Kind::Refused => ("refused", Fallback::Never, Blame::Nobody),
            Kind::BadRequest => ("bad-request", Fallback::Never, Blame::Nobody),
            Kind::ServerError => ("server-error", Fallback::Next, Blame::Target),
            Kind::BadResponse => ("bad-response", Fallback::Next, Blame::Target),
            Kind::CutOff => ("cut-off", Fallback::Next, Blame::Target),
            // A kept connection to another target may still be there.
            Kind::LocalLimit => ("local-limit", Fallback::Next, Blame::Gateway),
        }
    }

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// What the built-in chain does next.
    pub const fn fallback(self) -> Fallback {
        self.row().1
    }

    /// Whose fault it is.
    pub const fn blame(self) -> Blame {
        self.row().2
    }
}

/// What a vendor says of its own error, read from any of the shapes in which vendors say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VendorError {
    /// The vendor's code or, where it has none, its type.
    pub code: String,
    /// The HTTP status that it says it would have, where there is none of its own.
    pub status: Option<u16>,
    /// Its words; for logs, never for policies.
    pub message: String,
    /// The wait that it states, where its format has a place for one.
    pub retry_after: Option<Duration>,
}

impl VendorError {
    /// The model broke its answer off, or made one that not even its vendor can read; `raw` is the vendor's word for it.
    pub fn unfinished(raw: &str) -> Self {
        Self {
            retry_after: None,
            code: raw.to_owned(),
            status: Some(502),
            message: "the model made an answer that its vendor cannot read".into(),
        }
    }
}

/// An attempt that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The class.
    pub kind: Kind,
    /// HTTP status, when the vendor answered at all.
    pub status: Option<u16>,
    /// The vendor's own code, or ours for what happened on the wire; empty when there is none.
    pub code: String,
    /// For the log: what was seen.
    pub detail: String,
    /// The wait that the vendor stated.
    pub retry_after: Option<Duration>,
    /// The vendor's error answer as it came, for the cases in which the client gets it unchanged.
    pub answer: Option<Bytes>,
    /// The vendor's own id of the request.
    pub vendor_request: Option<HeaderValue>,
    /// The model that was asked for is not there: a mistake in one name, which says nothing of the credential.
    pub no_such_model: bool,
    /// It was the key's fault, and the target has another one.
    pub another_key: bool,
    /// It was the pick's own doing, and says nothing about the target: its deadline was too short to be fair, or it named a model of its
    /// own. The target is shared with other routes, whose traffic no policy may take down.
    pub picks_doing: bool,
}

impl Failure {
    /// A failure on the wire, without an answer of the vendor's.
    pub fn on_the_wire(kind: Kind, code: &str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            status: None,
            code: cut(code, MAX_CODE),
            detail: cut(&detail.into(), MAX_DETAIL),
            retry_after: None,
            answer: None,
            vendor_request: None,
            no_such_model: false,
            another_key: false,
            picks_doing: false,
        }
    }

    /// An error that the vendor answered with.
    pub fn answered(status: u16, error: VendorError, answer: Option<Bytes>) -> Self {
        let kind = classify(status, &error);
        Self {
            status: Some(status),
            answer,
            retry_after: error.retry_after,
            no_such_model: is_no_such_model(status, &error),
            ..Self::on_the_wire(kind, &error.code, error.message)
        }
    }

    /// An error that the vendor put into an answer that had begun well.
    pub fn in_answer(error: VendorError) -> Self {
        Self {
            retry_after: error.retry_after,
            no_such_model: is_no_such_model(status_in_stream(&error), &error),
            ..Self::on_the_wire(classify_in_stream(&error), &error.code, error.message)
        }
    }

    /// Whose fault it is. A model that is not there is nobody's: the target answered as it should, and its keys are good. What is not
    /// there and does not even say so in an error is no API: the address is wrong, or what is behind it is broken.
    pub fn blame(&self) -> Blame {
        match (self.kind, self.status) {
            _ if self.no_such_model => Blame::Nobody,
            (Kind::Unauthorized, Some(404)) if self.code.is_empty() => Blame::Target,
            (Kind::Unauthorized, Some(404)) => Blame::Nobody,
            (kind, _) => kind.blame(),
        }
    }
}

/// Bytes of a vendor's code and of its words that are kept: both may be as long as a body.
const MAX_CODE: usize = 64;
const MAX_DETAIL: usize = 300;

/// The beginning of a text.
pub fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// Codes that say more than the status they come with. Sources: the vendors' error
/// references, and the answers of vLLM, llama.cpp and Ollama.
const BY_CODE: &[(&str, Kind)] = &[
    ("insufficient_quota", Kind::OutOfQuota),
    ("credit_balance_exhausted", Kind::OutOfQuota),
    ("billing_hard_limit_reached", Kind::OutOfQuota),
    ("billing_not_active", Kind::OutOfQuota),
    ("enforced_spend_limit_reached", Kind::OutOfQuota),
    ("contract_spend_limit_reached", Kind::OutOfQuota),
    ("context_length_exceeded", Kind::ContextTooLong),
    ("exceed_context_size_error", Kind::ContextTooLong),
    ("content_filter", Kind::Refused),
    ("content_policy_violation", Kind::Refused),
    ("invalid_api_key", Kind::Unauthorized),
    ("rate_limit_exceeded", Kind::RateLimited),
    ("slow_down", Kind::RateLimited),
    ("server_is_overloaded", Kind::Overloaded),
    ("overloaded_error", Kind::Overloaded),
    ("unavailable_error", Kind::Overloaded),
    ("server_error", Kind::ServerError),
    ("timeout", Kind::Timeout),
    // Gemini: a bad key and a country or account that it does not serve come as 400, a quota for the day as 429.
    ("API_KEY_INVALID", Kind::Unauthorized),
    ("FAILED_PRECONDITION", Kind::Unauthorized),
    ("RESOURCE_EXHAUSTED_PER_DAY", Kind::OutOfQuota),
];

/// Codes that say that the model is not there, with any status.
const NO_SUCH_MODEL: &[&str] = &[
    "model_not_found",
    "model_not_available",
    "invalid_model",
    "DeploymentNotFound",
    "ModelNotFound",
];

/// Codes that say so with status 404: what vendors serve there are models.
const NOT_FOUND: &[&str] = &[
    "not_found_error",
    "NOT_FOUND",
    "NotFoundError",
    "ResourceNotFoundException",
    "ResourceNotFound",
];

/// Words by which servers without such codes say it, in lower case; the model's own name stands between two of a row. From vLLM, Ollama,
/// DeepSeek, OpenRouter and Bedrock.
const NO_MODEL_WORDS: &[&[&str]] = &[
    &["model ", " does not exist"],
    &["model ", " not found"],
    &["model not exist"],
    &["is not a valid model"],
    &["invalid model"],
    &["model identifier is invalid"],
    &["could not resolve the foundation model"],
    &["no endpoints found for "],
];

/// Words by which servers without codes say that a prompt is too long, in lower case.
const CONTEXT_WORDS: &[&str] = &[
    "prompt is too long",
    "input is too long for requested model",
    "exceeds the context window",
    "exceeds the available context size",
    "maximum context length is",
    "maximum prompt length is",
    "maximum model length",
    "too large for model with",
    "reduce the length of the messages",
    "greater than the context length",
    "exceeds the maximum number of tokens allowed",
];

/// Whether an error with this status says that the model that was asked for is not there.
fn is_no_such_model(status: u16, error: &VendorError) -> bool {
    let code = error.code.as_str();
    if NO_SUCH_MODEL.contains(&code) || (status == 404 && NOT_FOUND.contains(&code)) {
        return true;
    }
    // A code that says what is wrong goes before words, in which anything may be quoted.
    if !matches!(status, 400 | 404) || BY_CODE.iter().any(|(known, _)| *known == code) {
        return false;
    }
    let message = error.message.to_ascii_lowercase();
    NO_MODEL_WORDS.iter().any(|words| has_in_order(&message, words))
}

/// Whether a text has all of these words, one behind the other.
fn has_in_order(text: &str, words: &[&str]) -> bool {
    let mut rest = text;
    words.iter().all(|word| match rest.split_once(word) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// The class of an answer with an error status.
pub fn classify(status: u16, error: &VendorError) -> Kind {
    if is_no_such_model(status, error) {
        return Kind::Unauthorized;
    }
    if let Some((_, kind)) = BY_CODE.iter().find(|(code, _)| *code == error.code) {
        return *kind;
    }
    if matches!(status, 400 | 413 | 422 | 500) {
        let message = error.message.to_ascii_lowercase();
        if CONTEXT_WORDS.iter().any(|words| message.contains(words)) {
            return Kind::ContextTooLong;
        }
    }
    match status {
        401 | 403 | 404 => Kind::Unauthorized,
        402 => Kind::OutOfQuota,
        408 | 504 => Kind::Timeout,
        429 => Kind::RateLimited,
        409 | 424 => Kind::ServerError,
        400..=499 => Kind::BadRequest,
        503 | 529 => Kind::Overloaded,
        500..=599 => Kind::ServerError,
        _ => Kind::BadResponse,
    }
}

/// The class of an error inside a stream, which has no status of its own.
pub fn classify_in_stream(error: &VendorError) -> Kind {
    classify(status_in_stream(error), error)
}

fn status_in_stream(error: &VendorError) -> u16 {
    error.status.unwrap_or(500)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, message: &str) -> VendorError {
        VendorError {
            retry_after: None,
            code: code.into(),
            message: message.into(),
            status: None,
        }
    }

    #[test]
    fn a_code_says_more_than_its_status() {
        assert_eq!(classify(429, &error("insufficient_quota", "")), Kind::OutOfQuota);
        assert_eq!(classify(429, &error("rate_limit_exceeded", "")), Kind::RateLimited);
        assert_eq!(
            classify(400, &error("context_length_exceeded", "")),
            Kind::ContextTooLong
        );
        assert_eq!(classify(404, &error("model_not_found", "")), Kind::Unauthorized);
        assert_eq!(classify(400, &error("content_filter", "")), Kind::Refused);
        assert_eq!(classify(400, &error("API_KEY_INVALID", "")), Kind::Unauthorized);
        assert_eq!(classify(429, &error("RESOURCE_EXHAUSTED", "")), Kind::RateLimited);
        assert_eq!(
            classify(429, &error("RESOURCE_EXHAUSTED_PER_DAY", "")),
            Kind::OutOfQuota
        );
    }

    #[test]
    fn statuses_follow_the_designs_table() {
        let kinds = [
            (400, Kind::BadRequest),
            (401, Kind::Unauthorized),
            (402, Kind::OutOfQuota),
            (403, Kind::Unauthorized),
            (408, Kind::Timeout),
            (409, Kind::ServerError),
            (413, Kind::BadRequest),
            (422, Kind::BadRequest),
            (429, Kind::RateLimited),
            (500, Kind::ServerError),
            (502, Kind::ServerError),
            (503, Kind::Overloaded),
            (504, Kind::Timeout),
            (529, Kind::Overloaded),
            (302, Kind::BadResponse),
        ];
        for (status, kind) in kinds {
            assert_eq!(classify(status, &VendorError::default()), kind, "status {status}");
        }
    }

    #[test]
    fn servers_without_codes_are_understood_by_their_words() {
        let vllm = error(
            "400",
            "This model's maximum context length is 4096 tokens. However, you requested 5000.",
        );
        assert_eq!(classify(400, &vllm), Kind::ContextTooLong);
        assert_eq!(
            classify(400, &error("", "temperature must be at most 2")),
            Kind::BadRequest
        );
    }

    #[test]
    fn client_errors_never_fall_back_and_blame_nobody() {
        for kind in [Kind::BadRequest, Kind::Refused] {
            assert_eq!((kind.fallback(), kind.blame()), (Fallback::Never, Blame::Nobody));
        }
    }

    /// As vendors say it. All are classed alike, and none blames anybody.
    #[test]
    fn a_missing_model_is_nobodys_fault() {
        for (status, code, message) in [
            (
                404,
                "model_not_found",
                "The model `x` does not exist or you do not have access to it.",
            ),
            (
                404,
                "DeploymentNotFound",
                "The API deployment for this resource does not exist.",
            ),
            (404, "not_found_error", "model: claude-9"),
            (404, "NOT_FOUND", "models/x is not found for API version v1beta"),
            (
                404,
                "ResourceNotFoundException",
                "Model use case details have not been submitted",
            ),
            (400, "ValidationException", "The provided model identifier is invalid."),
            (400, "invalid_model", "Invalid model: x"),
            (404, "NotFoundError", "The model `x` does not exist."),
            (404, "404", "The model `x` does not exist."),
            (404, "api_error", "model 'x' not found"),
            (400, "invalid_request_error", "Model Not Exist"),
            (400, "400", "x/y is not a valid model ID"),
            (404, "404", "No endpoints found for x/y."),
        ] {
            let missing = Failure::answered(status, error(code, message), None);
            assert_eq!(
                (missing.kind, missing.blame(), missing.no_such_model),
                (Kind::Unauthorized, Blame::Nobody, true),
                "{status} {code} {message}"
            );
        }
        let in_stream = Failure::in_answer(error("model_not_found", ""));
        assert_eq!(in_stream.blame(), Blame::Nobody);
    }

    #[test]
    fn a_refused_credential_rests_whatever_its_status() {
        for (status, code, message) in [
            (401, "invalid_api_key", ""),
            (401, "", "no model does not exist for this key"),
            (403, "PERMISSION_DENIED", ""),
            (
                403,
                "AccessDeniedException",
                "You don't have access to the model with the specified model ID.",
            ),
            (400, "API_KEY_INVALID", "API key not valid. The model x does not exist."),
            (
                400,
                "FAILED_PRECONDITION",
                "User location is not supported for the API use.",
            ),
        ] {
            let refused = Failure::answered(status, error(code, message), None);
            assert_eq!(
                (refused.kind, refused.blame()),
                (Kind::Unauthorized, Blame::Rest),
                "{status} {code}"
            );
        }
    }

    /// A wrong address answers with somebody else's page. A file that a client names and that is not there is the client's.
    #[test]
    fn what_is_not_there_and_gives_no_error_is_no_api() {
        let page = Failure::answered(404, error("", "<html>404 page not found</html>"), None);
        assert_eq!((page.kind, page.blame()), (Kind::Unauthorized, Blame::Target));
        let file = Failure::answered(404, error("invalid_request_error", "No such File object: file-1"), None);
        assert_eq!((file.blame(), file.no_such_model), (Blame::Nobody, false));
    }

    #[test]
    fn what_a_client_wrote_wrong_is_no_missing_model() {
        for (status, code, message) in [
            (
                400,
                "invalid_request_error",
                "temperature does not exist for this model",
            ),
            (422, "", "the model x does not exist"),
            (400, "content_filter", "model x not found"),
        ] {
            let failure = Failure::answered(status, error(code, message), None);
            assert!(!failure.no_such_model, "{status} {code} {message}");
        }
    }

    #[test]
    fn an_error_in_a_stream_is_classed_by_its_code() {
        assert_eq!(classify_in_stream(&error("server_is_overloaded", "")), Kind::Overloaded);
        let limited = VendorError {
            status: Some(429),
            ..error("TooManyRequests", "")
        };
        assert_eq!(classify_in_stream(&limited), Kind::RateLimited);
        let clients = VendorError {
            status: Some(400),
            ..error("BadRequestError", "")
        };
        assert_eq!(classify_in_stream(&clients), Kind::BadRequest);
        let too_long = error("", "This model's maximum context length is 4096 tokens.");
        assert_eq!(classify_in_stream(&too_long), Kind::ContextTooLong);
        assert_eq!(classify_in_stream(&error("odd", "")), Kind::ServerError);
    }
}
