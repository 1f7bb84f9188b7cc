//! The only place where responses are built, and the body that relays a stream frame by frame.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::attempt::{Content, Fair, Flow, Held, later, too_late, vendor_request};
use crate::failure::{Failure, Kind};
use crate::header_text::{self, text};
use crate::origin;
use crate::place::Place;
use crate::progress::{Progress, Unread};
use crate::reader::{EventReader, Events, Interrupted};
use crate::refusal::{self, Refusal};
use crate::reporter::Reporter;
use crate::telemetry::{Outcome, Trail};
use crate::wire::{ErrorBody, Format};

/// What a client gets.
pub enum Payload {
    /// All at once, and the place that its request keeps until it has gone out.
    Whole(Bytes, Option<Place>),
    /// As it comes.
    Stream(Box<Relay>),
}

/// The same, as it goes out.
pub struct Body {
    payload: Payload,
    /// What came and has not been handed out.
    rest: Bytes,
    /// What was handed out and has not been sent; `None` over HTTP/1, where the connection notes that.
    unread: Option<Arc<Unread>>,
}

/// A stream on its way to a client. Dropped before its end, it cancels the vendor's request: the client went away.
pub struct Relay {
    format: Format,
    begun: Option<Bytes>,
    /// `None` when nothing more will come, or while another target is asked to go on.
    source: Option<Source>,
    behind: Option<Behind>,
    resuming: Option<Pin<Box<dyn Future<Output = Resumed> + Send>>>,
    /// What its client takes of it.
    progress: Option<Arc<Progress>>,
}

/// What stands behind an answer.
pub enum Behind {
    /// What is known of the request.
    Trail(Box<Trail>),
    /// And who may go on with the answer if it breaks off.
    Successor(Box<dyn Successor>),
}

/// Finds another target that goes on with an answer that broke off.
pub trait Successor: Send {
    /// What is known of the request.
    fn trail(&mut self) -> &mut Trail;

    /// Asks what to do about a failure in the middle of an answer, and does it.
    fn go_on(
        self: Box<Self>,
        failure: Failure,
        interrupted: Interrupted,
    ) -> Pin<Box<dyn Future<Output = Resumed> + Send>>;
}

/// How asking for another target ended.
pub struct Resumed {
    /// Who asked.
    pub successor: Box<dyn Successor>,
    /// What the client has so far.
    pub interrupted: Interrupted,
    /// What goes on, or the failure that the client is told.
    pub outcome: Result<(Box<Flow>, Instant), Failure>,
}

impl Behind {
    fn trail(&mut self) -> &mut Trail {
        match self {
            Behind::Trail(trail) => trail,
            Behind::Successor(successor) => successor.trail(),
        }
    }
}

struct Source {
    reader: Box<EventReader>,
    reporter: Reporter,
    deadlines: Deadlines,
}

/// Headers of a vendor's answer that the client gets too. Everything else is about the vendor's connection or account.
const PASSED_ON: [HeaderName; 3] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("openai-processing-ms"),
    HeaderName::from_static("openai-version"),
];

/// A target's answer.
pub fn answer(format: Format, held: Held, mut behind: Behind) -> Response<Payload> {
    let trail = behind.trail();
    let mut headers = passed_on(&held.headers);
    if let Some(content_type) = held.content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    trail.warnings = held.warnings;
    trail.commit(StatusCode::OK.as_u16());
    trail.usage = held.usage;
    tell(trail, &mut headers);
    let body = match held.content {
        Content::Whole(bytes) => {
            trail.outcome = Outcome::Answered;
            tell_cost(trail, &mut headers);
            Payload::Whole(bytes, trail.place.take())
        }
        Content::Stream(flow) => Payload::Stream(Box::new(Relay::new(format, *flow, held.started, behind))),
    };
    response(StatusCode::OK, headers, body)
}

/// An error, in the client's format.
pub fn refuse(format: Format, refusal: &Refusal, mut trail: Box<Trail>) -> Response<Payload> {
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
    let bytes = bytes.unwrap_or_else(|| {
        status = format.status(status);
        let status = status.as_u16();
        format.error(&ErrorBody { status, ..told.body })
    });
    if let Some((name, value)) = format.error_header(status.as_u16()) {
        headers.insert(name, HeaderValue::from_static(value));
    }
    trail.commit(status.as_u16());
    trail.outcome = Outcome::Refused;
    trail.error = refusal.detail();
    tell(&trail, &mut headers);
    response(status, headers, Payload::Whole(bytes, trail.place.take()))
}

/// Something the gateway knows itself.
pub fn own(bytes: Bytes, mut trail: Box<Trail>) -> Response<Payload> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    trail.commit(StatusCode::OK.as_u16());
    trail.outcome = Outcome::Answered;
    tell(&trail, &mut headers);
    response(StatusCode::OK, headers, Payload::Whole(bytes, trail.place.take()))
}

