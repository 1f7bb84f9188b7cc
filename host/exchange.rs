//! How one client's request becomes one vendor's, and the vendor's answer the client's: passed through where both speak the same
//! format, translated where they do not. Pure.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri};

use crate::answer::{Answer, Event, Reason};
use crate::chat::{Frame, Usage, estimated_tokens};
use crate::conversation::{Block, Conversation, Output, Role, Turn};
use crate::offload::LARGE;
use crate::snapshot::Target;
use crate::vendor::Api;
use crate::wire::fit;
use crate::wire::loss::{self, Loss, Lossy};
use crate::wire::{Asked, Call, Dialect, Encode, ErrorBody, Format, Inquiry, Malformed, gemini, signature};

/// What the client's side of an exchange is.
pub struct Side {
    /// What it speaks.
    pub format: Format,
    /// What it wants.
    pub operation: Operation,
    /// A stream of Gemini's is wanted as one JSON array, not as events.
    pub as_array: bool,
    /// When it asked, in seconds since 1970.
    pub created: u64,
    /// Those of its headers that may go along to vendors of the same format.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a client wants of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An answer, or embeddings.
    Answer,
    /// The number of tokens of a request.
    Count,
}

/// Bytes from which on a body that passes through is copied elsewhere. Where a vendor's rules fit its messages, that takes some
/// nanoseconds for each.
const LARGE_TO_COPY: usize = 256 << 10;

/// A request, ready for one target.
#[derive(Debug)]
pub struct Outgoing {
    /// The API that it is for.
    pub api: &'static Api,
    /// Where on the target's host.
    pub uri: Uri,
    /// What goes along beside the target's own headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// How the answer becomes the client's; `None`: it passes through.
    pub translation: Option<Translation>,
    /// What was lost on the way, for the client to read.
    pub warnings: Vec<String>,
    /// A number of tokens is asked for: its answer is no answer of a model.
    pub is_count: bool,
}

/// Why a request cannot go to a target.
#[derive(Debug)]
pub enum Unable {
    /// The target cannot serve it: the field, and why.
    Lost(String, &'static str),
    /// The client's bytes are at fault, wherever they go.
    Malformed(Malformed),
    /// The target's vendor has no such API.
    NoApi,
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unable::Lost(field, why) => write!(f, "{field}: {why}"),
            Unable::Malformed(malformed) => malformed.fmt(f),
            Unable::NoApi => f.write_str("the vendor has no such API"),
        }
    }
}

impl From<Malformed> for Unable {
    fn from(malformed: Malformed) -> Self {
        Unable::Malformed(malformed)
    }
}

/// What is asked of a target beyond the client's request.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The gateway's id of the request.
    pub id: String,
    /// The vendor's name for the model.
    pub model: String,
    /// JSON Merge Patch over the client's body.
    pub patch: Option<String>,
    /// What is done about what cannot be carried.
    pub lossy: Lossy,
    /// Whether another target may have to go on with the answer, or this one does.
    pub continuation: Continuation,
}

/// What an attempt has to do with going on with an answer that broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Continuation {
    /// Nothing.
    Never,
    /// Another target may have to go on with its answer, which therefore does not pass through.
    Possible,
    /// It goes on with an answer of which the client has this text.
    Of(String),
}

impl Side {
    /// Whether it takes long to make of the client's request what a target gets: a large body is decoded, or copied.
    pub fn takes_long(&self, inquiry: &Inquiry, target: &Target, wish: &Wish) -> bool {
        let abilities = target.rules.abilities_of(&wish.model);
        let is_copied = target
            .rules
            .vendor
            .api(self.format, abilities)
            .is_some_and(|api| api.format == self.format && api.dialect.body_version.is_none())
            && wish.patch.is_none()
            && wish.continuation == Continuation::Never
            && !self.as_array;
        inquiry.body.len() >= if is_copied { LARGE_TO_COPY } else { LARGE }
    }

