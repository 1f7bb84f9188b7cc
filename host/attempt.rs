//! One attempt: one request to one target, until its answer is worth committing to or it has failed. It does not decide what comes
//! next.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use crate::chat::Usage;
use crate::config::Timeouts;
use crate::connection::{Answer, AnswerBody, Connections, SendError};
use crate::failure::{Failure, Kind, VendorError};
use crate::health::Ticket;
use crate::retry_after;
use crate::snapshot::Target;
use crate::telemetry::Spent;
use crate::wire::{Format, sse};

/// What to send, where, and within which limits.
pub struct Order {
    /// Where.
    pub target: Arc<Target>,
    /// The right to do so.
    pub ticket: Ticket,
    /// The body, ready for the vendor.
    pub body: Bytes,
    /// The client wants a stream.
    pub streaming: bool,
    /// Deadlines, as short as target, route and pick make them.
    pub timeouts: Timeouts,
    /// When the request itself runs out of time for content.
    pub content_by: Instant,
    /// Limits of what is held.
    pub limits: Limits,
    /// Where the vendor's count of tokens is noted.
    pub spent: Arc<Spent>,
}

/// Bytes that are held of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of a whole answer, and of one event of a stream.
    pub answer_bytes: usize,
    /// Of a stream before content.
    pub held_bytes: usize,
}

/// An answer with content: from here on the client gets it.
pub struct Held {
    /// Who answers.
    pub target: Arc<Target>,
    /// When the attempt began.
    pub started: Instant,
    /// The vendor's headers.
    pub headers: HeaderMap,
    /// Tokens that are counted already.
    pub usage: Option<Usage>,
    /// The answer.
    pub content: Content,
}

/// What there is of an answer at its commit.
pub enum Content {
    /// All of it.
    Whole(Bytes),
    /// The whole events until content, and where the rest comes from.
    Stream(Box<Flow>),
}

/// A stream that has begun.
pub struct Flow {
    /// The whole events so far.
    pub begun: Bytes,
    /// What comes after them.
    pub reader: Box<EventReader>,
    /// Deadlines of the rest.
    pub timeouts: Timeouts,
    /// To be closed with the outcome.
    pub ticket: Ticket,
}

/// Whole events of a vendor's stream, and what they mean.
pub struct EventReader {
    format: Format,
    target: Arc<Target>,
    body: AnswerBody,
    splitter: sse::Splitter,
    max_event_bytes: usize,
    spent: Arc<Spent>,
    /// Tokens so far.
    pub usage: Option<Usage>,
    /// Content has been seen.
    pub content: bool,
    /// The end marker was seen.
    pub ended: bool,
    /// Choices that were begun, and those that were finished, a bit for each.
    choices: u128,
    finished: u128,
}

/// What an [`EventReader`] found next.
pub enum Events {
    /// Whole events, as they came.
    Bytes(Bytes),
    /// Events, the last of which is the vendor's error.
    Error(Bytes, Failure),
    /// Events, behind which something came that is none.
    Broken(Bytes, Failure),
    /// Nothing more will come.
    End(Bytes),
}

/// Bytes of an error answer that are read: enough for any that is meant to be read.
const MAX_ERROR_BYTES: usize = 256 * 1024;

impl Order {
    /// Makes the attempt. Whoever drops this future cancels the vendor's request, which is nobody's failure.
    pub async fn run(self, connections: &Arc<Connections>) -> Result<Held, Failure> {
        let started = Instant::now();
        let own_by = self.content_within(started);
        match timeout_at(own_by.min(self.content_by), self.answer(connections, started)).await {
            Ok(Ok((headers, begun))) => Ok(self.held(started, headers, begun)),
            Ok(Err(mut failure)) => {
                failure.code = self.target.redacted(failure.code);
                failure.detail = self.target.redacted(failure.detail);
                self.ticket.fail(&failure);
                Err(failure)
            }
            Err(_) if own_by <= self.content_by => {
                let failure = too_late("first_content_timeout", started);
                self.ticket.fail(&failure);
                Err(failure)
            }
            // Others used the request's time up: what little was left of it says nothing about this target.
            Err(_) => Err(too_late("request_timeout", started)),
        }
    }

    /// When content must be there.
    fn content_within(&self, started: Instant) -> Instant {
        let timeouts = &self.timeouts;
        let first = if self.streaming {
            timeouts.first_content
        } else {
            timeouts.whole_content
        };
        later(started, first.min(timeouts.whole))
    }

    fn held(mut self, started: Instant, headers: HeaderMap, begun: Begun) -> Held {
        let after = started.elapsed();
        self.ticket.commit(after, self.streaming);
        if self.streaming {
            self.target.metrics.note_first_token(after);
        }
        let (usage, content) = match begun {
            Begun::Whole(bytes, usage) => (usage, Content::Whole(bytes)),
            Begun::Stream(begun, reader) => {
                let flow = Flow {
                    begun,
                    reader,
                    timeouts: self.timeouts,
                    ticket: self.ticket,
                };
                (None, Content::Stream(Box::new(flow)))
            }
        };
        Held {
            target: self.target,
            started,
            headers,
            usage,
            content,
        }
    }

