//! Why a client gets an error instead of an answer. Variants say who is at fault and carry values; what the client reads is made of
//! them in one place and never contains what a vendor, a key or a path inside the gateway is called.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use crate::ballast::Full;
use crate::failure::{Failure, Kind};
use crate::policy::Rejection;
use crate::wire::{ErrorBody, Malformed};

/// See the module.
#[derive(Debug)]
pub enum Refusal {
    /// The client asked for something that is not here.
    UnknownPath(String),
    /// The path is right, the method is not.
    WrongMethod {
        /// What the path takes.
        allowed: &'static str,
    },
    /// There is no `host` where there must be one, or there are several.
    BadHost,
    /// The gateway has no such name.
    UnknownHost,
    /// A web page sent it that may not.
    ForeignPage,
    /// The gateway key is missing or not known.
    UnknownKey,
    /// The signature of the request is not that of its client.
    BadSignature(String),
    /// The body is compressed.
    UnknownEncoding,
    /// The body is longer than this.
    BodyTooLarge(usize),
    /// The body came too slowly to be waited for any longer than this.
    BodyTooSlow(Duration),
    /// The body broke off.
    BodyCutOff,
    /// The body is not a request.
    Malformed(Malformed),
    /// What the client names as a model cannot be the name of one.
    NoModelName,
    /// No route serves this model.
    UnknownModel(String),
    /// The gateway has as many requests in progress as it may.
    Busy,
    /// This client holds as much of the gateway as one client may.
    ShareUsed,
    /// A policy said no.
    Rejected(Rejection),
    /// A policy failed, and its route rejects then.
    PolicyFailed,
    /// The vendor's own answer, which is the client's business.
    Vendor(Box<Failure>),
    /// No target of the route can serve what this field of the request asks for.
    CannotBeCarried {
        /// The field, in the client's format.
        field: String,
        /// Why not.
        why: &'static str,
    },
    /// No target of the route has an API for this.
    NoApi,
    /// No target could answer.
    Exhausted(Exhausted),
}

/// What is known when nothing is left to try.
#[derive(Debug)]
pub struct Exhausted {
    /// Why each attempt failed; empty when no target could be tried at all.
    pub kinds: Vec<Kind>,
    /// All that were tried said that they are rate limited, and all others that rest do so because they had said so before.
    pub limited: bool,
    /// When it is worth coming back.
    pub retry_after: Duration,
}

/// An error answer, but for its format.
pub struct Told<'a> {
    /// HTTP status.
    pub status: StatusCode,
    /// What to write.
    pub body: ErrorBody<'a>,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// `Some(false)`: an SDK must not retry, the gateway has.
    pub should_retry: Option<bool>,
}

