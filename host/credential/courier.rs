//! The courier: one small request to whoever gives credentials out, within limits of time and size. It follows no redirect, for what
//! it carries is not for others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::timeout;

use super::{Error, Fault, Object};
use crate::config::Secret;
use crate::connect_error::Cause;
use crate::connection::{AnswerBody, Connections, Keep, Reach, SendError};
use crate::dialer::{Dial, Endpoint};

/// See the module.
#[derive(Clone)]
pub struct Courier {
    dialer: Arc<dyn Dial>,
    /// How long a connection may take, TLS included.
    pub connect: Duration,
    /// How long the whole answer may take, the connection included.
    pub answer: Duration,
}

/// A request.
pub(super) struct Letter {
    /// Who is asked, for errors: `the metadata server`.
    pub who: &'static str,
    /// What to do if it fails.
    pub instead: &'static str,
    pub method: Method,
    /// Where to, query included.
    pub url: Uri,
    pub headers: Vec<(&'static str, Secret)>,
    /// The body, if there is one.
    pub form: Vec<(&'static str, Secret)>,
    /// A shorter limit than the courier's own, for addresses where nobody may live.
    pub within: Option<Duration>,
}

/// An answer that says yes.
pub(super) struct Reply {
    who: &'static str,
    host: String,
    /// What was sent and must not come back in an error.
    secrets: Vec<Secret>,
    body: Bytes,
}

/// Bytes of an answer: tokens have 1 to 8 KiB.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Characters of an error message that are worth repeating.
const MAX_SAID: usize = 300;

impl Courier {
    /// Five seconds for everything.
    pub fn new(dialer: Arc<dyn Dial>) -> Self {
        const PATIENCE: Duration = Duration::from_secs(5);
        Self {
            dialer,
            connect: PATIENCE,
            answer: PATIENCE,
        }
    }

    /// Sends a letter and waits for the answer.
    pub(super) async fn ask(&self, letter: Letter) -> Result<Reply, Error> {
        let within = letter.within.unwrap_or(self.answer);
        let endpoint = Endpoint::of(&letter.url);
        let answered = timeout(within, self.exchange(&letter, endpoint)).await;
        let (status, body) = answered
            .unwrap_or_else(|_| Err(format!("none within {} ms", within.as_millis()).into()))
            .map_err(|fault| fault.error(|fault| letter.unreachable(fault)))?;
        if !status.is_success() {
            return Err(letter.refused(status, &body));
        }
        Ok(Reply {
            who: letter.who,
            host: letter.host(),
            secrets: letter.secrets(),
            body,
        })
    }

    async fn exchange(&self, letter: &Letter, endpoint: Endpoint) -> Result<(StatusCode, Bytes), Fault> {
        // There are hours between two letters: no connection is worth keeping.
        let keep = Keep {
            per_endpoint: 0,
            idle: Duration::ZERO,
            age: Duration::ZERO,
        };
        let connections = Arc::new(Connections::new(keep, self.dialer.clone()));
        let request = letter.request(&endpoint)?;
        let endpoint = Arc::new(endpoint);
        let sent = connections
            .send(&endpoint, || request.clone(), || true, Reach::within(self.connect))
            .await;
        let answer = sent.map_err(|error| match &error {
            SendError::Connect { error: why, .. } if why.cause == Cause::LocalLimit => Fault::Here(error.to_string()),
            _ => Fault::There(error.to_string()),
        })?;
        let body = read(answer.body).await?;
        Ok((answer.head.status, body))
    }
}

impl Letter {
    /// A question without a body.
    pub(super) fn get(who: &'static str, url: Uri, instead: &'static str) -> Self {
        Self {
            who,
            instead,
            method: Method::GET,
            url,
            headers: Vec::new(),
            form: Vec::new(),
            within: None,
        }
    }

    /// A form.
    pub(super) fn post(who: &'static str, url: Uri, instead: &'static str) -> Self {
        Self {
            method: Method::POST,
            ..Self::get(who, url, instead)
        }
    }

    /// Adds a header.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, Secret::new(value)));
        self
    }

    /// Adds a field of the form.
    pub(super) fn field(mut self, name: &'static str, value: &str) -> Self {
        self.form.push((name, Secret::new(value)));
        self
    }

    fn host(&self) -> String {
        Endpoint::of(&self.url).authority()
    }

    fn request(&self, endpoint: &Endpoint) -> Result<Request<Full<Bytes>>, String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(self.form.iter().map(|(name, value)| (name, value.reveal())));
        let mut request = Request::new(Full::new(Bytes::from(form.finish())));
        *request.method_mut() = self.method.clone();
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| "its address has no path".to_owned())?;
        *request.headers_mut() = self.headers(endpoint)?;
        Ok(request)
    }

    fn headers(&self, endpoint: &Endpoint) -> Result<HeaderMap, String> {
        const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut headers = HeaderMap::new();
        let host = endpoint.authority().parse();
        headers.insert(header::HOST, host.map_err(|_| "its address is none".to_owned())?);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if !self.form.is_empty() {
            headers.insert(header::CONTENT_TYPE, FORM);
        }
        for (name, value) in &self.headers {
            let mut value = HeaderValue::from_str(value.reveal())
                .map_err(|_| format!("the header `{name}` cannot carry what it should"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }

    fn unreachable(&self, fault: String) -> Error {
        Error::Unreachable {
            who: self.who,
            host: self.host(),
            fault,
            instead: self.instead,
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Error {
        Error::Refused {
            who: self.who,
            host: self.host(),
            status: status.as_u16(),
            said: self.quotable(&said(body)),
            instead: self.instead,
        }
    }

    fn quotable(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets() {
            text = secret.redact(&text);
        }
        text.chars().filter(|c| !c.is_control()).take(MAX_SAID).collect()
    }

    /// What was sent and is long enough to be worth hiding; `true` and `refresh_token` are not.
    fn secrets(&self) -> Vec<Secret> {
        const SHORTEST: usize = 8;
        let public = [
            "grant_type",
            "scope",
            "client_id",
            "client_assertion_type",
            "Action",
            "Version",
        ];
        let sent = self.headers.iter().chain(&self.form);
        sent.filter(|(name, value)| !public.contains(name) && value.reveal().len() >= SHORTEST)
            .map(|(_, value)| value.clone())
            .collect()
    }
}

impl Reply {
    /// The answer as an object.
    pub(super) fn object(&self) -> Result<Object, Error> {
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(object)) => Ok(object),
            _ => Err(self.malformed("is not a JSON object")),
        }
    }

    /// The answer as a line of text.
    pub(super) fn line(&self) -> Result<String, Error> {
        let text = std::str::from_utf8(&self.body).map_err(|_| self.malformed("is not text"))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() {
            return Err(self.malformed("is empty"));
        }
        Ok(line.to_owned())
    }

    /// The error for an answer that lacks something. `fault` goes on after `an answer that`.
    pub(super) fn malformed(&self, fault: &str) -> Error {
        let mut fault = fault.to_owned();
        for secret in &self.secrets {
            fault = secret.redact(&fault);
        }
        Error::Malformed {
            who: self.who,
            host: self.host.clone(),
            fault,
        }
    }
}

/// Whether secrets may be sent there: over TLS, or not over a network at all.
pub(super) fn is_safe(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    url.scheme_str() == Some("https") || (url.scheme_str() == Some("http") && is_here)
}

/// An address from a variable or a file.
pub(super) fn url(place: &str, text: &str) -> Result<Uri, Error> {
    let url = text.parse::<Uri>().ok();
    url.filter(|url| url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https")))
        .ok_or_else(|| Error::Unusable {
            place: place.to_owned(),
            fault: "is not a whole address".to_owned(),
            instead: "write it like https://HOST/PATH".to_owned(),
        })
}

/// An address to which secrets are sent.
pub(super) fn safe_url(place: &str, text: &str) -> Result<Uri, Error> {
    let url = url(place, text)?;
    if is_safe(&url) {
        return Ok(url);
    }
    Err(Error::Unusable {
        place: place.to_owned(),
        fault: "would send secrets unencrypted".to_owned(),
        instead: "write an https:// address".to_owned(),
    })
}

async fn read(mut body: AnswerBody) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = body.bytes().await {
        whole.extend_from_slice(&bytes.map_err(|error| format!("the answer broke off: {error}"))?);
        if whole.len() > MAX_ANSWER_BYTES {
            return Err(format!("its answer is longer than {MAX_ANSWER_BYTES} bytes"));
        }
    }
    Ok(whole.freeze())
}

/// Code and message of an error, as OAuth (RFC 6749, 5.2), AWS and Google write them; the beginning of a text.
fn said(body: &[u8]) -> String {
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        return if text.starts_with('<') {
            String::new()
        } else {
            text.to_owned()
        };
    };
    let inner = ["error", "Error"]
        .iter()
        .find_map(|name| object.get(*name)?.as_object());
    let fields = inner.unwrap_or(&object);
    let words = ["error", "code", "Code", "error_description", "message", "Message"];
    let said: Vec<_> = words.iter().filter_map(|name| fields.get(*name)?.as_str()).collect();
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_all_clouds_are_read() {
        let oauth = br#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#;
        assert_eq!(said(oauth), "invalid_grant Invalid JWT Signature.");
        assert_eq!(said(br#"{"code":"AccessDenied","message":"no"}"#), "AccessDenied no");
        assert_eq!(
            said(br#"{"Error":{"Code":"ExpiredToken","Message":"old"}}"#),
            "ExpiredToken old"
        );
        assert_eq!(said(b"not found\n"), "not found");
        assert_eq!(said(b"<html>"), "");
    }

    #[test]
    fn secrets_go_over_tls_or_stay_here() {
        for safe in [
            "https://a.example/t",
            "http://127.0.0.1:1/t",
            "http://[::1]/t",
            "http://localhost/t",
        ] {
            assert!(is_safe(&safe.parse().unwrap()), "{safe}");
        }
        for bare in ["http://a.example/t", "http://169.254.169.254/t", "ftp://localhost/t"] {
            assert!(!is_safe(&bare.parse().unwrap()), "{bare}");
        }
    }

    #[test]
    fn what_was_sent_is_not_repeated() {
        let letter =
            Letter::post("it", Uri::from_static("https://a.example/t"), "look").field("client_secret", "hush-hush");
        assert_eq!(letter.quotable("bad secret hush-hush\n"), "bad secret [key]");
    }
}
