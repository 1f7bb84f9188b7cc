//! One attempt: one request to one target, until its answer is worth committing to or it has failed. It does not decide what comes
//! next.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use tokio::time::{Instant, timeout_at};

use crate::ballast::{Load, Room};
use crate::chain::Pick;
use crate::chat::{Frame, Usage};
use crate::config::{Hold, Timeouts};
use crate::connect_error::Cause;
use crate::connection::{Answer, AnswerBody, Connections, Reach, SendError};
use crate::exchange::{Outgoing, Translation};
use crate::failure::{Failure, Kind, VendorError};
use crate::local_limit;
use crate::offload::{LARGE, Offload};
use crate::reader::{ENCODED, EventReader, Events, VendorStream, at_a_limit, broken, error_in_answer, no_room};
use crate::reporter::Reporter;
use crate::retry_after;
use crate::snapshot::Target;
use crate::telemetry::Spent;
use crate::wire::{Format, Malformed};

/// What to send, where, and within which limits.
pub struct Order {
    /// Where, with the right to do so, a place there and a key; and who is told how it went.
    pub reporter: Reporter,
    /// The request, ready for the vendor.
    pub outgoing: Outgoing,
    /// What the client speaks.
    pub client: Format,
    /// The client wants a stream.
    pub streaming: bool,
    /// Answers that it wants; 0 where it wants one.
    pub answers: u32,
    /// Deadlines, as short as target, route and pick make them.
    pub timeouts: Timeouts,
    /// Which of them it would fail.
    pub fair: Fair,
    /// The pick named a model of its own.
    pub own_model: bool,
    /// When the request itself runs out of time for content.
    pub content_by: Instant,
    /// Where large answers are decoded and encoded.
    pub offload: Arc<Offload>,
    /// Limits of what is held.
    pub limits: Limits,
    /// Where room for it is taken.
    pub room: Room,
    /// How much of a stream is held although content is there.
    pub hold: Option<Hold>,
    /// It goes on with an answer that another target began.
    pub goes_on: bool,
    /// Where the vendor's count of tokens is noted.
    pub spent: Arc<Spent>,
}

/// Which deadlines a well target keeps, so that one that misses them has failed. The others are the pick's doing.
#[derive(Debug, Clone, Copy)]
pub struct Fair {
    /// Until there is a connection.
    pub connect: bool,
    /// Until there is content.
    pub content: bool,
    /// From one frame to the next.
    pub between_frames: bool,
    /// Until the answer is complete.
    pub whole: bool,
}

impl Fair {
    /// Of an attempt with these deadlines, which are the operator's or the pick's; see [`Pick::fair_deadlines`].
    pub fn of(
        timeouts: &Timeouts,
        operators: &Timeouts,
        pick: &Pick,
        streaming: bool,
        usual: impl FnOnce() -> Option<Duration>,
    ) -> Self {
        let fair = operators.shortened(&pick.fair_deadlines(usual));
        Self {
            connect: fair.connect == timeouts.connect,
            content: fair.content(streaming) == timeouts.content(streaming),
            between_frames: fair.between_frames == timeouts.between_frames,
            whole: fair.whole == timeouts.whole,
        }
    }
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
    /// The vendor's safety system, or the model, refused before anything was said.
    pub refused: bool,
    /// What the request lost on its way to the vendor.
    pub warnings: Vec<String>,
    /// The type of an answer that was written anew in the client's format; `None`: as the vendor says.
    pub content_type: Option<&'static str>,
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
    /// Which of them the target would fail.
    pub fair: Fair,
    /// Who is told if it breaks off.
    pub reporter: Reporter,
}

/// Bytes of an error answer that are read: enough for any that is meant to be read.
const MAX_ERROR_BYTES: usize = 256 * 1024;

