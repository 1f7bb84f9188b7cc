//! Whole events of a vendor's stream, and what they mean: passed through as they came, or written anew in the client's format.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::answer::Event;
use crate::ballast::{Full, Load};
use crate::chat::{Frame, Usage};
use crate::connection::AnswerBody;
use crate::content_encoding::BodyError;
use crate::exchange::{Translation, Writer};
use crate::failure::{Failure, Kind, VendorError};
use crate::local_limit;
use crate::refusal;
use crate::snapshot::Target;
use crate::telemetry::Spent;
use crate::wire::{Decode, ErrorBody, Format, Malformed, eventstream, sse};

/// A stream as it comes from a vendor.
pub struct VendorStream {
    /// What the vendor speaks.
    pub format: Format,
    /// Whose it is.
    pub target: Arc<Target>,
    /// Its bytes.
    pub body: AnswerBody,
    /// How it becomes the client's; `None`: it passes through.
    pub translation: Option<Translation>,
    /// It goes on with an answer that another target began: nothing is written before [`EventReader::resume`].
    pub goes_on: bool,
    /// Answers in it that the client wants; 0 where it wants one.
    pub answers: u32,
    /// Bytes that one event may have.
    pub max_event_bytes: usize,
    /// Where the vendor's count of tokens is noted.
    pub spent: Arc<Spent>,
    /// Room for an event that has not come whole.
    pub load: Load,
}

/// See the module.
pub struct EventReader {
    format: Format,
    target: Arc<Target>,
    body: AnswerBody,
    answers: u32,
    splitter: Splitter,
    decoder: Box<dyn Decode>,
    output: Output,
    max_event_bytes: usize,
    spent: Arc<Spent>,
    load: Load,
    /// Tokens so far.
    pub usage: Option<Usage>,
    /// Content has been seen, or a finish without any.
    pub content: bool,
    /// The model refused before it said anything.
    pub refused: bool,
    /// The end marker was seen.
    pub ended: bool,
    /// Something was said.
    spoken: bool,
    /// Bytes that came.
    pub came: usize,
    /// Frames with content that came.
    pub contents: u32,
    /// Choices that were begun, and those that were finished, a bit for each.
    choices: u128,
    finished: u128,
}

/// What an [`EventReader`] found next. Bytes are the client's; there may be none where what came says nothing in its format.
pub enum Events {
    /// Whole events.
    Bytes(Bytes),
    /// Events, and the vendor's error: the last of them, where they pass through.
    Error(Bytes, Failure),
    /// Events, behind which something came that is none.
    Broken(Bytes, Failure),
    /// Nothing more will come.
    End(Bytes),
}

/// What becomes of the vendor's events.
enum Output {
    /// They go to the client as they came.
    AsTheyCame,
    /// They are written in the client's format.
    Written(Writer),
    /// They are kept until it is sure that this is the target that goes on with an answer.
    Kept(Translation, Vec<Event<'static>>),
}

/// Cuts a stream into whole events.
enum Splitter {
    /// Server-sent events.
    Lines(sse::Splitter),
    /// AWS's binary messages.
    Messages(eventstream::Splitter),
}

impl Splitter {
    fn of(format: Format) -> Self {
        match format {
            Format::Converse => Splitter::Messages(eventstream::Splitter::default()),
            _ => Splitter::Lines(sse::Splitter::default()),
        }
    }

    fn push(&mut self, bytes: Bytes) -> Bytes {
        match self {
            Splitter::Lines(splitter) => splitter.push(bytes),
            Splitter::Messages(splitter) => splitter.push(bytes),
        }
    }

    fn pending(&self) -> usize {
        match self {
            Splitter::Lines(splitter) => splitter.pending(),
            Splitter::Messages(splitter) => splitter.pending(),
        }
    }

    fn finish(&mut self) -> Bytes {
        match self {
            Splitter::Lines(splitter) => splitter.finish(),
            Splitter::Messages(splitter) => splitter.finish(),
        }
    }

