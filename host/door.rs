//! The door: what a client came for, who it is, and its body within limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header, request};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::refusal::Refusal;
use crate::wire::Format;

/// What a client came for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// An answer of a model.
    Ask(Format),
    /// The names of all models.
    Models,
    /// One model.
    Model(String),
}

/// The format in which errors are told before the errand is known.
pub const DEFAULT_FORMAT: Format = Format::OpenAiChat;

const MODELS: &str = "/v1/models";

/// Reads the errand from method and path.
pub fn errand(head: &request::Parts) -> Result<Errand, Refusal> {
    let path = head.uri.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let (errand, allowed) = match path {
        "/v1/chat/completions" => (Errand::Ask(Format::OpenAiChat), Method::POST),
        MODELS => (Errand::Models, Method::GET),
        other => match other.strip_prefix(MODELS).and_then(|rest| rest.strip_prefix('/')) {
            Some(model) => (Errand::Model(percent_decoded(model)), Method::GET),
            None => return Err(Refusal::UnknownPath(path.chars().take(200).collect())),
        },
    };
    if head.method != allowed {
        return Err(Refusal::WrongMethod {
            allowed: if allowed == Method::POST { "POST" } else { "GET" },
        });
    }
    if head
        .headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        return Err(Refusal::UnknownEncoding);
    }
    Ok(errand)
}

/// A model's name in a path: SDKs write `a%2Fb` and `a/b` alike.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2)).flatten();
        let decoded = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The gateway key, wherever an SDK of an OpenAI format puts it.
pub fn key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| text("api-key")).or_else(|| text("x-api-key"))
}

/// Reads a body whole, within its limit and its time.
pub async fn read(body: &mut Incoming, limit: usize, within: Duration) -> Result<Bytes, Refusal> {
    // Said beforehand, it need not even come.
    if body.size_hint().lower() > limit as u64 {
        return Err(Refusal::BodyTooLarge(limit));
    }
    tokio::time::timeout(within, collect(body, limit))
        .await
        .map_err(|_| Refusal::BodyTooSlow(within))?
}

async fn collect(body: &mut Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let expected = body
        .size_hint()
        .exact()
        .filter(|bytes| *bytes > 0)
        .map(|bytes| bytes as usize);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BodyCutOff)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Refusal::BodyTooLarge(limit));
        }
        // Most bodies come in one piece, which then is not copied.
        if Some(data.len()) == expected {
            return Ok(data);
        }
        if whole.is_empty() {
            whole.reserve(expected.unwrap_or(data.len()));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads what is left of a refused body, for a moment. A connection that is closed on unread bytes is reset, and the client would
/// never read why it was refused.
pub async fn discard(head: &request::Parts, mut body: Incoming) {
    const MOMENT: Duration = Duration::from_secs(2);
    // Whoever waits to be asked for the body reads the refusal first.
    if body.is_end_stream() || head.headers.contains_key(header::EXPECT) {
        return;
    }
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(MOMENT, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, path: &str) -> request::Parts {
        http::Request::builder()
            .method(method)
            .uri(path)
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    #[test]
    fn knows_what_clients_come_for() {
        assert_eq!(
            errand(&head("POST", "/v1/chat/completions?x=1")).unwrap(),
            Errand::Ask(Format::OpenAiChat)
        );
        assert_eq!(errand(&head("GET", "/v1/models/")).unwrap(), Errand::Models);
        assert_eq!(
            errand(&head("GET", "/v1/models/org%2Fname")).unwrap(),
            Errand::Model("org/name".into())
        );
        assert_eq!(
            errand(&head("GET", "/v1/models/org/name%zz")).unwrap(),
            Errand::Model("org/name%zz".into())
        );
        assert!(matches!(
            errand(&head("GET", "/v1/chat/completions")),
            Err(Refusal::WrongMethod { allowed: "POST" })
        ));
        assert!(matches!(errand(&head("GET", "/v2")), Err(Refusal::UnknownPath(_))));
    }

    #[test]
    fn finds_the_key() {
        let headers =
            |name: &'static str, value: &str| HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        assert_eq!(key(&headers("authorization", "bearer abc")), Some("abc"));
        assert_eq!(key(&headers("authorization", "Basic abc")), None);
        assert_eq!(key(&headers("api-key", "abc")), Some("abc"));
        assert_eq!(key(&HeaderMap::new()), None);
    }
}
