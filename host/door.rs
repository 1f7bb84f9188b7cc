//! The door: what a client came for, who it is, and its body within limits.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http::{HeaderName, header, request};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use crate::ballast::Load;
use crate::chat::MAX_NAME;
use crate::config::Server;
use crate::credential::aws;
use crate::exchange::Operation;
use crate::model_name;
use crate::refusal::Refusal;
use crate::snapshot::Client;
use crate::wire::Format;

/// What a client came for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Something of a model.
    Ask(Ask),
    /// The names of all models, in the words of a format.
    Models(Format),
    /// One model, in the words of a format.
    Model(Format, String),
}

/// What a client wants of a model, as far as method and path say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The wire format.
    pub format: Format,
    /// What is wanted.
    pub operation: Operation,
    /// The model, where the path names it.
    pub model: Option<String>,
    /// Whether it is to be a stream, where the path says so.
    pub streaming: bool,
    /// A stream is to be one JSON array.
    pub as_array: bool,
}

impl Errand {
    /// The model that the path names.
    fn model(&self) -> Option<&str> {
        match self {
            Errand::Ask(ask) => ask.model.as_deref(),
            Errand::Models(_) => None,
            Errand::Model(_, model) => Some(model),
        }
    }

    fn format(&self) -> Format {
        match self {
            Errand::Ask(ask) => ask.format,
            Errand::Models(format) | Errand::Model(format, _) => *format,
        }
    }
}

impl Ask {
    /// An answer in a format whose body says everything.
    pub const fn of(format: Format) -> Self {
        Self {
            format,
            operation: Operation::Answer,
            model: None,
            streaming: false,
            as_array: false,
        }
    }
}

const MODELS: &str = "/v1/models";

/// What is known of a client before its body is read.
pub struct Visit {
    /// The format in which it is told what is wrong, known from path and headers alone.
    pub format: Format,
    /// What it came for.
    pub errand: Result<Errand, Refusal>,
}

/// Reads method, path and headers.
pub fn visit(head: &request::Parts) -> Visit {
    let Some((errand, allowed)) = errand_of(head) else {
        let path = head.uri.path();
        return Visit {
            format: format_of_unknown(path, head),
            errand: Err(Refusal::UnknownPath(path.chars().take(200).collect())),
        };
    };
    let is_encoded = |encoding| encoding != "identity";
    Visit {
        format: errand.format(),
        errand: if !allowed.split(", ").any(|allowed| head.method == allowed) {
            Err(Refusal::WrongMethod { allowed })
        } else if head.headers.get(header::CONTENT_ENCODING).is_some_and(is_encoded) {
            Err(Refusal::UnknownEncoding)
        } else if errand.model().is_some_and(|model| !model_name::is_usable(model)) {
            Err(Refusal::NoModelName)
        } else {
            Ok(errand)
        },
    }
}

/// What a client probably speaks that came for something unknown.
fn format_of_unknown(path: &str, head: &request::Parts) -> Format {
    if path.starts_with("/v1beta") {
        Format::Gemini
    } else if path.starts_with("/model/") {
        Format::Converse
    } else if path.starts_with("/v1/messages") || head.headers.contains_key("anthropic-version") {
        Format::Messages
    } else {
        Format::OpenAiChat
    }
}

/// The errand of a path, and the methods that it takes.
fn errand_of(head: &request::Parts) -> Option<(Errand, &'static str)> {
    let path = head.uri.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let ask = |ask| Some((Errand::Ask(ask), "POST"));
    let format = match path {
        "/v1/chat/completions" | "/openai/v1/chat/completions" => Format::OpenAiChat,
        "/v1/responses" | "/openai/v1/responses" | "/openai/responses" => Format::Responses,
        "/v1/embeddings" | "/openai/v1/embeddings" => Format::Embeddings,
        "/v1/messages" => Format::Messages,
        "/v1/messages/count_tokens" => {
            return ask(Ask {
                operation: Operation::Count,
                ..Ask::of(Format::Messages)
            });
        }
        other => {
            let found = azure_classic(other)
                .or_else(|| bedrock(other))
                .or_else(|| gemini(other, head.uri.query()));
            return found
                .map(|ask| (Errand::Ask(ask), "POST"))
                .or_else(|| models(other, head));
        }
    };
    ask(Ask::of(format))
}

/// `/openai/deployments/{model}/…`, with a version in the query that nothing depends on.
fn azure_classic(path: &str) -> Option<Ask> {
    let (model, resource) = path.strip_prefix("/openai/deployments/")?.split_once('/')?;
    let format = match resource {
        "chat/completions" => Format::OpenAiChat,
        "embeddings" => Format::Embeddings,
        _ => return None,
    };
    Some(Ask {
        model: Some(percent_decoded(model)),
        ..Ask::of(format)
    })
}

