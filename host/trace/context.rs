//! Which trace a request belongs to, as the W3C's Trace Context writes it in headers: <https://www.w3.org/TR/trace-context/>.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The name of a trace: 16 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// The name of a span within its trace: 8 bytes, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

/// The trace that a client says its request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The client's own span.
    pub span: SpanId,
    /// The client's spans are recorded.
    pub sampled: bool,
    /// What other systems on the way have to say; empty when nothing.
    pub state: String,
}

/// Which trace a request belongs to.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What the systems on its way have to say about it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a state that are passed on: as many as everybody has to.
const MAX_STATE: usize = 512;

impl TraceId {
    /// A new one.
    pub fn random() -> Self {
        Self(fastrand::u128(1..))
    }
}

impl SpanId {
    /// A new one.
    pub fn random() -> Self {
        Self(fastrand::u64(1..))
    }

    /// The name of the `number`th span below this one, so that nobody has to remember it. The mixing is SplitMix64's, which is one to
    /// one: no two numbers have the same name.
    pub fn child(self, number: usize) -> Self {
        let mut mixed = self
            .0
            .wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)).max(1))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Parent {
    /// What the headers of a request say; `None` when they say nothing, or nothing that is valid.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let only = all.next().filter(|_| all.next().is_none())?;
        let (trace, span, sampled) = parse(only.to_str().ok()?)?;
        let state = read_state(headers).unwrap_or_default();
        Some(Self {
            trace,
            span,
            sampled,
            state,
        })
    }
}

/// As a header that says that a request belongs below a span.
pub fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> HeaderValue {
    let text = format!("00-{trace}-{span}-{:02x}", u8::from(sampled));
    HeaderValue::try_from(text).expect("hexadecimal digits and hyphens are what a header can carry")
}

fn parse(text: &str) -> Option<(TraceId, SpanId, bool)> {
    let mut parts = text.trim().split('-');
    let version = hexadecimal(parts.next()?, 2)?;
    let trace = hexadecimal(parts.next()?, 32)?;
    let span = hexadecimal(parts.next()?, 16)? as u64;
    let flags = hexadecimal(parts.next()?, 2)?;
    // What later versions have behind the flags is not known here; this one has nothing.
    let is_known = version != 0xff && (version > 0 || parts.next().is_none());
    (is_known && trace != 0 && span != 0).then_some((TraceId(trace), SpanId(span), flags & 1 == 1))
}

/// A number of exactly so many digits, in lower case.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_number = text.len() == digits && text.bytes().all(is_digit);
    is_number.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn read_state(headers: &HeaderMap) -> Option<String> {
    let parts: Result<Vec<_>, _> = headers.get_all(TRACESTATE).iter().map(HeaderValue::to_str).collect();
    let state = parts.ok()?.join(",");
    (state.len() <= MAX_STATE).then_some(state)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn read(values: &[&str]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        Parent::read(&headers)
    }

    #[test]
    fn a_parent_is_read_and_written() {
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("03", true)] {
            let parent = read(&[&format!("00-{TRACE}-{SPAN}-{flags}")]).unwrap();
            assert_eq!(
                (parent.trace.to_string(), parent.span.to_string(), parent.sampled),
                (TRACE.to_owned(), SPAN.to_owned(), sampled)
            );
            let written = traceparent(parent.trace, parent.span, parent.sampled);
            assert_eq!(written, format!("00-{TRACE}-{SPAN}-{:02x}", u8::from(sampled)));
        }
    }

    #[test]
    fn later_versions_may_say_more() {
        assert!(read(&[&format!("01-{TRACE}-{SPAN}-01-what-else")]).is_some());
        assert!(read(&[&format!("cc-{TRACE}-{SPAN}-01")]).is_some());
    }

    #[test]
    fn what_is_not_valid_is_no_parent() {
        let upper = TRACE.to_uppercase();
        for invalid in [
            String::new(),
            "nonsense".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{upper}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
        ] {
            assert_eq!(read(&[&invalid]), None, "{invalid}");
        }
        let valid = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(read(&[&valid, &valid]), None, "which of the two?");
    }

    #[test]
    fn the_state_is_kept_whole_or_not_at_all() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
        headers.append(TRACESTATE, "a=1".parse().unwrap());
        headers.append(TRACESTATE, "b=2".parse().unwrap());
        assert_eq!(Parent::read(&headers).unwrap().state, "a=1,b=2");
        headers.append(TRACESTATE, format!("c={}", "3".repeat(512)).parse().unwrap());
        assert_eq!(Parent::read(&headers).unwrap().state, "");
    }

    #[test]
    fn children_have_names_of_their_own() {
        let parent = SpanId::random();
        let names: HashSet<_> = (0..1000).map(|number| parent.child(number).to_string()).collect();
        assert_eq!(names.len(), 1000);
        assert!(!names.contains(&parent.to_string()));
    }
}
