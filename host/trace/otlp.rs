//! Spans as OpenTelemetry's protocol writes them in JSON: Protocol Buffers' JSON, but that ids are hexadecimal and enumerations are
//! numbers: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. Pure.

use std::fmt::Display;

use serde::{Deserialize, Serialize, Serializer};

use super::context::{SpanId, TraceId};
use super::span::{Side, Span, Value};

/// Who tells.
pub struct Teller {
    /// This process, among all gateways that tell the same collector.
    instance: String,
}

/// What a collector could not use of a delivery that it took.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Spans.
    pub spans: u64,
    /// Why.
    pub why: String,
}

impl Teller {
    /// This process.
    pub fn new() -> Self {
        let instance = format!("{:016x}", fastrand::u64(..));
        Self { instance }
    }

    /// The body of a request that tells of spans.
    pub fn encode(&self, spans: &[Span]) -> Vec<u8> {
        let request = ExportRequest {
            resource_spans: [ResourceSpans {
                resource: Resource {
                    attributes: [
                        KeyValue::text("service.name", SCOPE.name),
                        KeyValue::text("service.version", SCOPE.version),
                        KeyValue::text("service.instance.id", &self.instance),
                    ],
                },
                scope_spans: [ScopeSpans {
                    scope: SCOPE,
                    spans: spans.iter().map(SpanMessage::of).collect(),
                }],
            }],
        };
        serde_json::to_vec(&request).expect("nothing in it can fail to be written")
    }
}