    async fn answer(&self, connections: &Arc<Connections>, started: Instant) -> Result<(HeaderMap, Begun), Failure> {
        let answer = connections
            .send(&self.target.endpoint, || self.request(), self.timeouts.connect)
            .await
            .map_err(not_sent)?;
        let headers = &answer.head.headers;
        if let Some(headroom) = retry_after::headroom(headers) {
            self.target.health.note_headroom(headroom, started.into_std());
        }
        if answer.head.status != StatusCode::OK {
            return Err(self.refused(answer).await);
        }
        let begun = if self.streaming {
            self.stream(answer.body, headers).await?
        } else {
            self.whole(answer.body).await?
        };
        Ok((answer.head.headers, begun))
    }

    fn request(&self) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.path.clone();
        *request.headers_mut() = self.target.headers.clone();
        request
    }

    fn format(&self) -> Format {
        self.target.rules.vendor.format
    }

    async fn refused(&self, answer: Answer) -> Failure {
        let status = answer.head.status.as_u16();
        let body = read_error(answer.body).await;
        // An error that is not text is not passed on anyway.
        let body = match std::str::from_utf8(&body) {
            Ok(text) => Bytes::from(self.target.redacted(text.to_owned())),
            Err(_) => body,
        };
        let error = self.format().vendor_error(&body);
        let mut failure = Failure::answered(
            status,
            error,
            Some(body).filter(|body| self.format().is_error_answer(body)),
        );
        let headers = &answer.head.headers;
        let limited = failure.kind == Kind::RateLimited;
        failure.retry_after = retry_after::stated(headers, SystemTime::now())
            .or_else(|| retry_after::until_reset(headers).filter(|_| limited));
        failure.vendor_request = vendor_request(headers).cloned();
        failure
    }

    async fn whole(&self, body: AnswerBody) -> Result<Begun, Failure> {
        let body = read_up_to(body, self.limits.answer_bytes).await?;
        let answer = self
            .format()
            .answer(&body)
            .map_err(|malformed| no_answer("not_an_answer", &malformed))?;
        if let Some(usage) = answer.usage {
            self.spent.note(usage);
        }
        match answer.error {
            Some(error) => Err(error_in_answer(&self.target, error)),
            None => Ok(Begun::Whole(body, answer.usage)),
        }
    }

    async fn stream(&self, body: AnswerBody, headers: &HeaderMap) -> Result<Begun, Failure> {
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !content_type
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("text/event-stream")
        {
            return Err(self.no_stream(body, content_type).await);
        }
        let mut reader = Box::new(EventReader::new(self, body));
        let mut begun = BytesMut::new();
        while !reader.content {
            match reader.next().await {
                Ok(Events::Bytes(events)) if begun.is_empty() && reader.content => {
                    return Ok(Begun::Stream(events, reader));
                }
                Ok(Events::Bytes(events)) => begun.extend_from_slice(&events),
                Ok(Events::Error(_, failure) | Events::Broken(_, failure)) | Err(failure) => return Err(failure),
                Ok(Events::End(_)) => {
                    return Err(Failure::on_the_wire(
                        Kind::CutOff,
                        "empty_stream",
                        "the stream ended without content",
                    ));
                }
            }
            if begun.len() > self.limits.held_bytes {
                let detail = format!("{} bytes came without content", begun.len());
                return Err(Failure::on_the_wire(Kind::BadResponse, "no_content", detail));
            }
        }
        Ok(Begun::Stream(begun.freeze(), reader))
    }

    /// A stream was asked for and something else came: an error, perhaps, that says why.
    async fn no_stream(&self, body: AnswerBody, content_type: &str) -> Failure {
        let body = read_error(body).await;
        match self.format().answer(&body).ok().and_then(|answer| answer.error) {
            Some(error) => error_in_answer(&self.target, error),
            None => {
                let detail = format!("a stream was asked for and `{content_type}` came");
                Failure::on_the_wire(Kind::BadResponse, "not_a_stream", detail)
            }
        }
    }
}

/// What an attempt has when content is there.
enum Begun {
    Whole(Bytes, Option<Usage>),
    Stream(Bytes, Box<EventReader>),
}

impl EventReader {
    fn new(order: &Order, body: AnswerBody) -> Self {
        let splitter = sse::Splitter::default();
        Self {
            format: order.format(),
            target: order.target.clone(),
            body,
            splitter,
            max_event_bytes: order.limits.answer_bytes,
            spent: order.spent.clone(),
            usage: None,
            content: false,
            ended: false,
            choices: 0,
            finished: 0,
        }
    }