impl Order {
    /// Makes the attempt. Whoever drops this future cancels the vendor's request, which is nobody's failure.
    pub async fn run(self, connections: &Arc<Connections>) -> Result<Held, Failure> {
        let started = self.reporter.started;
        let own_by = self.content_within(started);
        match timeout_at(own_by.min(self.content_by), self.answer(connections, started)).await {
            Ok(Ok((headers, begun))) => Ok(self.held(headers, begun)),
            Ok(Err(failure)) => Err(self.failed(failure)),
            Err(_) if own_by <= self.content_by => {
                let failure = Failure {
                    picks_doing: !self.fair.content,
                    ..too_late("first_content_timeout", started)
                };
                Err(self.failed(failure))
            }
            // Others used the request's time up: what little was left of it says nothing about this target.
            Err(_) => Err(too_late("request_timeout", started)),
        }
    }

    fn failed(self, mut failure: Failure) -> Failure {
        let target = &self.reporter.target;
        failure.code = target.redacted(failure.code);
        failure.detail = target.redacted(failure.detail);
        // A model that the pick named is not what the target's credential is for.
        failure.picks_doing |= self.own_model && matches!(failure.status, Some(403 | 404));
        self.reporter.fail(&mut failure);
        failure
    }

    /// When content must be there.
    fn content_within(&self, started: Instant) -> Instant {
        later(started, self.timeouts.content(self.streaming))
    }

    fn held(mut self, headers: HeaderMap, begun: Begun) -> Held {
        self.reporter.commit(self.streaming);
        let (target, started) = (self.reporter.target.clone(), self.reporter.started);
        let (usage, refused, content) = match begun {
            Begun::Whole(bytes, frame) => (frame.usage, frame.refused && !frame.content, Content::Whole(bytes)),
            Begun::Stream(begun, reader) => {
                let refused = reader.refused;
                let flow = Flow {
                    begun,
                    reader,
                    timeouts: self.timeouts,
                    fair: self.fair,
                    reporter: self.reporter,
                };
                (None, refused, Content::Stream(Box::new(flow)))
            }
        };
        Held {
            target,
            started,
            headers,
            usage,
            refused,
            warnings: self.outgoing.warnings,
            content_type: self
                .outgoing
                .translation
                .map(|translation| translation.content_type(self.streaming)),
            content,
        }
    }

    async fn answer(&self, connections: &Arc<Connections>, started: Instant) -> Result<(HeaderMap, Begun), Failure> {
        let Outgoing { uri, body, .. } = &self.outgoing;
        let Reporter {
            target, ticket, key, ..
        } = &self.reporter;
        let credential = target.signer.sign(*key, &target.host, uri, body).await?;
        let answer = connections
            .send(
                &target.endpoint,
                || self.request(&credential),
                || ticket.still_holds(Instant::now()),
                Reach {
                    connect: self.timeouts.connect,
                    opened_after: ticket.connections_since(),
                },
            )
            .await
            .map_err(|error| self.not_sent(&error))?;
        let headers = &answer.head.headers;
        if let Some(headroom) = retry_after::headroom(headers, retry_after::clock(headers)) {
            target.health.note_headroom(headroom, started);
        }
        if answer.head.status != StatusCode::OK {
            return Err(self.refused(answer).await);
        }
        if !self.streaming {
            let whole = self.whole(answer.body, &answer.head.headers).await?;
            return Ok((answer.head.headers, whole));
        }
        let mut headers = answer.head.headers;
        let body = self.stream_body(answer.body, &mut headers).await?;
        let begun = self.stream(body).await?;
        Ok((headers, begun))
    }