    /// The client's request as a target gets it.
    pub fn outgoing(&self, inquiry: &Inquiry, target: &Target, wish: &Wish) -> Result<Outgoing, Unable> {
        let abilities = target.rules.abilities_of(&wish.model);
        let api = target.rules.vendor.api(self.format, abilities).ok_or(Unable::NoApi)?;
        let is_own = api.format == self.format;
        let template = match self.operation {
            Operation::Count if is_own => api.count.ok_or(Unable::NoApi)?,
            Operation::Count => return Err(Unable::NoApi),
            Operation::Answer if inquiry.request.streaming => api.stream,
            Operation::Answer => api.whole,
        };
        let mut outgoing = Outgoing {
            api,
            uri: target.uri(template, &wish.model),
            headers: self.headers_for(api, is_own),
            body: Bytes::new(),
            translation: None,
            warnings: Vec::new(),
            is_count: self.operation == Operation::Count,
        };
        let patch = wish.patch.as_deref();
        let is_begun = matches!(wish.continuation, Continuation::Of(_));
        if is_own && !is_begun && !signature::may_be_in(&inquiry.body) {
            outgoing.body = match api.dialect.body_version {
                Some(version) => self.format.pass_without_model(inquiry, version, patch)?,
                None => self.format.pass_through(inquiry, &wish.model, patch)?,
            };
            if self.format == Format::OpenAiChat {
                outgoing.body = fit::fit_chat(outgoing.body, &api.rules);
            }
            // Neither is there a vendor's array to pass through: it is asked for events.
            let is_rewritten = wish.continuation == Continuation::Possible || self.as_array;
            if is_rewritten && inquiry.request.streaming {
                self.rewrite(inquiry, wish, &mut outgoing)?;
            }
            return Ok(outgoing);
        }
        if self.format.is_embeddings() {
            let body = self.format.pass_through(inquiry, &wish.model, patch)?;
            outgoing.body = gemini::embeddings::to_gemini(&body, &wish.model)?.into();
            outgoing.translation = Some(self.translation(api.format, inquiry, wish, Vec::new()));
            return Ok(outgoing);
        }
        self.translate(inquiry, target, wish, outgoing)
    }

    /// Has the answer written anew in its own format. What that would lose passes through as it comes: nobody else could go on with it.
    fn rewrite(&self, inquiry: &Inquiry, wish: &Wish, outgoing: &mut Outgoing) -> Result<(), Unable> {
        let conversation = self.format.decode_request(&inquiry.body)?;
        for Loss { field, why, refused } in loss::of_answer(&conversation, self.format, wish.lossy) {
            if !self.as_array {
                return Ok(());
            }
            if refused {
                return Err(Unable::Lost(field.into_owned(), why));
            }
            outgoing.warnings.push(format!("{field}: {why}"));
        }
        outgoing.translation = Some(self.translation(self.format, inquiry, wish, Vec::new()));
        Ok(())
    }

    fn translate(
        &self,
        inquiry: &Inquiry,
        target: &Target,
        wish: &Wish,
        mut outgoing: Outgoing,
    ) -> Result<Outgoing, Unable> {
        let api = outgoing.api;
        let patched;
        let body = match wish.patch.as_deref() {
            None => &inquiry.body,
            patch @ Some(_) => {
                patched = self.format.pass_through(inquiry, &inquiry.request.model, patch)?;
                &patched
            }
        };
        self.format.check_items(body)?;
        let mut conversation = self.format.decode_request(body)?;
        if let Continuation::Of(said) = &wish.continuation
            && !said.is_empty()
        {
            go_on(&mut conversation, said)?;
        }
        outgoing.lose(loss::losses(&conversation, self.format, api.format, wish.lossy))?;
        let abilities = target.rules.abilities_of(&wish.model);
        let changes = fit::fit(&mut conversation, &api.rules, abilities);
        outgoing.lose(loss::of_changes(&changes, self.format, wish.lossy))?;
        let dialect = Dialect {
            thinking_budget: abilities.thinking == fit::Thinking::Budget,
            ..api.dialect
        };
        let call = Call {
            client: self.format,
            model: &wish.model,
            streaming: inquiry.request.streaming,
            default_max_tokens: target.rules.default_max_tokens(),
            dialect: &dialect,
        };
        let encoded = api.format.encode_request(&conversation, &call)?;
        outgoing.body = encoded.body.into();
        let mut translation = self.translation(api.format, inquiry, wish, encoded.renamed);
        if let Continuation::Of(said) = &wish.continuation {
            translation.overlap = api.format.not_repeated(said).to_owned();
        }
        outgoing.translation = Some(translation);
        Ok(outgoing)
    }

    fn translation(
        &self,
        vendor: Format,
        inquiry: &Inquiry,
        wish: &Wish,
        renamed: Vec<(String, String)>,
    ) -> Translation {
        let asked = Asked {
            id: wish.id.clone(),
            created: self.created,
            model: inquiry.request.model.clone(),
            body: inquiry.body.clone(),
        };
        Translation {
            client: self.format,
            vendor,
            as_array: self.as_array,
            asked: Arc::new(asked),
            renamed,
            overlap: String::new(),
        }
    }