    /// Whether nothing of the answer is missing: some servers leave the end marker out, none a choice's finish.
    pub fn is_complete(&self) -> bool {
        self.ended || (self.choices != 0 && self.choices == self.finished)
    }

    async fn next(&mut self) -> Result<Events, Failure> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next whole events. An error of the vendor's inside the stream is told apart, since before content it is a failure like
    /// any other.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Events, Failure>> {
        loop {
            let events = match ready!(self.body.poll_bytes(cx)) {
                Some(Ok(bytes)) => self.splitter.push(bytes),
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => {
                    let rest = self.splitter.finish();
                    return Poll::Ready(Ok(match self.read(rest) {
                        Events::Bytes(rest) => Events::End(rest),
                        failed => failed,
                    }));
                }
            };
            if self.splitter.pending() > self.max_event_bytes {
                let detail = format!("an event of more than {} bytes", self.max_event_bytes);
                return Poll::Ready(Err(Failure::on_the_wire(Kind::BadResponse, "event_too_large", detail)));
            }
            if !events.is_empty() {
                return Poll::Ready(Ok(self.read(events)));
            }
        }
    }

    /// Notes what some whole events mean. What follows an error or a frame that is none is dropped: an end marker there would pass a
    /// broken answer off as whole.
    fn read(&mut self, events: Bytes) -> Events {
        let mut unread: &[u8] = &events;
        while let Some((event, rest)) = sse::split_first(unread) {
            let frame = match self.format.frame(&event) {
                Ok(frame) => frame,
                Err(malformed) => {
                    let fine = events.len() - unread.len();
                    return Events::Broken(events.slice(..fine), no_answer("not_a_frame", &malformed));
                }
            };
            unread = rest;
            if let Some(error) = frame.error {
                let read = &events[..events.len() - unread.len()];
                let read = self.target.redacted(String::from_utf8_lossy(read).into_owned());
                return Events::Error(read.into(), error_in_answer(&self.target, error));
            }
            self.content |= frame.content;
            self.ended |= frame.end;
            self.choices |= frame.choices;
            self.finished |= frame.finished;
            if let Some(usage) = frame.usage {
                self.spent.note(usage);
                self.usage = Some(usage);
            }
        }
        Events::Bytes(events)
    }
}

/// A vendor's error in an answer that had begun well, without the key. It is taken out first: what is kept of a text is cut, and half a
/// key would not be found.
fn error_in_answer(target: &Target, error: VendorError) -> Failure {
    Failure::in_answer(VendorError {
        code: target.redacted(error.code),
        message: target.redacted(error.message),
        ..error
    })
}

/// Reads a body whole. What is longer than `limit` is no answer.
async fn read_up_to(mut body: AnswerBody, limit: usize) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(bytes) = body.bytes().await {
        let bytes = bytes.map_err(|error| broken(&error))?;
        if whole.len() + first.len() + bytes.len() > limit {
            let detail = format!("an answer of more than {limit} bytes");
            return Err(Failure::on_the_wire(Kind::BadResponse, "answer_too_large", detail));
        }
        // Most answers come in one piece, which then is not copied.
        if first.is_empty() && whole.is_empty() {
            first = bytes;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&bytes);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// The body of an error, as far as it comes: status and headers say enough if it does not.
async fn read_error(body: AnswerBody) -> Bytes {
    const LONGEST: Duration = Duration::from_secs(2);
    let read = tokio::time::timeout(LONGEST, read_up_to(body, MAX_ERROR_BYTES)).await;
    read.ok().and_then(Result::ok).unwrap_or_default()
}

/// The vendor's own id of a request, under whichever name it says it.
pub fn vendor_request(headers: &HeaderMap) -> Option<&HeaderValue> {
    ["x-request-id", "request-id", "apim-request-id"]
        .iter()
        .find_map(|name| headers.get(*name))
}

/// A moment that is so much later; one that no clock can tell is far away.
pub fn later(from: Instant, by: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86400 * 365);
    from + by.min(FAR)
}

/// A deadline has passed.
pub fn too_late(code: &str, since: Instant) -> Failure {
    Failure::on_the_wire(Kind::Timeout, code, format!("after {} ms", since.elapsed().as_millis()))
}

fn not_sent(error: SendError) -> Failure {
    match &error {
        SendError::Connect { .. } => Failure::on_the_wire(Kind::Connect, "connect", error.to_string()),
        SendError::ConnectTimeout(_) => Failure::on_the_wire(Kind::Connect, "connect_timeout", error.to_string()),
        SendError::Broken(cause) if cause.is_parse() => no_answer("not_http", cause),
        SendError::Broken(_) => Failure::on_the_wire(Kind::CutOff, "reset", error.to_string()),
    }
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::on_the_wire(Kind::CutOff, "cut_off", format!("the answer broke off: {error}"))
}

fn no_answer(code: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::on_the_wire(Kind::BadResponse, code, why.to_string())
}
