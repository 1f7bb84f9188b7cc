//! Whole events of a vendor's stream, and what they mean: passed through as they came, or written anew in the client's format.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::answer::{Event, Reason};
use crate::chat::{Frame, Usage};
use crate::connection::AnswerBody;
use crate::exchange::{Translation, Writer};
use crate::failure::{Failure, Kind, VendorError};
use crate::refusal;
use crate::snapshot::Target;
use crate::wire::{Decode, ErrorBody, Format, Malformed, eventstream, sse};

/// See the module.
pub struct EventReader {
    format: Format,
    target: Arc<Target>,
    body: AnswerBody,
    splitter: Splitter,
    decoder: Box<dyn Decode>,
    writer: Option<Writer>,
    max_event_bytes: usize,
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
    /// Choices that were begun, and those that were finished, a bit for each.
    choices: u128,
    finished: u128,
}

/// What an [`EventReader`] found next. Bytes are the client's; there may be none where what came says nothing in its format.
pub enum Events {
    /// Whole events.
    Bytes(Bytes),
    /// Events, the last of which is the vendor's error.
    Error(Bytes, Failure),
    /// Events, behind which something came that is none.
    Broken(Bytes, Failure),
    /// Nothing more will come.
    End(Bytes),
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
    /// Reads a body of a target that speaks `format`.
    pub fn new(
        format: Format,
        target: Arc<Target>,
        body: AnswerBody,
        translation: Option<Translation>,
        max_event_bytes: usize,
    ) -> Self {
        Self {
            splitter: Splitter::of(format),
            decoder: format.decoder(),
            writer: translation.map(Translation::writer),
            format,
            target,
            body,
            max_event_bytes,
            usage: None,
            content: false,
            refused: false,
            ended: false,
            spoken: false,
            choices: 0,
            finished: 0,
        }
    }

    /// Whether nothing of the answer is missing: some servers leave the end marker out, none a choice's finish.
    pub fn is_complete(&self) -> bool {
        self.ended || (self.choices != 0 && self.choices == self.finished)
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

    /// What ends the client's stream when the answer is complete; nothing where the vendor's own bytes do.
    pub fn close(&mut self) -> Bytes {
        let mut out = Vec::new();
        if let Some(writer) = &mut self.writer {
            writer.end(&mut out);
        }
        out.into()
    }

    /// What tells the client that its answer broke off, behind which nothing follows.
    pub fn error(&mut self, client: Format, error: &ErrorBody<'_>) -> Bytes {
        let Some(writer) = &mut self.writer else {
            return client.error_event(error);
        };
        let mut out = Vec::new();
        writer.error(error, &mut out);
        out.into()
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
            unread = rest;
            if let Some(error) = frame.error {
                let read = events.slice(..events.len() - unread.len());
                let failure = error_in_answer(&self.target, error);
                return Events::Error(self.clients_error(&read, written, &failure), failure);
            }
            self.note(&frame);
        }
        Events::Bytes(self.clients(events.clone(), written))
    }

    fn decode(&mut self, event: &sse::Event<'_>, written: &mut Vec<u8>) -> Result<Frame, Malformed> {
        let Some(writer) = &mut self.writer else {
            return self.format.frame(&mut *self.decoder, event);
        };
        let mut frame = Frame::default();
        self.decoder.event(event, &mut |event| {
            frame.note(&event);
            let is_unreadable = matches!(&event, Event::Finish(finish) if finish.reason == Reason::Malformed);
            if !is_unreadable {
                writer.event(event, written);
            }
        })?;
        Ok(frame)
    }

    fn note(&mut self, frame: &Frame) {
        self.spoken |= frame.content;
        self.refused |= frame.refused && !self.spoken;
        self.content |= frame.commits();
        self.ended |= frame.end;
        self.choices |= frame.choices;
        self.finished |= frame.finished;
        self.usage = frame.usage.or(self.usage);
    }

    /// The client's bytes: those that came, or those that were written.
    fn clients(&self, came: Bytes, written: Vec<u8>) -> Bytes {
        if self.writer.is_some() { written.into() } else { came }
    }

    fn clients_error(&mut self, came: &[u8], mut written: Vec<u8>, failure: &Failure) -> Bytes {
        let Some(writer) = &mut self.writer else {
            return self.target.redacted(String::from_utf8_lossy(came).into_owned()).into();
        };
        writer.error(&refusal::in_stream(failure), &mut written);
        written.into()
    }
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

/// An answer that broke off.
pub fn broken(error: &hyper::Error) -> Failure {
    Failure::on_the_wire(Kind::CutOff, "cut_off", format!("the answer broke off: {error}"))
}

fn no_frame(why: &Malformed) -> Failure {
    Failure::on_the_wire(Kind::BadResponse, "not_a_frame", why.to_string())
}
