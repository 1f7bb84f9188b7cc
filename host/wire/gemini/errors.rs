//! Errors in Google's shape: `{"error": {"code", "message", "status", "details"}}`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::object::{Object, list, text};
use crate::failure::VendorError;
use crate::wire::{ErrorBody, openai_chat};

/// The code of a quota that comes back no sooner than tomorrow, which Google tells by the quota's name only.
pub const DAILY_QUOTA: &str = "RESOURCE_EXHAUSTED_PER_DAY";

/// Reads a vendor's error answer; a stream without SSE has it inside a list.
pub fn vendor(body: &[u8]) -> VendorError {
    match google(body) {
        Some(error) => read(error),
        None => openai_chat::vendor_error(body),
    }
}

/// The error in an answer of Google's.
fn google(body: &[u8]) -> Option<&RawValue> {
    let body: &RawValue = serde_json::from_slice(body).ok()?;
    let outer = Object::of(list(body)?.first()?)?;
    let error = outer.get("error")?;
    let fields = Object::of(error)?;
    (fields.get("status").is_some() || fields.get("details").is_some()).then_some(error)
}

/// Whether a client of Google's can read an error answer: it looks for an object with a code and a message.
pub fn is_readable(body: &[u8]) -> bool {
    let error = serde_json::from_slice::<&RawValue>(body)
        .ok()
        .and_then(Object::of)
        .and_then(|outer| outer.object("error"));
    error.is_some_and(|error| error.count("code").is_some() && error.text("message").is_some())
}

/// Reads the value of an `error` field.
pub fn read(raw: &RawValue) -> VendorError {
    let Some(fields) = Object::of(raw) else {
        let message = text(raw).unwrap_or(Cow::Borrowed(raw.get())).into_owned();
        return VendorError {
            message,
            ..VendorError::default()
        };
    };
    let status = fields.count("code").and_then(|code| u16::try_from(code).ok());
    VendorError {
        code: code(&fields).unwrap_or_default(),
        status: status.filter(|status| (400..600).contains(status)),
        message: fields.text("message").unwrap_or_default().into_owned(),
        retry_after: retry_info(&fields),
    }
}

/// The wait of `google.rpc.RetryInfo`, which Google states nowhere else: `"retryDelay": "3.5s"`, always in seconds.
fn retry_info(error: &Object<'_>) -> Option<Duration> {
    let mut details = error.list("details").into_iter().filter_map(Object::of);
    details.find_map(|detail| {
        let seconds = detail.text("retryDelay")?.strip_suffix('s')?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    })
}

/// The most precise word: the reason in the details, where there is one, and the status otherwise.
fn code(error: &Object<'_>) -> Option<String> {
    let mut reason = None;
    for detail in error.list("details").into_iter().filter_map(Object::of) {
        let violations = detail.list("violations").into_iter().filter_map(Object::of);
        let is_daily = |it: Object<'_>| it.text("quotaId").is_some_and(|id| id.contains("PerDay"));
        if violations.into_iter().any(is_daily) {
            return Some(DAILY_QUOTA.to_owned());
        }
        reason = reason.or(detail.text("reason").filter(|reason| !reason.is_empty()));
    }
    let plain = || {
        error
            .text("status")
            .or_else(|| error.text("code"))
            .or_else(|| error.text("type"))
    };
    reason.or_else(plain).map(Cow::into_owned)
}

/// Writes an error.
pub fn write(error: &ErrorBody<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Outer<'a> {
        error: Inner<'a>,
    }
    #[derive(Serialize)]
    struct Inner<'a> {
        code: u16,
        message: &'a str,
        status: &'a str,
        details: [Detail<'a>; 1],
    }
    #[derive(Serialize)]
    struct Detail<'a> {
        #[serde(rename = "@type")]
        kind: &'a str,
        reason: &'a str,
        domain: &'a str,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<&'a str, &'a str>,
    }
    let detail = Detail {
        kind: "type.googleapis.com/google.rpc.ErrorInfo",
        reason: error.code,
        domain: "pointsman",
        metadata: error.param.map(|field| ("field", field)).into_iter().collect(),
    };
    let inner = Inner {
        code: error.status,
        message: &error.message,
        status: status(error.status),
        details: [detail],
    };
    serde_json::to_vec(&Outer { error: inner }).expect("strings serialise")
}

/// Google's name for an HTTP status.
fn status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        402 | 412 => "FAILED_PRECONDITION",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        408 | 504 => "DEADLINE_EXCEEDED",
        400..=499 => "INVALID_ARGUMENT",
        501 => "UNIMPLEMENTED",
        502 | 503 | 529 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}