impl Rejected {
    /// What the body of an answer says; `None` when all was of use, or nothing is said.
    pub fn read(body: &[u8]) -> Option<Self> {
        let partial = serde_json::from_slice::<ExportAnswer>(body).ok()?.partial_success?;
        // Protocol Buffers write such a number as a text, and read both.
        let spans = match &partial.rejected_spans {
            serde_json::Value::String(text) => text.parse().ok()?,
            number => number.as_u64()?,
        };
        let why = partial.error_message;
        (spans > 0).then_some(Self { spans, why })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportRequest<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: [KeyValue<'a>; 3],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<SpanMessage<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

const SCOPE: Scope = Scope {
    name: env!("CARGO_PKG_NAME"),
    version: env!("CARGO_PKG_VERSION"),
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanMessage<'a> {
    trace_id: Text<TraceId>,
    span_id: Text<SpanId>,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<Text<SpanId>>,
    flags: u32,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: Text<u64>,
    end_time_unix_nano: Text<u64>,
    attributes: Vec<KeyValue<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
}

#[derive(Serialize)]
struct Status<'a> {
    code: u8,
    message: &'a str,
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: &'static str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
enum AnyValue<'a> {
    #[serde(rename = "stringValue")]
    Text(&'a str),
    #[serde(rename = "intValue")]
    Count(Text<u64>),
    #[serde(rename = "doubleValue")]
    Number(f64),
    #[serde(rename = "boolValue")]
    Flag(bool),
    #[serde(rename = "arrayValue")]
    All { values: Vec<AnyValue<'a>> },
}

/// What is a text in JSON.
struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'a> SpanMessage<'a> {
    fn of(span: &'a Span) -> Self {
        /// The W3C's flag: the trace is recorded.
        const SAMPLED: u32 = 1;
        /// It is known whether the parent is another process's.
        const IS_REMOTE_KNOWN: u32 = 1 << 8;
        /// And it is.
        const IS_REMOTE: u32 = 1 << 9;
        /// A status, where there is one at all.
        const ERROR: u8 = 2;
        let remote = if span.has_remote_parent { IS_REMOTE } else { 0 };
        Self {
            trace_id: Text(span.trace),
            span_id: Text(span.id),
            trace_state: &span.state,
            parent_span_id: span.parent.map(Text),
            flags: SAMPLED | IS_REMOTE_KNOWN | remote,
            name: &span.name,
            kind: match span.side {
                Side::Server => 2,
                Side::Client => 3,
            },
            start_time_unix_nano: Text(span.start),
            end_time_unix_nano: Text(span.end),
            attributes: span.attributes.iter().map(KeyValue::of).collect(),
            status: span.error.as_deref().map(|message| Status { code: ERROR, message }),
        }
    }
}

impl<'a> KeyValue<'a> {
    fn of((key, value): &'a (&'static str, Value)) -> Self {
        let value = match value {
            Value::Text(text) => AnyValue::Text(text),
            Value::Count(count) => AnyValue::Count(Text(*count)),
            Value::Number(number) => AnyValue::Number(*number),
            Value::Flag(flag) => AnyValue::Flag(*flag),
            Value::Texts(texts) => AnyValue::All {
                values: texts.iter().map(|text| AnyValue::Text(text)).collect(),
            },
        };
        Self { key, value }
    }

    fn text(key: &'static str, text: &'a str) -> Self {
        let value = AnyValue::Text(text);
        Self { key, value }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExportAnswer {
    partial_success: Option<PartialSuccess>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    rejected_spans: serde_json::Value,
    error_message: String,
}

#[cfg(test)]
mod tests {
    use super::super::context::Parent;
    use super::super::span::Attributes;
    use super::*;
    use http::HeaderMap;
    use serde_json::{Value as Json, json};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "00f067aa0ba902b7";

    fn span() -> Span {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
        let parent = Parent::read(&headers).unwrap();
        Span {
            trace: parent.trace,
            id: parent.span,
            parent: None,
            has_remote_parent: false,
            state: String::new(),
            name: "chat smart".to_owned(),
            side: Side::Server,
            start: 1_767_225_600_123_456_789,
            end: 1_767_225_601_000_000_001,
            attributes: Attributes::default(),
            error: None,
        }
    }

    fn encoded(span: Span) -> Json {
        let teller = Teller {
            instance: "here".to_owned(),
        };
        let mut all: Json = serde_json::from_slice(&teller.encode(&[span])).unwrap();
        all["resourceSpans"][0]["scopeSpans"][0]["spans"][0].take()
    }

    #[test]
    fn a_request_is_written_as_the_protocol_says() {
        let teller = Teller {
            instance: "here".to_owned(),
        };
        let written: Json = serde_json::from_slice(&teller.encode(&[span()])).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let expected = json!({"resourceSpans": [{
            "resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": "pointsman"}},
                {"key": "service.version", "value": {"stringValue": version}},
                {"key": "service.instance.id", "value": {"stringValue": "here"}},
            ]},
            "scopeSpans": [{
                "scope": {"name": "pointsman", "version": version},
                "spans": [{
                    "traceId": TRACE,
                    "spanId": SPAN,
                    "flags": 0x101,
                    "name": "chat smart",
                    "kind": 2,
                    "startTimeUnixNano": "1767225600123456789",
                    "endTimeUnixNano": "1767225601000000001",
                    "attributes": [],
                }],
            }],
        }]});
        assert_eq!(written, expected);
    }

    #[test]
    fn a_failed_call_below_anothers_span() {
        let written = encoded(Span {
            parent: Some(span().id),
            has_remote_parent: true,
            state: "a=1".to_owned(),
            side: Side::Client,
            error: Some("overloaded".to_owned()),
            ..span()
        });
        assert_eq!(
            (&written["parentSpanId"], &written["traceState"]),
            (&json!(SPAN), &json!("a=1"))
        );
        assert_eq!((&written["kind"], &written["flags"]), (&json!(3), &json!(0x301)));
        assert_eq!(written["status"], json!({"code": 2, "message": "overloaded"}));
    }

    #[test]
    fn attributes_of_all_types() {
        let mut attributes = Attributes::default();
        attributes.text("text", "a \"b\"\n\u{1b}[31mé");
        attributes.text("empty", "");
        attributes.count("count", u64::MAX);
        attributes.number("number", Some(0.000_023));
        attributes.number("unknown", None);
        attributes.number("nonsense", Some(f64::NAN));
        attributes.flag("flag", true);
        attributes.flag("unset", false);
        attributes.texts("texts", &["a".to_owned(), "b".to_owned()]);
        attributes.texts("none", &[]);
        let written = encoded(Span { attributes, ..span() });
        let expected = json!([
            {"key": "text", "value": {"stringValue": "a \"b\"[31mé"}},
            {"key": "count", "value": {"intValue": "18446744073709551615"}},
            {"key": "number", "value": {"doubleValue": 0.000_023}},
            {"key": "flag", "value": {"boolValue": true}},
            {"key": "texts", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}},
        ]);
        assert_eq!(written["attributes"], expected);
    }

    #[test]
    fn a_text_is_told_as_far_as_it_is_short() {
        let mut attributes = Attributes::default();
        attributes.text("text", &"é".repeat(10_000));
        let written = encoded(Span { attributes, ..span() });
        let text = written["attributes"][0]["value"]["stringValue"].as_str().unwrap();
        assert_eq!(text, "é".repeat(256));
    }

    #[test]
    fn what_a_collector_rejects() {
        let read = |body: &str| Rejected::read(body.as_bytes());
        let rejected = |why: &str| {
            let why = why.to_owned();
            Some(Rejected { spans: 3, why })
        };
        let body = r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
        assert_eq!(read(body), rejected("too old"));
        assert_eq!(read(r#"{"partialSuccess":{"rejectedSpans":3}}"#), rejected(""));
        for none in [
            "{}",
            "",
            "<html>",
            r#"{"partialSuccess":{}}"#,
            r#"{"partialSuccess":null}"#,
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