    fn headers_for(&self, api: &Api, is_own: bool) -> Vec<(HeaderName, HeaderValue)> {
        let goes_along = |(name, _): &&(HeaderName, HeaderValue)| is_own && api.forwarded.contains(&name.as_str());
        let mut headers: Vec<_> = self.headers.iter().filter(goes_along).cloned().collect();
        for (name, value) in api.fixed {
            if headers.iter().all(|(there, _)| there.as_str() != *name) {
                headers.push((HeaderName::from_static(name), HeaderValue::from_static(value)));
            }
        }
        headers
    }
}

impl Outgoing {
    /// Warns of what is lost, unless that may not be.
    fn lose(&mut self, losses: Vec<Loss<'_>>) -> Result<(), Unable> {
        for Loss { field, why, refused } in losses {
            if refused {
                return Err(Unable::Lost(field.into_owned(), why));
            }
            self.warnings.push(format!("{field}: {why}"));
        }
        Ok(())
    }
}

/// Asks to go on with an answer of which the client has this text.
fn go_on(conversation: &mut Conversation<'_>, said: &str) -> Result<(), Unable> {
    // Models that must answer in JSON begin a new document, whatever stands before.
    if !matches!(conversation.output, Output::Text) {
        let why = "an answer in JSON cannot be gone on with";
        return Err(Unable::Lost("messages".into(), why));
    }
    let spent = estimated_tokens(said.len()).into();
    conversation.max_tokens = conversation.max_tokens.map(|most| most.saturating_sub(spent).max(1));
    let blocks = vec![Block::Text(said.to_owned().into())];
    let role = Role::Assistant;
    conversation.turns.push(Turn { role, blocks });
    Ok(())
}

/// How a vendor's answer becomes a client's.
#[derive(Debug, Clone)]
pub struct Translation {
    client: Format,
    vendor: Format,
    as_array: bool,
    asked: Arc<Asked>,
    renamed: Vec<(String, String)>,
    /// White space that the client has already and the vendor was not sent: its answer may begin with it.
    overlap: String,
}

/// A whole answer, in the client's format.
pub struct Translated {
    /// What it means to the relay.
    pub frame: Frame,
    /// The client's bytes.
    pub body: Bytes,
}

impl Translation {
    /// A vendor's whole answer.
    pub fn whole(&self, body: &[u8]) -> Result<Translated, Malformed> {
        if self.vendor.is_embeddings() {
            let (body, usage) = gemini::embeddings::from_gemini(body, &self.asked)?;
            let frame = Frame {
                content: true,
                end: true,
                usage,
                ..Frame::default()
            };
            let body = body.into();
            return Ok(Translated { frame, body });
        }
        let mut answer = Answer::default();
        let mut frame = Frame::default();
        self.vendor.decode_answer(body, &mut |event| {
            frame.note(&event);
            if let Some(event) = self.clients(event) {
                answer.add(&event);
            }
        })?;
        frame.end = true;
        let body = self.client.encode_answer(&answer, &self.asked).into();
        Ok(Translated { frame, body })
    }

    /// The content type of what the client gets.
    pub fn content_type(&self, is_stream: bool) -> &'static str {
        if is_stream && !self.as_array {
            self.client.stream_type()
        } else {
            "application/json"
        }
    }

    /// What writes a stream of this translation.
    pub fn writer(self) -> Writer {
        let encoder = if self.as_array {
            gemini::Gemini::array_encoder(&self.asked)
        } else {
            self.client.encoder(&self.asked)
        };
        Writer {
            translation: self,
            encoder,
            has_ended: false,
            said: Some(String::new()),
            is_thinking: false,
            before: Usage::default(),
            is_resumed: false,
        }
    }

    /// An event of the vendor's as the client's encoder may have it.
    fn clients<'a>(&self, event: Event<'a>) -> Option<Event<'a>> {
        let is_foreign = self.vendor != self.client;
        let mark = |proof: Cow<'a, str>| -> Cow<'a, str> {
            if is_foreign {
                signature::marked(&proof, self.vendor).into()
            } else {
                proof
            }
        };
        Some(match event {
            Event::ToolStart {
                index,
                id,
                name,
                signature,
            } => Event::ToolStart {
                index,
                id: self.unique(id),
                name: self.original(name),
                signature: signature.map(mark),
            },
            Event::Signature(proof) => Event::Signature(mark(proof)),
            Event::Redacted(data) => Event::Redacted(mark(data)),
            Event::Opaque { .. } if is_foreign => return None,
            other => other,
        })
    }

    /// The id of a call, for a client of another format, which may want ids to be unique in the whole conversation: some servers begin with
    /// `call_0` in every answer.
    fn unique<'a>(&self, id: Cow<'a, str>) -> Cow<'a, str> {
        const LONG_ENOUGH: usize = 9;
        if id.len() >= LONG_ENOUGH || self.vendor == self.client {
            return id;
        }
        let request = self.asked.id.rsplit('_').next().unwrap_or_default();
        format!("{id}_{}", &request[..request.len().min(12)]).into()
    }

    fn original<'a>(&self, name: Cow<'a, str>) -> Cow<'a, str> {
        let original = self.renamed.iter().find(|(there, _)| *there == name);
        original.map_or(name, |(_, original)| original.clone().into())
    }
}