    fn split_first<'a>(&self, bytes: &'a [u8]) -> Result<Option<(sse::Event<'a>, &'a [u8])>, Malformed> {
        match self {
            Splitter::Lines(_) => Ok(sse::split_first(bytes)),
            Splitter::Messages(_) => eventstream::split_first(bytes),
        }
    }
}

impl EventReader {
    /// Reads a stream.
    pub fn new(stream: VendorStream) -> Self {
        let output = match stream.translation {
            None => Output::AsTheyCame,
            Some(translation) if stream.goes_on => Output::Kept(translation, Vec::new()),
            Some(translation) => Output::Written(translation.writer()),
        };
        Self {
            output,
            splitter: Splitter::of(stream.format),
            decoder: stream.format.decoder(),
            format: stream.format,
            target: stream.target,
            body: stream.body,
            answers: stream.answers,
            max_event_bytes: stream.max_event_bytes,
            spent: stream.spent,
            load: stream.load,
            usage: None,
            content: false,
            refused: false,
            ended: false,
            spoken: false,
            came: 0,
            contents: 0,
            choices: 0,
            finished: 0,
        }
    }

    /// Whether the vendor's bytes go to the client as they came.
    pub fn passes_through(&self) -> bool {
        matches!(self.output, Output::AsTheyCame)
    }

    /// Whether nothing of the answer is missing: some servers leave the end marker out, none a choice's finish.
    pub fn is_complete(&self) -> bool {
        self.ended || (self.finished.count_ones() >= self.answers.clamp(1, u128::BITS) && self.choices == self.finished)
    }

    /// The next whole events.
    pub async fn next(&mut self) -> Result<Events, Failure> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next whole events. An error of the vendor's inside the stream is told apart, since before content it is a failure like
    /// any other.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Events, Failure>> {
        loop {
            let events = match ready!(self.body.poll_bytes(cx)) {
                Some(Ok(bytes)) => {
                    self.came += bytes.len();
                    self.splitter.push(bytes)
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => return Poll::Ready(Ok(self.last())),
            };
            if self.splitter.pending() > self.max_event_bytes {
                let detail = format!("an event of more than {} bytes", self.max_event_bytes);
                return Poll::Ready(Err(Failure::on_the_wire(Kind::BadResponse, "event_too_large", detail)));
            }
            if let Err(full) = self.load.resize(self.splitter.pending()) {
                return Poll::Ready(Err(no_room(full)));
            }
            if !events.is_empty() {
                return Poll::Ready(Ok(self.read(events)));
            }
        }
    }

    /// The last event, whose blank line never came. Clients drop an event without it, so it is added where the event says something;
    /// half an event would swallow what is told behind it.
    fn last(&mut self) -> Events {
        let said = |reader: &Self| (reader.ended, reader.finished, reader.contents, reader.usage);
        let rest = self.splitter.finish();
        // Google's own way to break a stream off.
        if let Some(error) = bare_error(self.format, &rest) {
            let failure = error_in_answer(&self.target, error);
            return Events::Error(self.clients_error(&[], &[], Vec::new(), &failure), failure);
        }
        let before = said(self);
        match self.read(rest) {
            Events::Bytes(rest) if !self.passes_through() => Events::End(rest),
            Events::Bytes(rest) if said(self) != before => Events::End(with_blank_line(&rest)),
            Events::Bytes(_) => Events::End(Bytes::new()),
            failed => failed,
        }
    }

    /// What ends the client's stream when the answer is complete; nothing where the vendor's own bytes did.
    pub fn close(&mut self) -> Bytes {
        let mut out = Vec::new();
        match &mut self.output {
            Output::Written(writer) => writer.end(&mut out),
            Output::AsTheyCame if !self.ended => return Bytes::from_static(self.format.end_marker()),
            Output::AsTheyCame | Output::Kept(..) => {}
        }
        out.into()
    }

