//! Where traces go.

use std::time::Duration;

use http::{HeaderName, Uri, header};

use super::Secret;
use super::document::Written;
use super::section::{Entry, Section};
use super::spelling::excerpt;
use super::target::{is_loopback, parse_base_url};

/// One `[trace]`: who is told of requests as OpenTelemetry traces. Without it, nobody is.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Where the collector takes OTLP in JSON, path included.
    pub endpoint: Uri,
    /// What it wants to see besides, such as a key.
    pub headers: Vec<(HeaderName, Secret)>,
    /// The share of requests that are traced where the client does not say so itself, 0 to 1; default: 1.
    pub sample: f32,
    /// Requests that may wait to be told; those beyond are not; default: 2048.
    pub max_queued: usize,
    /// How long the collector may take for one delivery; default: 5 s.
    pub timeout: Duration,
    /// Vendors are told which trace an attempt belongs to; default: false.
    pub propagate: bool,
}

const EXAMPLE: &str = "http://127.0.0.1:4318/v1/traces";

impl Trace {
    /// `None` where the section is not written, or says too little.
    pub(super) fn read(mut section: Section<'_>) -> Option<Self> {
        if !section.is_written() {
            return None;
        }
        let endpoint = read_endpoint(&mut section);
        let headers = read_headers(&mut section, endpoint.as_ref());
        let trace = Self {
            endpoint: endpoint.unwrap_or_default(),
            headers,
            sample: section.share("sample").unwrap_or(1.0),
            max_queued: section.whole("max_queued", 1..=1_000_000).unwrap_or(2048),
            timeout: section
                .millis("timeout_ms", 1..=600_000)
                .unwrap_or(Duration::from_secs(5)),
            propagate: section.flag("propagate").unwrap_or_default(),
        };
        section.close();
        Some(trace)
    }
}

/// The address is not repeated in errors: it may have a credential in it.
fn read_endpoint(section: &mut Section<'_>) -> Option<Uri> {
    if !section.has("endpoint") {
        section.missing("endpoint", format!("write endpoint = \"{EXAMPLE}\""));
    }
    let written = section.word("endpoint")?;
    let url = parse_base_url(written.value);
    if let Err(fault) = url {
        section.wrong(written.line, "endpoint", fault, format!("write it like \"{EXAMPLE}\""));
    }
    let url = url.ok()?;
    if url.path() == "/" {
        let found = format!("`endpoint` in {} is an address without a path", section.title());
        let instead = format!("write it whole, such as \"{EXAMPLE}\"");
        section.document.suspicious(written.line, found, instead);
    }
    Some(url)
}

fn read_headers(section: &mut Section<'_>, endpoint: Option<&Uri>) -> Vec<(HeaderName, Secret)> {
    let entries = section.entries("headers");
    let headers: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| read_header(section, entry))
        .collect();
    let is_bare = endpoint.is_some_and(|endpoint| {
        endpoint.scheme_str() == Some("http") && !is_loopback(endpoint.host().unwrap_or_default())
    });
    if is_bare && headers.iter().any(|(name, _)| is_of_secret(name)) {
        let found = format!("the headers of {} go over the network unencrypted", section.title());
        section.document.suspicious(
            section.line_of("endpoint"),
            found,
            "write https:// if the collector speaks it",
        );
    }
    headers
}

/// A value is a reference to a secret, or a text where nothing about its name says that it is one.
fn read_header(section: &Section<'_>, (written, value): Entry<'_>) -> Option<(HeaderName, Secret)> {
    let name = read_name(section, written)?;
    if value.value.is_table() {
        return Some((name, Secret::of(section, written.value, value)?));
    }
    if is_of_secret(&name) {
        Secret::written_out(section, written.value, value);
        return None;
    }
    let text = section.as_text(written.value, value)?;
    match Secret::checked(text.value) {
        Ok(text) => Some((name, text)),
        Err(fault) => {
            section.wrong(text.line, written.value, fault, "write printable ASCII");
            None
        }
    }
}

fn read_name(section: &Section<'_>, written: Written<&str>) -> Option<HeaderName> {
    let own = [
        header::HOST,
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ];
    let (fault, instead) = match written.value.parse::<HeaderName>() {
        Ok(name) if own.contains(&name) => ("is a header that the gateway writes itself", "leave it out"),
        Ok(name) => return Some(name),
        Err(_) => ("is not the name of a header", "write one such as x-tenant"),
    };
    let found = format!("`{}` in headers of {} {fault}", excerpt(written.value), section.title());
    section.document.wrong(written.line, found, instead);
    None
}

/// Whether what goes by this name lets somebody in.
fn is_of_secret(name: &HeaderName) -> bool {
    ["authorization", "cookie", "key", "token", "secret", "password"]
        .iter()
        .any(|word| name.as_str().contains(word))
}