/// `/model/{model}/converse` and `/converse-stream`.
fn bedrock(path: &str) -> Option<Ask> {
    let (model, action) = path.strip_prefix("/model/")?.rsplit_once('/')?;
    Some(Ask {
        model: Some(percent_decoded(model)),
        streaming: match action {
            "converse" => false,
            "converse-stream" => true,
            _ => return None,
        },
        ..Ask::of(Format::Converse)
    })
}

/// `/v1beta/models/{model}:generateContent` and its siblings, in AI Studio's and in Vertex's paths.
fn gemini(path: &str, query: Option<&str>) -> Option<Ask> {
    let (model, action) = path.rsplit_once(':')?;
    let (before, model) = model.split_once("/models/")?;
    let mut places = before.split('/').skip(1);
    let is_ours = matches!(places.next(), Some("v1" | "v1beta" | "v1beta1"))
        && matches!(places.next(), None | Some("projects" | "publishers" | "tunedModels"));
    let operation = match action {
        "generateContent" | "streamGenerateContent" => Operation::Answer,
        "countTokens" => Operation::Count,
        _ => return None,
    };
    let streaming = action == "streamGenerateContent";
    let as_events = query.is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
    is_ours.then(|| Ask {
        operation,
        model: Some(percent_decoded(model)),
        streaming,
        as_array: streaming && !as_events,
        ..Ask::of(Format::Gemini)
    })
}

/// Models are listed at the same path by the SDKs of OpenAI, Anthropic and Google: headers tell them apart.
fn models(path: &str, head: &request::Parts) -> Option<(Errand, &'static str)> {
    let has = |name: &str| head.headers.contains_key(name);
    let rest = path.strip_prefix(MODELS).map(|rest| {
        let format = if has("anthropic-version") {
            Format::Messages
        } else if has("x-goog-api-key") {
            Format::Gemini
        } else {
            Format::OpenAiChat
        };
        (format, rest)
    });
    let rest = rest
        .or_else(|| Some((Format::OpenAiChat, path.strip_prefix("/openai/v1/models")?)))
        .or_else(|| Some((Format::Gemini, path.strip_prefix("/v1beta/models")?)));
    let (format, rest) = rest?;
    let errand = match rest.strip_prefix('/') {
        None if rest.is_empty() => Errand::Models(format),
        None => return None,
        Some(model) => Errand::Model(format, percent_decoded(model)),
    };
    Some((errand, "GET, HEAD"))
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

/// The gateway key, wherever an SDK puts its key. A client of AWS that signs its requests shows the id of its key.
pub fn key(head: &request::Parts) -> Option<Cow<'_, str>> {
    let text = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = text(&header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(key.trim());
        }
        let credential = key.split_once("Credential=").filter(|_| scheme == SIGNED)?.1;
        credential.split('/').next()
    });
    let in_query = || {
        let pairs = head.uri.query()?.split('&');
        pairs.filter_map(|pair| pair.strip_prefix("key=")).next()
    };
    let plain = authorization.or_else(|| OTHER_KEYS.iter().find_map(text));
    plain
        .map(Cow::Borrowed)
        .or_else(|| in_query().map(percent_decoded).map(Cow::Owned))
}