impl Refusal {
    /// What the client is told.
    pub fn told(&self) -> Told<'_> {
        match self {
            Refusal::Busy => Told {
                retry_after: Some(Duration::from_secs(1)),
                ..told(
                    503,
                    "service_unavailable_error",
                    "server_is_overloaded",
                    "the gateway is at its limit",
                )
            },
            Refusal::ShareUsed => Told {
                retry_after: Some(Duration::from_secs(1)),
                ..told(
                    429,
                    "rate_limit_error",
                    "too_many_requests",
                    "this client has as much in progress as one client may",
                )
            },
            Refusal::Rejected(rejection) => Told {
                retry_after: rejection.retry_after_ms.map(|ms| Duration::from_millis(ms.into())),
                should_retry: Some(false),
                ..told(
                    rejection.status,
                    "policy_error",
                    "rejected_by_policy",
                    rejection.message.as_str(),
                )
            },
            Refusal::PolicyFailed => Told {
                should_retry: Some(false),
                ..told(
                    503,
                    "policy_error",
                    "policy_failed",
                    "the route's policy failed, and the route does not go on without it",
                )
            },
            Refusal::Vendor(failure) => vendors(failure),
            Refusal::Exhausted(exhausted) => exhausted.told(),
            Refusal::BadHost | Refusal::UnknownHost | Refusal::ForeignPage => self.senders_fault(),
            clients => clients.clients_fault(),
        }
    }

    /// Requests that a browser may have sent for a web page.
    fn senders_fault(&self) -> Told<'_> {
        match self {
            Refusal::BadHost => told(400, INVALID, "invalid_host", "send one `host` header"),
            Refusal::UnknownHost => {
                let message = "the gateway has no such host name; the operator can add it to `hosts` of [server]";
                told(421, INVALID, "unknown_host", message)
            }
            _ => {
                let message =
                    "web pages of this origin may not send requests; the operator can add it to `origins` of [server]";
                told(403, "permission_error", "origin_not_allowed", message)
            }
        }
    }

    fn clients_fault(&self) -> Told<'_> {
        let invalid = |status, code, message: Cow<'static, str>| told(status, INVALID, code, message);
        match self {
            Refusal::UnknownPath(path) => {
                let there = "there are POST /v1/chat/completions, /v1/responses, /v1/embeddings, /v1/messages, \
                             /v1beta/models/{model}:generateContent and /model/{model}/converse, and GET /v1/models";
                invalid(404, "unknown_url", format!("unknown path {path}; {there}").into())
            }
            Refusal::WrongMethod { allowed } => {
                invalid(405, "method_not_allowed", format!("this path takes {allowed}").into())
            }
            Refusal::UnknownKey => {
                let message = "no known gateway key; send one as `authorization: Bearer KEY`";
                told(401, "authentication_error", "invalid_api_key", message)
            }
            Refusal::BadSignature(why) => {
                let mut told = told(403, "authentication_error", "invalid_signature", why.as_str());
                told.should_retry = Some(false);
                told
            }
            Refusal::UnknownEncoding => invalid(
                415,
                "unsupported_encoding",
                "send the body without `content-encoding`".into(),
            ),
            Refusal::BodyTooLarge(limit) => {
                let message = format!("the body is larger than {} MiB", limit / (1024 * 1024));
                invalid(413, "request_too_large", message.into())
            }
            Refusal::BodyTooSlow(limit) => {
                let message = format!(
                    "the body came too slowly: it was not there after {} ms",
                    limit.as_millis()
                );
                invalid(408, "request_timeout", message.into())
            }
            Refusal::BodyCutOff => invalid(400, "body_cut_off", "the body broke off".into()),
            Refusal::Malformed(malformed) => {
                let mut told = told(400, INVALID, "invalid_request", malformed.message.as_str());
                told.body.param = malformed.param.as_deref();
                told
            }
            Refusal::NoModelName => {
                let message = "the model's name is empty, `.` or `..`, or has a control character";
                let mut told = told(400, INVALID, "invalid_model", message);
                told.body.param = Some("model");
                told
            }
            Refusal::UnknownModel(model) => {
                let mut told = invalid(
                    404,
                    "model_not_found",
                    format!("no route serves the model `{model}`").into(),
                );
                told.body.param = Some("model");
                told
            }
            Refusal::CannotBeCarried { field, why } => {
                let message = format!("no target of this route can serve `{field}`: {why}");
                let mut told = told(400, INVALID, "unsupported_parameter", message);
                told.body.param = Some(field);
                told
            }
            Refusal::NoApi => invalid(
                400,
                "unsupported_api",
                "no target of this route has an API for this".into(),
            ),
            _ => told(500, "server_error", "internal_error", "the gateway failed"),
        }
    }

    /// For the log: what the client is not told.
    pub fn detail(&self) -> String {
        match self {
            Refusal::Vendor(failure) => format!("the vendor refused: {}", failure.detail),
            Refusal::Exhausted(exhausted) => {
                let kinds: Vec<&str> = exhausted.kinds.iter().map(|kind| kind.name()).collect();
                format!(
                    "no target is left: {}",
                    if kinds.is_empty() {
                        "none may be tried now".into()
                    } else {
                        kinds.join(", ")
                    }
                )
            }
            refusal => refusal.told().body.message.into_owned(),
        }
    }
}

const INVALID: &str = "invalid_request_error";