    fn request(&self, credential: &[(HeaderName, HeaderValue)]) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::new(Full::new(self.outgoing.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.outgoing.uri.clone();
        *request.headers_mut() = self.reporter.target.headers.clone();
        for (name, value) in self.outgoing.headers.iter().chain(credential) {
            request.headers_mut().insert(name, value.clone());
        }
        request
    }

    fn not_sent(&self, error: &SendError) -> Failure {
        match error {
            SendError::Connect { error, .. } => Failure {
                picks_doing: error.cause.is_timeout() && !self.fair.connect,
                ..Failure::on_the_wire(connect_kind(error.cause), error.cause.code(), error.words.as_str())
            },
            SendError::Broken(cause) if local_limit::caused(cause) => at_a_limit(cause),
            SendError::Broken(cause) if cause.is_parse() => no_answer("not_http", cause),
            SendError::Broken(_) => Failure::on_the_wire(Kind::CutOff, "reset", error.to_string()),
        }
    }

    fn format(&self) -> Format {
        self.outgoing.api.format
    }

    async fn refused(&self, answer: Answer) -> Failure {
        let status = answer.head.status.as_u16();
        let text = read_error(answer.body, &self.room)
            .await
            .and_then(|body| text_of(&body));
        let (body, error) = match text {
            Ok(text) => {
                let body = Bytes::from(self.reporter.target.redacted(text));
                let error = self.format().vendor_error(&body);
                (body, error)
            }
            Err(unreadable) => (Bytes::new(), unreadable),
        };
        let is_clients = |body: &Bytes| self.format() == self.client && self.format().is_error_answer(body);
        let mut failure = Failure::answered(status, error, Some(body).filter(is_clients));
        let headers = &answer.head.headers;
        let limited = failure.kind == Kind::RateLimited;
        let now = retry_after::clock(headers);
        failure.retry_after = retry_after::stated(headers, now)
            .or(failure.retry_after)
            .or_else(|| retry_after::until_reset(headers, now).filter(|_| limited));
        failure.vendor_request = vendor_request(headers).cloned();
        failure
    }

    async fn whole(&self, body: AnswerBody, headers: &HeaderMap) -> Result<Begun, Failure> {
        let mut load = self.room.empty();
        let body = read_up_to(body, self.limits.answer_bytes, &mut load).await?;
        let read = if self.outgoing.is_count && self.outgoing.translation.is_none() {
            Ok((Frame::default(), body))
        } else if body.len() < LARGE {
            read_whole(self.format(), self.outgoing.translation.as_ref(), body)
        } else {
            let (format, translation) = (self.format(), self.outgoing.translation.clone());
            let work = {
                let body = body.clone();
                move || read_whole(format, translation.as_ref(), body)
            };
            self.offload.run(body.len(), work).await
        };
        let (frame, body) = read.map_err(|malformed| {
            let content_type = content_type(headers);
            no_answer("not_an_answer", &format!("{malformed} (content type `{content_type}`)"))
        })?;
        if let Some(usage) = frame.usage {
            self.spent.note(usage);
        }
        match frame.error {
            Some(error) => Err(error_in_answer(&self.reporter.target, error)),
            None => Ok(Begun::Whole(load.of(body), frame)),
        }
    }

    /// The body of an answer that is a stream, by what its type says or, where that says nothing, by its first bytes.
    async fn stream_body(&self, mut body: AnswerBody, headers: &mut HeaderMap) -> Result<AnswerBody, Failure> {
        let content_type = content_type(headers).to_owned();
        let stream_type = self.format().stream_type();
        let written = content_type.trim_start().to_ascii_lowercase();
        if written.starts_with(stream_type) {
            return Ok(body);
        }
        let is_generic = GENERIC_TYPES.contains(&written.split(';').next().unwrap_or_default().trim());
        if !is_generic || !self.begins_as_stream(&mut body).await? {
            return Err(self.no_stream(body, &content_type).await);
        }
        // Clients go by the type.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(stream_type));
        Ok(body)
    }

    /// Looks at the first bytes of a body, which stay there.
    async fn begins_as_stream(&self, body: &mut AnswerBody) -> Result<bool, Failure> {
        let mut begun = BytesMut::new();
        loop {
            if let Some(is_stream) = self.format().begins_as_stream(&begun) {
                body.put_back(begun.freeze());
                return Ok(is_stream);
            }
            match body.bytes().await {
                Some(bytes) => begun.extend_from_slice(&bytes.map_err(|error| broken(&error))?),
                None => {
                    body.put_back(begun.freeze());
                    return Ok(false);
                }
            }
        }
    }

    async fn stream(&self, body: AnswerBody) -> Result<Begun, Failure> {
        let reader = EventReader::new(VendorStream {
            format: self.format(),
            target: self.reporter.target.clone(),
            body,
            translation: self.outgoing.translation.clone(),
            goes_on: self.goes_on,
            answers: self.answers,
            max_event_bytes: self.limits.answer_bytes,
            spent: self.spent.clone(),
            load: self.room.empty(),
        });
        self.hold(Box::new(reader)).await
    }

    /// When a stream that has begun goes to the client at the latest: in any case before its target's time for content is over.
    fn held_until(&self, hold: &Hold) -> Instant {
        const BEFORE_THE_DEADLINE: Duration = Duration::from_millis(5);
        let latest = self.content_within(self.reporter.started).min(self.content_by);
        let latest = latest.checked_sub(BEFORE_THE_DEADLINE).unwrap_or(latest);
        later(Instant::now(), hold.time.unwrap_or(Duration::MAX)).min(latest)
    }

    /// Holds a stream until its content begins, and on for as long as the route wants.
    async fn hold(&self, mut reader: Box<EventReader>) -> Result<Begun, Failure> {
        let mut begun = BytesMut::new();
        let mut until: Option<Instant> = None;
        loop {
            let next = match until {
                None => reader.next().await,
                Some(until) => {
                    let last_frame = Instant::now();
                    let silent_by = later(last_frame, self.timeouts.between_frames);
                    match timeout_at(until.min(silent_by), reader.next()).await {
                        Ok(next) => next,
                        Err(_) if silent_by < until => return Err(self.silent(last_frame)),
                        Err(_) => break,
                    }
                }
            };
            match next {
                Ok(Events::Bytes(events)) if begun.is_empty() && reader.content && self.hold.is_none() => {
                    return Ok(Begun::Stream(events, reader));
                }
                Ok(Events::Bytes(events)) => begun.extend_from_slice(&events),
                // Its last event may lack the blank line behind it.
                Ok(Events::End(rest)) if reader.content && reader.is_complete() => {
                    begun.extend_from_slice(&rest);
                    break;
                }
                Ok(Events::End(_)) if !reader.content => {
                    let detail = "the stream ended without content";
                    return Err(Failure::on_the_wire(Kind::CutOff, "empty_stream", detail));
                }
                Ok(Events::End(_)) => {
                    let detail = "the stream ended before the answer did";
                    return Err(Failure::on_the_wire(Kind::CutOff, "no_end", detail));
                }
                Ok(Events::Error(_, failure) | Events::Broken(_, failure)) | Err(failure) => return Err(failure),
            }
            if reader.content {
                let Some(hold) = self.hold else { break };
                if reader.is_complete() || hold.tokens.is_some_and(|wanted| reader.contents >= wanted) {
                    break;
                }
                until.get_or_insert_with(|| self.held_until(&hold));
            }
            if reader.came > self.limits.held_bytes {
                if reader.content {
                    break;
                }
                let detail = format!("{} bytes came without content", reader.came);
                return Err(Failure::on_the_wire(Kind::BadResponse, "no_content", detail));
            }
        }
        Ok(Begun::Stream(begun.freeze(), reader))
    }

    /// A stream fell silent.
    fn silent(&self, since: Instant) -> Failure {
        Failure {
            picks_doing: !self.fair.between_frames,
            ..too_late("between_frames_timeout", since)
        }
    }

    /// A stream was asked for and something else came: an error, perhaps, that says why.
    async fn no_stream(&self, body: AnswerBody, content_type: &str) -> Failure {
        let body = match read_error(body, &self.room).await {
            Ok(body) => body,
            Err(unreadable) => return Failure::on_the_wire(Kind::BadResponse, &unreadable.code, unreadable.message),
        };
        match self.format().answer(&body).ok().and_then(|answer| answer.error) {
            Some(error) => error_in_answer(&self.reporter.target, error),
            None => {
                let detail = format!("a stream was asked for and `{content_type}` came");
                Failure::on_the_wire(Kind::BadResponse, "not_a_stream", detail)
            }
        }
    }
}

/// What an attempt has when content is there.
enum Begun {
    Whole(Bytes, Frame),
    Stream(Bytes, Box<EventReader>),
}

/// The class of a connection that was not opened.
fn connect_kind(cause: Cause) -> Kind {
    match cause {
        Cause::LocalLimit => Kind::LocalLimit,
        cause if cause.is_timeout() => Kind::Timeout,
        _ => Kind::Connect,
    }
}

/// What a vendor's whole answer means, and the client's bytes.
fn read_whole(format: Format, translation: Option<&Translation>, body: Bytes) -> Result<(Frame, Bytes), Malformed> {
    match translation {
        None => format.answer(&body).map(|frame| (frame, body)),
        Some(translation) => translation.whole(&body).map(|answer| (answer.frame, answer.body)),
    }
}

/// Reads a body whole, and takes room as it comes. What is longer than `limit` is no answer.
async fn read_up_to(mut body: AnswerBody, limit: usize, load: &mut Load) -> Result<Bytes, Failure> {
    let mut whole = Vec::new();
    let mut first = Bytes::new();
    while let Some(bytes) = body.bytes().await {
        let bytes = bytes.map_err(|error| broken(&error))?;
        if whole.len() + first.len() + bytes.len() > limit {
            let detail = format!("an answer of more than {limit} bytes");
            return Err(Failure::on_the_wire(Kind::BadResponse, "answer_too_large", detail));
        }
        // Most answers come in one piece, which then is not copied.
        if first.is_empty() && whole.is_empty() {
            load.grow_to(bytes.len()).map_err(no_room)?;
            first = bytes;
        } else {
            load.extend(&mut whole, first.len() + bytes.len(), limit)
                .map_err(no_room)?;
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&bytes);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

/// The body of an error, as far as it comes: status and headers say enough if it does not. An encoding that is not known is what the
/// error then says.
async fn read_error(body: AnswerBody, room: &Room) -> Result<Bytes, VendorError> {
    const LONGEST: Duration = Duration::from_secs(2);
    let mut load = room.empty();
    match tokio::time::timeout(LONGEST, read_up_to(body, MAX_ERROR_BYTES, &mut load)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(failure)) if failure.code == ENCODED => Err(VendorError {
            code: failure.code,
            message: failure.detail,
            ..VendorError::default()
        }),
        Ok(Err(_)) | Err(_) => Ok(Bytes::new()),
    }
}

/// The text of an error. Bytes that are no text are never shown to anybody.
fn text_of(body: &[u8]) -> Result<String, VendorError> {
    let is_text = |text: &&str| !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace());
    match std::str::from_utf8(body).ok().filter(is_text) {
        Some(text) => Ok(text.to_owned()),
        None => Err(VendorError {
            message: format!("the vendor's error is {} bytes that are not text", body.len()),
            ..VendorError::default()
        }),
    }
}

/// The content type of an answer, in the vendor's words.
fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    value.map_or("none", |value| value.to_str().unwrap_or("not text"))
}

/// Types of content that say nothing about it; some servers have one of these, or none, for their streams.
const GENERIC_TYPES: [&str; 5] = [
    "none",
    "",
    "text/plain",
    "application/octet-stream",
    "binary/octet-stream",
];

/// The vendor's own id of a request, under whichever name it says it.
pub fn vendor_request(headers: &HeaderMap) -> Option<&HeaderValue> {
    VENDOR_REQUEST.iter().find_map(|name| headers.get(name))
}

const VENDOR_REQUEST: [HeaderName; 4] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("request-id"),
    HeaderName::from_static("apim-request-id"),
    HeaderName::from_static("x-amzn-requestid"),
];

/// A moment that is so much later; one that no clock can tell is far away.
pub fn later(from: Instant, by: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(86400 * 365);
    from + by.min(FAR)
}

/// A deadline has passed.
pub fn too_late(code: &str, since: Instant) -> Failure {
    Failure::on_the_wire(Kind::Timeout, code, format!("after {} ms", since.elapsed().as_millis()))
}

fn no_answer(code: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::on_the_wire(Kind::BadResponse, code, why.to_string())
}