/// Where SDKs put their keys beside `authorization`.
const OTHER_KEYS: [HeaderName; 3] = [
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// The scheme of requests that are signed as AWS wants it.
pub const SIGNED: &str = "AWS4-HMAC-SHA256";

/// Verifies the signature of a client that signs its requests, where the operator has configured what with.
pub fn verify(head: &request::Parts, body: &[u8], client: &Client) -> Result<(), Refusal> {
    let Some((id, secret)) = &client.signed_with else {
        return Ok(());
    };
    // Who shows another key of the same client proves with it who it is; the id alone proves nothing.
    if key(head).as_deref() != Some(id.as_str()) {
        return Ok(());
    }
    aws::verify(head, body, id, secret, SystemTime::now()).map_err(|why| Refusal::BadSignature(why.to_string()))
}

const SESSION: HeaderName = HeaderName::from_static("x-pointsman-session");

/// The session that a client names in a header; it goes before what the body says.
pub fn session(head: &request::Parts) -> Option<String> {
    let named = head.headers.get(&SESSION)?.to_str().ok()?;
    (named.len() <= MAX_NAME).then(|| named.to_owned())
}

/// Reads a body whole, within its limits. It takes room in `load` as it arrives.
pub async fn read(body: &mut Incoming, load: Load, server: &Server) -> Result<Bytes, Refusal> {
    // Said beforehand, it need not even come.
    if body.size_hint().lower() > server.max_body_bytes as u64 {
        return Err(Refusal::BodyTooLarge(server.max_body_bytes));
    }
    let arrived = AtomicUsize::new(0);
    let mut collected = std::pin::pin!(collect(body, load, server.max_body_bytes, &arrived));
    // Mostly it came together with the head, and needs no timer.
    if let Some(body) = poll_immediate(&mut collected).await {
        return body;
    }
    let started = Instant::now();
    let mut allowed = server.time_for_body(0);
    loop {
        if let Ok(body) = tokio::time::timeout_at(started + allowed, &mut collected).await {
            return body;
        }
        let more = server.time_for_body(arrived.load(Ordering::Relaxed));
        if more <= allowed {
            return Err(Refusal::BodyTooSlow(allowed));
        }
        allowed = more;
    }
}

async fn collect(body: &mut Incoming, mut load: Load, limit: usize, arrived: &AtomicUsize) -> Result<Bytes, Refusal> {
    let expected = body
        .size_hint()
        .exact()
        .filter(|bytes| *bytes > 0)
        .map(|bytes| bytes as usize);
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::BodyCutOff)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Refusal::BodyTooLarge(limit));
        }
        // Most bodies come in one piece, which then is not copied.
        if Some(data.len()) == expected {
            load.grow_to(data.len())?;
            return Ok(load.of(data));
        }
        load.extend(&mut whole, data.len(), expected.unwrap_or(limit))?;
        whole.extend_from_slice(&data);
        arrived.store(whole.len(), Ordering::Relaxed);
    }
    Ok(load.of(whole.into()))
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

    fn errand(method: &str, path: &str) -> Result<Errand, Refusal> {
        visit(&head(method, path)).errand
    }

    fn ask(path: &str) -> Ask {
        match errand("POST", path).unwrap() {
            Errand::Ask(ask) => ask,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn knows_what_clients_come_for() {
        for (path, format) in [
            ("/v1/chat/completions?x=1", Format::OpenAiChat),
            ("/v1/responses", Format::Responses),
            ("/v1/embeddings", Format::Embeddings),
            ("/v1/messages?beta=true", Format::Messages),
        ] {
            assert_eq!(ask(path), Ask::of(format), "{path}");
        }
        assert_eq!(ask("/v1/messages/count_tokens").operation, Operation::Count);
        assert_eq!(
            errand("GET", "/v1/models/").unwrap(),
            Errand::Models(Format::OpenAiChat)
        );
        assert_eq!(
            errand("GET", "/v1/models/org%2Fname").unwrap(),
            Errand::Model(Format::OpenAiChat, "org/name".into())
        );
        assert_eq!(
            errand("GET", "/v1/models/org/name%zz").unwrap(),
            Errand::Model(Format::OpenAiChat, "org/name%zz".into())
        );
        assert_eq!(errand("GET", "/v1beta/models").unwrap(), Errand::Models(Format::Gemini));
        assert_eq!(
            errand("HEAD", "/v1/models").unwrap(),
            Errand::Models(Format::OpenAiChat)
        );
        assert!(matches!(
            errand("HEAD", "/v1/chat/completions"),
            Err(Refusal::WrongMethod { allowed: "POST" })
        ));
        assert!(matches!(
            errand("PUT", "/v1/models"),
            Err(Refusal::WrongMethod { allowed: "GET, HEAD" })
        ));
        for path in ["/v2", "/v1/modelsx", "/model/x/invoke", "/v1/projects/x"] {
            assert!(matches!(errand("GET", path), Err(Refusal::UnknownPath(_))), "{path}");
        }
    }

    #[test]
    fn reads_models_out_of_paths() {
        for path in [
            "/v1/models/a%2Fb:streamGenerateContent?alt=sse",
            "/v1beta/models/a/b:streamGenerateContent?alt=sse",
            "/v1beta1/projects/p/locations/l/publishers/google/models/a%2Fb:streamGenerateContent?x=y&alt=sse",
        ] {
            let ask = ask(path);
            assert_eq!(
                (ask.format, ask.model.as_deref()),
                (Format::Gemini, Some("a/b")),
                "{path}"
            );
            assert!(ask.streaming && !ask.as_array, "{path}");
        }
        assert!(ask("/v1/models/m:streamGenerateContent").as_array);
        assert_eq!(ask("/v1/models/m:countTokens").operation, Operation::Count);
        let converse = ask("/model/us.anthropic.claude-v1%3A0/converse-stream");
        assert_eq!(converse.model.as_deref(), Some("us.anthropic.claude-v1:0"));
        assert!(converse.streaming);
        assert_eq!(
            ask("/openai/deployments/d/chat/completions?api-version=1")
                .model
                .as_deref(),
            Some("d")
        );
    }

    #[test]
    fn finds_the_key() {
        let with = |name: &str, value: &str| {
            let mut head = head("GET", "/");
            head.headers
                .insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
            key(&head).map(Cow::into_owned)
        };
        assert_eq!(with("authorization", "bearer abc").as_deref(), Some("abc"));
        assert_eq!(with("authorization", "Basic abc"), None);
        let signed = "AWS4-HMAC-SHA256 Credential=AKIA1/20261124/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0";
        assert_eq!(with("authorization", signed).as_deref(), Some("AKIA1"));
        for name in ["api-key", "x-api-key", "x-goog-api-key"] {
            assert_eq!(with(name, "abc").as_deref(), Some("abc"));
        }
        assert_eq!(key(&head("GET", "/v1/models?key=a%20b")).as_deref(), Some("a b"));
        assert_eq!(key(&head("GET", "/")), None);
    }
}
