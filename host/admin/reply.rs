//! What operators get back: a status and a body of text or JSON.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

/// One answer of the listener for operators.
pub struct Reply {
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
    /// A header that only this kind of answer has.
    extra: Option<Box<(header::HeaderName, HeaderValue)>>,
}

/// The media type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

impl Reply {
    /// A body of the given media type.
    pub fn new(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            kind,
            body: body.into(),
            extra: None,
        }
    }

    /// One line for people and probes.
    pub fn text(status: StatusCode, text: &'static str) -> Self {
        Self::new(status, TEXT, text)
    }

    /// A value as indented JSON: people read it, too.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        Self::new(status, JSON, serde_json::to_vec_pretty(value).unwrap_or_default())
    }

    /// A value with status 200.
    pub fn ok(value: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, value)
    }

    /// An error in words that say what to do.
    pub fn problem(status: StatusCode, error: &str) -> Self {
        Self::json(status, &json!({ "error": error }))
    }

    /// The same answer with one more header.
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.extra = Some(Box::new((name, value)));
        self
    }

    /// The answer as it is sent. No web page may read, embed or cache it.
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(extra) = self.extra {
            headers.insert(extra.0, extra.1);
        }
        response
    }
}