/// Writes a translated stream, and remembers what another target would need to go on with it.
pub struct Writer {
    translation: Translation,
    encoder: Box<dyn Encode>,
    has_ended: bool,
    /// The text so far; `None` when nobody else can go on with the answer.
    said: Option<String>,
    /// The last that was written was a thought.
    is_thinking: bool,
    /// Tokens of the targets before this one.
    before: Usage,
    /// Another target has gone on with the answer.
    is_resumed: bool,
}

/// Bytes of an answer that are kept so that another target can go on with it.
const MAX_SAID: usize = 1024 * 1024;

impl Writer {
    /// Writes what one event of the vendor's is for the client.
    pub fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::End => return self.end(out),
            Event::Error(_) => return,
            // Its own vendor cannot read what the model said: the failure is told, not this.
            Event::Finish(finish) if finish.reason == Reason::Malformed => return,
            Event::Start { .. } if self.is_resumed => return,
            _ if self.has_ended => return,
            _ => {}
        }
        let event = match event {
            Event::Text(text) if !self.translation.overlap.is_empty() => match self.unheard(text) {
                text if text.is_empty() => return,
                text => Event::Text(text),
            },
            event => event,
        };
        self.remember(&event);
        if let Some(event) = self.translation.clients(self.summed(event)) {
            self.encoder.event(&event, out);
        }
    }

    fn summed<'a>(&self, event: Event<'a>) -> Event<'a> {
        match event {
            Event::Usage(usage) => Event::Usage(self.before + usage),
            other => other,
        }
    }

    /// What the client does not have yet of a text.
    fn unheard<'a>(&mut self, text: Cow<'a, str>) -> Cow<'a, str> {
        let overlap = std::mem::take(&mut self.translation.overlap);
        let same = overlap.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let same = text.floor_char_boundary(same);
        if same == text.len() {
            self.translation.overlap = overlap[same..].to_owned();
        }
        match text {
            Cow::Borrowed(text) => text[same..].into(),
            Cow::Owned(text) => text[same..].to_owned().into(),
        }
    }

    fn remember(&mut self, event: &Event<'_>) {
        self.is_thinking = match event {
            Event::Reasoning(_) | Event::Signature(_) | Event::Redacted(_) => true,
            Event::Usage(_) => self.is_thinking,
            _ => false,
        };
        match (event, &mut self.said) {
            (Event::Text(text), Some(said)) if said.len() + text.len() <= MAX_SAID => said.push_str(text),
            // A call that is cut in the middle cannot be gone on with, nor can what is too long or finished.
            (Event::Text(_) | Event::ToolStart { .. } | Event::Refusal(_) | Event::Finish(_), said) => *said = None,
            _ => {}
        }
    }

    /// What another target needs to go on; `None` when none can.
    pub fn said(&self) -> Option<&str> {
        self.said.as_deref().filter(|_| !self.has_ended)
    }

    /// Writes the end, once.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.encoder.event(&Event::End, out);
        }
    }

    /// Writes an error, behind which nothing follows.
    pub fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.encoder.error(error, out);
        }
    }

    /// Goes on with another target's answer, after one that took so many tokens.
    pub fn resume(&mut self, next: Translation, before: Option<Usage>, out: &mut Vec<u8>) {
        // What the one thought is not what the other thinks, nor is it signed by it.
        if std::mem::take(&mut self.is_thinking) {
            self.encoder.event(&Event::BlockEnd, out);
        }
        self.translation = next;
        self.before = self.before + before.unwrap_or_default();
        self.is_resumed = true;
    }

    /// Tokens of all targets, of which the present one has counted so many.
    pub fn total_usage(&self, present: Option<Usage>) -> Option<Usage> {
        if self.is_resumed {
            return Some(self.before + present.unwrap_or_default());
        }
        present
    }
}