/// What a browser is told that asks whether a page may send a request, which it may.
pub fn preflight(question: &HeaderMap, mut trail: Box<Trail>) -> Response<Payload> {
    let mut headers = HeaderMap::new();
    origin::answer_preflight(question, &mut headers);
    let status = StatusCode::NO_CONTENT;
    trail.commit(status.as_u16());
    trail.outcome = Outcome::Answered;
    tell(&trail, &mut headers);
    response(status, headers, Payload::Whole(Bytes::new(), None))
}

/// Leaves the body of an answer out and keeps its length: the answer to a `HEAD`.
pub fn leave_body_out(response: &mut Response<Payload>) {
    if let Payload::Whole(bytes, _) = response.body() {
        let length = HeaderValue::from(bytes.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    *response.body_mut() = Payload::Whole(Bytes::new(), None);
}

fn response(status: StatusCode, headers: HeaderMap, body: Payload) -> Response<Payload> {
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
const COST: HeaderName = HeaderName::from_static("x-pointsman-cost-usd");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-pointsman-attempts");
const OVERHEAD: HeaderName = HeaderName::from_static("x-pointsman-overhead-us");
const TARGET: HeaderName = HeaderName::from_static("x-pointsman-target");
const POLICY: HeaderName = HeaderName::from_static("x-pointsman-policy");
const REASON: HeaderName = HeaderName::from_static("x-pointsman-reason");
const DETAIL: HeaderName = HeaderName::from_static("x-pointsman-attempts-detail");
const WARNINGS: HeaderName = HeaderName::from_static("x-pointsman-warnings");
const VENDOR_REQUEST: HeaderName = HeaderName::from_static("x-pointsman-vendor-request-id");

/// The gateway's own headers, on answers and errors alike.
fn tell(trail: &Trail, headers: &mut HeaderMap) {
    let id = text(&trail.id);
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(REQUEST_ID_TOO, id);
    headers.insert(ATTEMPTS, HeaderValue::from(trail.sent()));
    headers.insert(OVERHEAD, HeaderValue::from(trail.overhead.as_micros() as u64));
    if let Some(step) = trail.target() {
        headers.insert(TARGET, step.target.shown.clone());
    }
    for (name, value) in [(POLICY, trail.policies()), (REASON, trail.why())] {
        if !value.is_empty() {
            headers.insert(name, text(&value));
        }
    }
    if trail.tells_attempts {
        headers.insert(DETAIL, header_text::shown(&trail.attempts(), MAX_DETAIL));
    }
    for warning in &trail.warnings {
        headers.append(WARNINGS, text(warning));
    }
}

/// What the request cost. Only a whole answer can say it: a vendor counts a stream's tokens when its head has long been sent.
fn tell_cost(trail: &Trail, headers: &mut HeaderMap) {
    let cost = trail.cost().and_then(|dollars| dollars.to_string().parse().ok());
    if let Some(cost) = cost {
        headers.insert(COST, cost);
    }
}

/// Longest list of attempts that goes into a header: some dozens. Clients and proxies allow 8 KiB of headers and more.
const MAX_DETAIL: usize = 4096;

/// How long a vendor may hold the client up after the end marker; mostly its connection is free for the next request at once.
const AFTER_THE_END: Duration = Duration::from_secs(1);

impl Relay {
    fn new(format: Format, flow: Flow, started: Instant, behind: Behind) -> Self {
        let (begun, source) = Source::of(flow, started);
        Self {
            format,
            begun: Some(begun).filter(|begun| !begun.is_empty()),
            source: Some(source),
            behind: Some(behind),
            resuming: None,
            progress: None,
        }
    }

    /// Is watched from now on by what sends it.
    fn follow(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
        self.set_deadline();
    }

    /// The deadline of the whole answer holds whether or not the client takes any of it.
    fn set_deadline(&self) {
        if let Some(progress) = &self.progress {
            progress.set_deadline(self.source.as_ref().and_then(|source| source.deadlines.whole_by));
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(begun) = self.begun.take() {
            return Poll::Ready(Some(begun));
        }
        loop {
            if let Some(resuming) = &mut self.resuming {
                let resumed = ready!(resuming.as_mut().poll(cx));
                self.resuming = None;
                let bytes = self.resume(resumed);
                if !bytes.is_empty() {
                    return Poll::Ready(Some(bytes));
                }
            }
            let Some(source) = &mut self.source else {
                return Poll::Ready(None);
            };
            let written = match source.reader.poll_next(cx) {
                Poll::Ready(Ok(Events::Bytes(events))) => {
                    source.deadlines.last_frame = Instant::now();
                    if source.reader.ended {
                        source.deadlines.between_frames = AFTER_THE_END;
                    }
                    Some(events)
                }
                Poll::Ready(Ok(Events::Error(events, failure))) if source.reader.passes_through() => {
                    self.finish(Some(failure));
                    Some(events)
                }
                Poll::Ready(Ok(Events::Error(events, failure))) => self.fail(events, failure, refusal::in_stream),
                Poll::Ready(Ok(Events::Broken(events, failure))) => self.fail(events, failure, refusal::cut_off),
                Poll::Ready(Ok(Events::End(rest))) => self.end(rest),
                Poll::Ready(Err(failure)) => self.fail(Bytes::new(), failure, refusal::cut_off),
                Poll::Pending => {
                    let failure = ready!(source.deadlines.poll_passed(cx));
                    self.fail(Bytes::new(), failure, refusal::cut_off)
                }
            };
            // What says nothing in the client's format is waited out.
            if written.as_ref().is_none_or(|bytes| !bytes.is_empty()) {
                return Poll::Ready(written);
            }
        }
    }

    /// The vendor has said all that it will say. A stream that stops before the model has finished is never passed off as whole.
    fn end(&mut self, rest: Bytes) -> Option<Bytes> {
        if let Some(closing) = self.close() {
            return joined(rest, closing);
        }
        let failure = Failure::on_the_wire(Kind::CutOff, "no_end", "the stream ended before the answer did");
        self.fail(rest, failure, refusal::cut_off)
    }

    /// What ends the client's stream, if nothing of the answer is missing.
    fn close(&mut self) -> Option<Bytes> {
        let source = self.source.as_mut().filter(|source| source.reader.is_complete())?;
        let closing = source.reader.close();
        self.finish(None);
        Some(closing)
    }

    /// The stream failed after content went out: behind its last `events` the client gets an error in its own format and no end
    /// marker, so that its SDK raises. Unless nothing was missing any more.
    fn fail(&mut self, events: Bytes, failure: Failure, tell: fn(&Failure) -> ErrorBody<'_>) -> Option<Bytes> {
        if let Some(closing) = self.close() {
            return joined(events, closing);
        }
        if self.may_resume(&failure) {
            return Some(events);
        }
        let source = self.source.as_mut();
        let error = source.map(|source| source.reader.error(self.format, &tell(&failure)));
        self.finish(Some(failure));
        joined(events, error.unwrap_or_default())
    }

    /// Asks for another target that goes on, where the route has that and the answer can be gone on with.
    fn may_resume(&mut self, failure: &Failure) -> bool {
        if !matches!(self.behind, Some(Behind::Successor(_))) {
            return false;
        }
        let Some(interrupted) = self.source.as_mut().and_then(|source| source.reader.interrupt()) else {
            return false;
        };
        let Some(source) = self.source.take() else { return false };
        self.set_deadline();
        let mut failure = failure.clone();
        source.reporter.fail_late(&mut failure);
        if let Some(Behind::Successor(successor)) = self.behind.take() {
            self.resuming = Some(successor.go_on(failure, interrupted));
        }
        true
    }

    /// Another target goes on, or the client is told that its answer broke off.
    fn resume(&mut self, resumed: Resumed) -> Bytes {
        let Resumed {
            mut successor,
            interrupted,
            outcome,
        } = resumed;
        let bytes = match outcome {
            Ok((mut flow, started)) => {
                let begun = flow.reader.resume(interrupted);
                let (_, source) = Source::of(*flow, started);
                self.source = Some(source);
                self.set_deadline();
                begun
            }
            Err(failure) => {
                let trail = successor.trail();
                trail.usage = interrupted.usage();
                trail.outcome = Outcome::CutOff;
                trail.error.clone_from(&failure.detail);
                interrupted.error(&refusal::cut_off(&failure))
            }
        };
        self.behind = Some(Behind::Successor(successor));
        bytes
    }

    fn finish(&mut self, failure: Option<Failure>) {
        let Some(source) = self.source.take() else { return };
        self.set_deadline();
        let Some(behind) = &mut self.behind else { return };
        let trail = behind.trail();
        trail.usage = source.reader.total_usage();
        trail.end_answer(failure.as_ref());
        match failure {
            None => {
                trail.outcome = Outcome::Answered;
                // What another target has repaired is in the attempts.
                trail.error.clear();
            }
            Some(mut failure) => {
                trail.outcome = Outcome::CutOff;
                source.reporter.fail_late(&mut failure);
            }
        }
    }
}

impl Source {
    fn of(flow: Flow, started: Instant) -> (Bytes, Self) {
        let deadlines = Deadlines {
            between_frames: if flow.reader.ended {
                AFTER_THE_END
            } else {
                flow.timeouts.between_frames
            },
            whole_by: (flow.timeouts.whole < Duration::MAX).then(|| later(started, flow.timeouts.whole)),
            fair: flow.fair,
            last_frame: Instant::now(),
            timer: None,
        };
        let source = Source {
            reader: flow.reader,
            reporter: flow.reporter,
            deadlines,
        };
        (flow.begun, source)
    }
}

impl Drop for Relay {
    /// The client went away: what the vendor was doing is nobody's failure, and what it had done is an answer.
    fn drop(&mut self) {
        if self.source.as_ref().is_some_and(|source| source.reader.is_complete()) {
            self.finish(None);
        }
        if let (Some(source), Some(behind)) = (&self.source, &mut self.behind) {
            let trail = behind.trail();
            trail.usage = source.reader.total_usage();
            trail.abandon_answer();
        }
        if let Some(progress) = &self.progress {
            progress.set_deadline(None);
            if let (true, Some(behind)) = (progress.is_cut(), &mut self.behind) {
                "the client left its answer unread for too long".clone_into(&mut behind.trail().error);
            }
        }
    }
}

/// Two pieces as one; `None` when there is nothing.
fn joined(first: Bytes, second: Bytes) -> Option<Bytes> {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => None,
        (false, true) => Some(first),
        (true, false) => Some(second),
        (false, false) => Some([first, second].concat().into()),
    }
}

/// When a stream has been silent for too long. One timer, which is set anew only when it rings early.
struct Deadlines {
    between_frames: Duration,
    whole_by: Option<Instant>,
    fair: Fair,
    last_frame: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    /// Ready when a deadline has passed.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let silent_by = later(self.last_frame, self.between_frames);
        let by = self.whole_by.map_or(silent_by, |whole_by| silent_by.min(whole_by));
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
        if timer.deadline() > by {
            timer.as_mut().reset(by);
        }
        // Frames came since it was set: it rang for nothing.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= by {
                let (code, is_fair) = if by == silent_by {
                    ("between_frames_timeout", self.fair.between_frames)
                } else {
                    ("whole_timeout", self.fair.whole)
                };
                return Poll::Ready(Failure {
                    picks_doing: !is_fair,
                    ..too_late(code, self.last_frame)
                });
            }
            timer.as_mut().reset(by);
        }
        Poll::Pending
    }
}

