//! A request that is refused: the status, type, code and words that OpenAI's error reference has.

use std::borrow::Cow;

use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde_json::json;

use super::{Answer, respond, whole_body};

/// A request that is not answered but refused, told as OpenAI tells it.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) param: Option<&'static str>,
    pub(super) message: Cow<'static, str>,
}

impl Refusal {
    /// The simulated vendor fails with this status. Types and codes are those of OpenAI's error reference.
    pub(super) fn simulated(status: u16) -> Self {
        let (kind, code) = match status {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            402 => ("insufficient_quota", Some("insufficient_quota")),
            404 => ("invalid_request_error", Some("model_not_found")),
            408 | 504 => ("timeout", Some("timeout")),
            429 => ("requests", Some("rate_limit_exceeded")),
            400..500 => ("invalid_request_error", None),
            503 | 529 => ("service_unavailable_error", Some("server_is_overloaded")),
            _ => ("server_error", Some("server_error")),
        };
        let message = format!("This is a simulated vendor, which failed with {status} because its error mix says so.");
        Self {
            status,
            kind,
            code,
            param: None,
            message: message.into(),
        }
    }

    /// The request itself is at fault.
    pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: None,
            param: None,
            message: message.into(),
        }
    }

    /// One parameter of the request is at fault.
    pub(super) fn bad_parameter(param: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            param: Some(param),
            ..Self::bad_request(message)
        }
    }

    /// The body is not JSON, or not of the shape that it should have.
    pub(super) fn unreadable(error: &serde_json::Error) -> Self {
        let what = if error.is_data() {
            "Invalid request"
        } else {
            "We could not parse the JSON body of your request"
        };
        Self::bad_request(format!("{what}: {error}"))
    }

    pub(super) fn unknown_url(method: &Method, path: &str) -> Self {
        let message = format!("Unknown request URL: {method} {path}. No simulated vendor answers there.");
        Self {
            status: 404,
            code: Some("unknown_url"),
            ..Self::bad_request(message)
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let Self {
            kind,
            code,
            param,
            message,
            ..
        } = self;
        let error = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
        let mut answer = respond("application/json", whole_body(error.to_string().into()));
        *answer.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.status == 429 {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}
