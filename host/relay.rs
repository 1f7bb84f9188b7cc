//! The only place where responses are built, and the body that relays a stream frame by frame.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::attempt::{Content, EventReader, Events, Flow, Held, later, too_late, vendor_request};
use crate::failure::{Failure, Kind};
use crate::health::Ticket;
use crate::refusal::Refusal;
use crate::telemetry::{Outcome, Trail};
use crate::wire::{ErrorBody, Format};

/// What a client gets.
pub enum Body {
    /// All at once.
    Whole(Option<Bytes>),
    /// As it comes.
    Stream(Box<Relay>),
}

/// A stream on its way to a client. Dropped before its end, it cancels the vendor's request: the client went away.
pub struct Relay {
    format: Format,
    begun: Option<Bytes>,
    /// `None` when nothing more will come.
    source: Option<Source>,
    trail: Trail,
}

struct Source {
    reader: Box<EventReader>,
    ticket: Ticket,
    deadlines: Deadlines,
}

/// Headers of a vendor's answer that the client gets too. Everything else is about the vendor's connection or account.
const PASSED_ON: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("openai-processing-ms"),
    HeaderName::from_static("openai-version"),
];

/// A target's answer.
pub fn answer(format: Format, held: Held, mut trail: Trail) -> Response<Body> {
    let mut headers = passed_on(&held.headers);
    trail.commit(StatusCode::OK.as_u16());
    trail.usage = held.usage;
    tell(&trail, &mut headers);
    let body = match held.content {
        Content::Whole(bytes) => {
            trail.outcome = Outcome::Answered;
            tell_cost(&trail, &mut headers);
            Body::Whole(Some(bytes))
        }
        Content::Stream(flow) => Body::Stream(Box::new(Relay::new(format, *flow, held.started, trail))),
    };
    response(StatusCode::OK, headers, body)
}

/// An error, in the client's format.
pub fn refuse(format: Format, refusal: &Refusal, mut trail: Trail) -> Response<Body> {
    let told = refusal.told();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(wait) = told.retry_after {
        // Whole seconds in the one, rounded up so that nobody comes too early; exact in the other.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds as u64));
        headers.insert("retry-after-ms", HeaderValue::from(wait.as_millis().max(1) as u64));
    }
    if let Some(should) = told.should_retry {
        headers.insert(
            "x-should-retry",
            HeaderValue::from_static(if should { "true" } else { "false" }),
        );
    }
    if let Refusal::WrongMethod { allowed } = refusal {
        headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    let mut status = told.status;
    let mut bytes = None;
    if let Refusal::Vendor(failure) = refusal {
        if let Some(id) = &failure.vendor_request {
            headers.insert(VENDOR_REQUEST, id.clone());
        }
        bytes.clone_from(&failure.answer);
        status = failure
            .status
            .and_then(|status| StatusCode::from_u16(status).ok())
            .unwrap_or(status);
    }
    let bytes = bytes.unwrap_or_else(|| format.error(&told.body));
    trail.commit(status.as_u16());
    trail.outcome = Outcome::Refused;
    trail.error = refusal.detail();
    tell(&trail, &mut headers);
    response(status, headers, Body::Whole(Some(bytes)))
}

/// Something the gateway knows itself.
pub fn own(bytes: Bytes, mut trail: Trail) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    trail.commit(StatusCode::OK.as_u16());
    trail.outcome = Outcome::Answered;
    tell(&trail, &mut headers);
    response(StatusCode::OK, headers, Body::Whole(Some(bytes)))
}

fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn passed_on(vendors: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    for name in PASSED_ON {
        if let Some(value) = vendors.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(id) = vendor_request(vendors) {
        headers.insert(VENDOR_REQUEST, id.clone());
    }
    headers
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_TOO: HeaderName = HeaderName::from_static("request-id");
const COST: HeaderName = HeaderName::from_static("x-switchyard-cost-usd");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-switchyard-attempts");
const OVERHEAD: HeaderName = HeaderName::from_static("x-switchyard-overhead-us");
const TARGET: HeaderName = HeaderName::from_static("x-switchyard-target");
const POLICY: HeaderName = HeaderName::from_static("x-switchyard-policy");
const REASON: HeaderName = HeaderName::from_static("x-switchyard-reason");
const VENDOR_REQUEST: HeaderName = HeaderName::from_static("x-switchyard-vendor-request-id");

/// The gateway's own headers, on answers and errors alike.
fn tell(trail: &Trail, headers: &mut HeaderMap) {
    let id = text(&trail.id);
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(REQUEST_ID_TOO, id);
    headers.insert(ATTEMPTS, HeaderValue::from(trail.steps.len()));
    headers.insert(OVERHEAD, HeaderValue::from(trail.overhead.as_micros() as u64));
    if let Some(step) = trail.target() {
        headers.insert(TARGET, text(&step.target.rules.name));
    }
    if !trail.policy.is_empty() {
        headers.insert(POLICY, text(&trail.policy));
    }
    if !trail.reason.is_empty() {
        headers.insert(REASON, text(&trail.reason));
    }
}

/// What the request cost. Only a whole answer can say it: a vendor counts a stream's tokens when its head has long been sent.
fn tell_cost(trail: &Trail, headers: &mut HeaderMap) {
    let cost = trail.cost().and_then(|dollars| dollars.to_string().parse().ok());
    if let Some(cost) = cost {
        headers.insert(COST, cost);
    }
}

/// How long a vendor may hold the client up after the end marker; mostly its connection is free for the next request at once.
const AFTER_THE_END: Duration = Duration::from_secs(1);

/// Longest text of a policy's that goes into a header.
const MAX_HEADER_TEXT: usize = 200;

/// Text as a header can carry it: policies may say anything.
fn text(text: &str) -> HeaderValue {
    if text.len() <= MAX_HEADER_TEXT
        && let Ok(value) = HeaderValue::from_str(text)
    {
        return value;
    }
    let clean = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text: String = text.chars().take(MAX_HEADER_TEXT).map(clean).collect();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("?"))
}

impl Relay {
    fn new(format: Format, flow: Flow, started: Instant, trail: Trail) -> Self {
        let deadlines = Deadlines {
            between_frames: flow.timeouts.between_frames,
            whole_by: later(started, flow.timeouts.whole),
            last_frame: Instant::now(),
            timer: None,
        };
        let source = Source {
            reader: flow.reader,
            ticket: flow.ticket,
            deadlines,
        };
        Self {
            format,
            begun: Some(flow.begun),
            source: Some(source),
            trail,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(begun) = self.begun.take() {
            return Poll::Ready(Some(begun));
        }
        let Some(source) = &mut self.source else {
            return Poll::Ready(None);
        };
        match source.reader.poll_next(cx) {
            Poll::Ready(Ok(Events::Bytes(events))) => {
                source.deadlines.last_frame = Instant::now();
                if source.reader.ended {
                    source.deadlines.between_frames = AFTER_THE_END;
                }
                Poll::Ready(Some(events))
            }
            Poll::Ready(Ok(Events::Error(events, failure))) => {
                self.finish(Some(failure));
                Poll::Ready(Some(events))
            }
            Poll::Ready(Ok(Events::Broken(events, failure))) => Poll::Ready(self.fail(events, failure)),
            Poll::Ready(Ok(Events::End(rest))) => Poll::Ready(self.end(rest)),
            Poll::Ready(Err(failure)) => Poll::Ready(self.fail(Bytes::new(), failure)),
            Poll::Pending => {
                let code = ready!(source.deadlines.poll_passed(cx));
                let failure = too_late(code, source.deadlines.last_frame);
                Poll::Ready(self.fail(Bytes::new(), failure))
            }
        }
    }

    /// The vendor has said all that it will say. A stream that stops before the model has finished is never passed off as whole.
    fn end(&mut self, rest: Bytes) -> Option<Bytes> {
        if self.source.as_ref().is_some_and(|source| source.reader.is_complete()) {
            self.finish(None);
            return (!rest.is_empty()).then_some(rest);
        }
        let failure = Failure::on_the_wire(Kind::CutOff, "no_end", "the stream ended before the answer did");
        self.fail(Bytes::new(), failure)
    }

    /// The stream failed after content went out: behind its last `events` the client gets an error in its own format and no end
    /// marker, so that its SDK raises. Unless nothing was missing any more.
    fn fail(&mut self, events: Bytes, failure: Failure) -> Option<Bytes> {
        if self.source.as_ref().is_some_and(|source| source.reader.is_complete()) {
            self.finish(None);
            return (!events.is_empty()).then_some(events);
        }
        let message = match failure.kind {
            Kind::Timeout => "the vendor stopped answering",
            _ => "the vendor's answer broke off",
        };
        self.finish(Some(failure));
        let code = "answer_cut_off";
        let error = self.format.error_event(&ErrorBody {
            kind: "server_error",
            code,
            param: None,
            message: message.into(),
        });
        Some([events, error].concat().into())
    }

    fn finish(&mut self, failure: Option<Failure>) {
        let Some(source) = self.source.take() else { return };
        self.trail.usage = source.reader.usage;
        self.trail.end_answer(failure.as_ref());
        match failure {
            None => self.trail.outcome = Outcome::Answered,
            Some(failure) => {
                self.trail.outcome = Outcome::CutOff;
                source.ticket.fail(&failure);
            }
        }
    }
}

impl Drop for Relay {
    /// The client went away: what the vendor was doing is nobody's failure, and what it had done is an answer.
    fn drop(&mut self) {
        if self.source.as_ref().is_some_and(|source| source.reader.is_complete()) {
            self.finish(None);
        }
        if let Some(source) = &self.source {
            self.trail.usage = source.reader.usage;
            self.trail.abandon_answer();
        }
    }
}

/// When a stream has been silent for too long. One timer, which is set anew only when it rings early.
struct Deadlines {
    between_frames: Duration,
    whole_by: Instant,
    last_frame: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    /// Ready when a deadline has passed, with the name of which.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        let silent_by = later(self.last_frame, self.between_frames);
        let by = silent_by.min(self.whole_by);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
        // Frames came since it was set: it rang for nothing.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= by {
                return Poll::Ready(if by == silent_by {
                    "between_frames_timeout"
                } else {
                    "whole_timeout"
                });
            }
            timer.as_mut().reset(by);
        }
        Poll::Pending
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = match self.get_mut() {
            Body::Whole(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()),
            Body::Stream(relay) => ready!(relay.poll_next(cx)),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::Stream(relay) => relay.begun.is_none() && relay.source.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}