/// A whole answer in its place, which is free when the last of the bytes has been sent.
struct InPlace {
    bytes: Bytes,
    _place: Option<Place>,
}

impl AsRef<[u8]> for InPlace {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Payload {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self {
            Payload::Whole(bytes, place) if !bytes.is_empty() => Poll::Ready(Some(Bytes::from_owner(InPlace {
                bytes: std::mem::take(bytes),
                _place: place.take(),
            }))),
            Payload::Whole(..) => Poll::Ready(None),
            Payload::Stream(relay) => relay.poll_next(cx),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Payload::Whole(bytes, _) => bytes.is_empty(),
            Payload::Stream(relay) => relay.begun.is_none() && relay.source.is_none() && relay.resuming.is_none(),
        }
    }
}

/// Bytes of one piece of an answer over HTTP/2: a client must take so much at least within the time after which it is given up.
const PIECE: usize = 64 << 10;

impl Body {
    /// A body that tells the watch what its client takes. Over HTTP/2 it ends only when all of it has been sent: what ends earlier stays
    /// with the connection, which nothing watches.
    pub fn new(mut payload: Payload, progress: Option<Arc<Progress>>, is_http2: bool) -> Self {
        if let (Payload::Stream(relay), Some(progress)) = (&mut payload, &progress) {
            relay.follow(progress.clone());
        }
        Self {
            payload,
            rest: Bytes::new(),
            unread: progress.filter(|_| is_http2).map(Unread::new),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        if body.rest.is_empty() {
            match ready!(body.payload.poll_next(cx)) {
                Some(bytes) => body.rest = bytes,
                None => {
                    if let Some(unread) = &body.unread {
                        ready!(unread.poll_taken(cx));
                    }
                    return Poll::Ready(None);
                }
            }
        }
        let piece = match &body.unread {
            None => std::mem::take(&mut body.rest),
            Some(unread) => unread.hand_out(body.rest.split_to(PIECE.min(body.rest.len()))),
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let is_taken = self.unread.as_ref().is_none_or(|unread| unread.is_taken());
        self.rest.is_empty() && self.payload.is_done() && is_taken
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Whole(bytes, _) => SizeHint::with_exact((bytes.len() + self.rest.len()) as u64),
            Payload::Stream(_) => SizeHint::default(),
        }
    }
}