impl Exhausted {
    fn told(&self) -> Told<'static> {
        let all = |wanted: &[Kind]| !self.kinds.is_empty() && self.kinds.iter().all(|kind| wanted.contains(kind));
        if all(&[Kind::LocalLimit]) {
            return Refusal::Busy.told();
        }
        let told = if self.limited {
            told(
                429,
                "rate_limit_error",
                "rate_limit_exceeded",
                "all targets of this route are rate limited",
            )
        } else if all(&[Kind::Unauthorized, Kind::OutOfQuota]) {
            // Not 401: the client's own key is fine, and SDKs that cache tokens would loop.
            told(
                502,
                "server_error",
                "vendor_credentials",
                "no vendor accepted the gateway's credentials or model",
            )
        } else if all(&[Kind::Timeout]) {
            told(504, "server_error", "vendor_timeout", "no target answered in time")
        } else {
            told(
                503,
                "service_unavailable_error",
                "server_is_overloaded",
                "no target of this route could answer",
            )
        };
        Told {
            retry_after: Some(self.retry_after),
            should_retry: Some(false),
            ..told
        }
    }
}

/// What a client is told whose answer broke off after it had begun.
pub fn cut_off(failure: &Failure) -> ErrorBody<'static> {
    let message = match failure.kind {
        Kind::Timeout => "the vendor stopped answering",
        _ => "the vendor's answer broke off",
    };
    ErrorBody {
        status: 502,
        kind: "server_error",
        code: "answer_cut_off",
        param: None,
        message: message.into(),
    }
}

/// What a client is told of an error that the vendor put into its answer, in words that its SDK does not read.
pub fn in_stream(failure: &Failure) -> ErrorBody<'_> {
    let (status, kind) = match failure.kind {
        Kind::RateLimited => (429, "rate_limit_error"),
        Kind::Overloaded => (503, "service_unavailable_error"),
        Kind::BadRequest | Kind::ContextTooLong | Kind::Refused => (400, INVALID),
        _ => (502, "server_error"),
    };
    let message = if failure.detail.is_empty() {
        "the vendor's answer broke off"
    } else {
        failure.detail.as_str()
    };
    ErrorBody {
        status,
        kind,
        code: "answer_cut_off",
        param: None,
        message: message.into(),
    }
}

/// A vendor's refusal that has no bytes to pass on: it came inside a stream, or in another format than the client's.
fn vendors(failure: &Failure) -> Told<'_> {
    let message = match failure.kind {
        _ if !failure.detail.is_empty() => failure.detail.as_str(),
        Kind::ContextTooLong => "the prompt is longer than the model's context window",
        Kind::Refused => "the vendor's safety system refused the request",
        _ => "the vendor refused the request",
    };
    let code = match failure.kind {
        Kind::ContextTooLong => "context_length_exceeded",
        Kind::Refused => "content_filter",
        _ => "invalid_request",
    };
    Told {
        should_retry: Some(false),
        ..told(failure.status.unwrap_or(400), INVALID, code, message)
    }
}

fn told<'a>(status: u16, kind: &'static str, code: &'static str, message: impl Into<Cow<'a, str>>) -> Told<'a> {
    Told {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        body: ErrorBody {
            status,
            kind,
            code,
            param: None,
            message: message.into(),
        },
        retry_after: None,
        should_retry: None,
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        match full {
            Full::Gateway => Refusal::Busy,
            Full::Client => Refusal::ShareUsed,
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::Malformed(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exhausted(kinds: &[Kind]) -> u16 {
        let retry_after = Duration::from_secs(1);
        let told = Refusal::Exhausted(Exhausted {
            kinds: kinds.to_vec(),
            limited: kinds == [Kind::RateLimited],
            retry_after,
        });
        let is_gateways = kinds == [Kind::LocalLimit];
        assert_eq!(told.told().should_retry, Some(false).filter(|_| !is_gateways));
        assert_eq!(told.told().body.message == "the gateway is at its limit", is_gateways);
        told.told().status.as_u16()
    }

    #[test]
    fn what_is_left_of_a_request_that_nobody_answered() {
        assert_eq!(exhausted(&[]), 503);
        assert_eq!(exhausted(&[Kind::ServerError, Kind::Timeout]), 503);
        assert_eq!(exhausted(&[Kind::RateLimited]), 429);
        assert_eq!(exhausted(&[Kind::Unauthorized, Kind::OutOfQuota]), 502);
        assert_eq!(exhausted(&[Kind::Timeout]), 504);
        assert_eq!(exhausted(&[Kind::LocalLimit]), 503);
    }
}