    /// What tells the client that its answer broke off, behind which nothing follows.
    pub fn error(&mut self, client: Format, error: &ErrorBody<'_>) -> Bytes {
        let Output::Written(writer) = &mut self.output else {
            return client.error_event(error);
        };
        let mut out = Vec::new();
        writer.error(error, &mut out);
        out.into()
    }

    /// Gives up what another target needs to go on with this answer, tokens so far included; `None` when none can.
    pub fn interrupt(&mut self) -> Option<Interrupted> {
        let Output::Written(writer) = std::mem::replace(&mut self.output, Output::AsTheyCame) else {
            return None;
        };
        if writer.said().is_none() {
            self.output = Output::Written(writer);
            return None;
        }
        Some(Interrupted {
            writer,
            usage: self.usage,
        })
    }

    /// Goes on with an answer that another target began: the bytes of what this one said so far.
    pub fn resume(&mut self, interrupted: Interrupted) -> Bytes {
        let Interrupted { mut writer, usage } = interrupted;
        let mut out = Vec::new();
        if let Output::Kept(translation, events) = std::mem::replace(&mut self.output, Output::AsTheyCame) {
            writer.resume(translation, usage, &mut out);
            events.into_iter().for_each(|event| writer.event(event, &mut out));
        }
        self.output = Output::Written(writer);
        out.into()
    }

    /// Tokens so far, those of the targets that began the answer included.
    pub fn total_usage(&self) -> Option<Usage> {
        match &self.output {
            Output::Written(writer) => writer.total_usage(self.usage),
            _ => self.usage,
        }
    }

    /// Notes what some whole events mean. What follows an error or a frame that is none is dropped: an end marker there would pass a
    /// broken answer off as whole.
    fn read(&mut self, events: Bytes) -> Events {
        let mut written = Vec::new();
        let mut unread: &[u8] = &events;
        loop {
            let before = events.len() - unread.len();
            let found = self.splitter.split_first(unread).and_then(|found| {
                let Some((event, rest)) = found else { return Ok(None) };
                let frame = self.decode(&event, &mut written)?;
                Ok(Some((frame, rest)))
            });
            let (frame, rest) = match found {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(malformed) => {
                    let fine = self.clients(events.slice(..before), written);
                    return Events::Broken(fine, no_frame(&malformed));
                }
            };
            if let Some(usage) = frame.usage {
                self.spent.note(usage);
                self.usage = Some(usage);
            }
            if let Some(error) = frame.error {
                let failure = error_in_answer(&self.target, error);
                let (fine, event) = events.split_at(before);
                let event = &event[..event.len() - rest.len()];
                return Events::Error(self.clients_error(fine, event, written, &failure), failure);
            }
            unread = rest;
            self.note(&frame);
        }
        Events::Bytes(self.clients(events.clone(), written))
    }

    fn decode(&mut self, event: &sse::Event<'_>, written: &mut Vec<u8>) -> Result<Frame, Malformed> {
        let mut frame = Frame::default();
        let decoder = &mut *self.decoder;
        match &mut self.output {
            Output::AsTheyCame => return self.format.frame(decoder, event),
            Output::Written(writer) => decoder.event(event, &mut |event| {
                frame.note(&event);
                writer.event(event, written);
            })?,
            Output::Kept(_, events) => decoder.event(event, &mut |event| {
                frame.note(&event);
                events.push(event.into_owned());
            })?,
        }
        Ok(frame)
    }

    fn note(&mut self, frame: &Frame) {
        self.spoken |= frame.content;
        self.contents += u32::from(frame.content);
        self.refused |= frame.refused && !self.spoken;
        self.content |= frame.commits();
        self.ended |= frame.end;
        self.choices |= frame.choices;
        self.finished |= frame.finished;
    }

    /// The client's bytes: those that came, or those that were written.
    fn clients(&self, came: Bytes, written: Vec<u8>) -> Bytes {
        match self.output {
            Output::AsTheyCame => came,
            Output::Written(_) | Output::Kept(..) => written.into(),
        }
    }

    /// What came before the vendor's error; where bytes pass through, its error too, as one that the client's SDK raises.
    fn clients_error(&self, fine: &[u8], event: &[u8], written: Vec<u8>, failure: &Failure) -> Bytes {
        if !self.passes_through() {
            return written.into();
        }
        let is_raised = sse::split_first(event).is_some_and(|(event, _)| self.format.raises(&event));
        let error = if is_raised {
            let event = self.target.redacted(String::from_utf8_lossy(event).into_owned());
            with_blank_line(event.as_bytes())
        } else {
            self.format.error_event(&refusal::in_stream(failure))
        };
        [fine, &error].concat().into()
    }
}

/// What another target needs to go on with an answer.
pub struct Interrupted {
    writer: Writer,
    usage: Option<Usage>,
}

impl Interrupted {
    /// The text that the client has.
    pub fn said(&self) -> &str {
        self.writer.said().unwrap_or_default()
    }

    /// Gives up: what tells the client that its answer broke off.
    pub fn error(mut self, error: &ErrorBody<'_>) -> Bytes {
        let mut out = Vec::new();
        self.writer.error(error, &mut out);
        out.into()
    }

    /// Tokens so far.
    pub fn usage(&self) -> Option<Usage> {
        self.writer.total_usage(self.usage)
    }
}

/// An event with the blank line that ends it.
fn with_blank_line(event: &[u8]) -> Bytes {
    let ends = |end: &[u8]| event.ends_with(end);
    let missing: &[u8] = if ends(b"\n\n") || ends(b"\n\r\n") || ends(b"\r\r") {
        b""
    } else if ends(b"\n") {
        b"\n"
    } else {
        b"\n\n"
    };
    [event, missing].concat().into()
}

/// The error that stands bare where an event should.
fn bare_error(format: Format, rest: &[u8]) -> Option<VendorError> {
    if format == Format::Converse || !rest.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    format.answer(rest).ok()?.error
}

/// A vendor's error in an answer that had begun well, without the key. It is taken out first: what is kept of a text is cut, and half a
/// key would not be found.
pub fn error_in_answer(target: &Target, error: VendorError) -> Failure {
    Failure::in_answer(VendorError {
        code: target.redacted(error.code),
        message: target.redacted(error.message),
        ..error
    })
}

/// The code of an answer whose content-encoding cannot be decoded.
pub const ENCODED: &str = "encoded";

/// The gateway has no room for more of this answer, which says nothing about who gives it.
pub fn no_room(full: Full) -> Failure {
    let detail = match full {
        Full::Gateway => "no room for whole answers is left (`max_answers_mib` of [server])",
        Full::Client => "the client's share of the room for whole answers is used (`client_share` of [server])",
    };
    Failure::on_the_wire(Kind::LocalLimit, "no_room", detail)
}

/// An answer that broke off, or that cannot be decoded.
pub fn broken(error: &BodyError) -> Failure {
    match error {
        BodyError::Wire(error) if local_limit::caused(error) => at_a_limit(error),
        BodyError::Wire(error) => {
            Failure::on_the_wire(Kind::CutOff, "cut_off", format!("the answer broke off: {error}"))
        }
        BodyError::Encoding(why) => Failure::on_the_wire(Kind::BadResponse, ENCODED, why.as_str()),
    }
}

/// The gateway's own failure.
pub fn at_a_limit(cause: &dyn std::error::Error) -> Failure {
    let causes = std::iter::successors(Some(cause), |cause| cause.source());
    let words: Vec<String> = causes.map(ToString::to_string).collect();
    Failure::on_the_wire(Kind::LocalLimit, "local_limit", words.join(": "))
}

fn no_frame(why: &Malformed) -> Failure {
    Failure::on_the_wire(Kind::BadResponse, "not_a_frame", why.to_string())
}
