//! A vendor's answer in the words of no wire format: the events of a stream, and the whole answer that they add up to. Decoders make
//! events, encoders take them; a whole answer is the fold of its stream.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::chat::Usage;
use crate::conversation::ToolCall;
use crate::failure::VendorError;

/// What one step of an answer says. Answers with one choice only; more are passed through or refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// The answer begins: at most once, before everything else that has content.
    Start {
        /// The vendor's name for the answer.
        id: Option<Cow<'a, str>>,
        /// The model that answers, as the vendor says it.
        model: Option<Cow<'a, str>>,
    },
    /// More text. Where the format has blocks, [`Event::BlockEnd`] stands between two texts.
    Text(Cow<'a, str>),
    /// More of why the model will not answer, where the format tells that apart from text.
    Refusal(Cow<'a, str>),
    /// More reasoning.
    Reasoning(Cow<'a, str>),
    /// The vendor's proof of the reasoning before it.
    Signature(Cow<'a, str>),
    /// Reasoning for the vendor's eyes only.
    Redacted(Cow<'a, str>),
    /// A tool call begins.
    ToolStart {
        /// Tells calls that are interleaved apart; counts tool calls only, from 0.
        index: u32,
        /// The call's name for its result; never empty.
        id: Cow<'a, str>,
        /// The tool.
        name: Cow<'a, str>,
        /// The vendor's proof of the thought behind the call.
        signature: Option<Cow<'a, str>>,
    },
    /// More of a call's arguments: a fragment of JSON text.
    ToolArguments {
        /// Which call.
        index: u32,
        /// The fragment.
        fragment: Cow<'a, str>,
    },
    /// A call is complete. Formats that do not say so leave it out.
    ToolEnd {
        /// Which call.
        index: u32,
    },
    /// The open text or reasoning is complete. Formats that do not say so leave it out.
    BlockEnd,
    /// What the vendor's format alone can say, such as a citation or a server's tool: only an encoder of the same format repeats it.
    Opaque {
        /// What it is, in the words of its format.
        what: Cow<'a, str>,
        /// Its JSON.
        json: Cow<'a, str>,
    },
    /// Tokens so far; the last that is seen counts.
    Usage(Usage),
    /// The model has finished. Usage may still follow.
    Finish(Finish<'a>),
    /// The vendor failed, in the middle of its answer.
    Error(VendorError),
    /// The format's end marker. Where a format has none, whoever reads the stream says it when the stream has ended.
    End,
}

/// Why a model stopped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finish<'a> {
    /// The reason, unified.
    pub reason: Reason,
    /// The reason in the vendor's own word.
    pub raw: Cow<'a, str>,
    /// The stop text that was met, where the format says it.
    pub stop_sequence: Option<Cow<'a, str>>,
}

/// Why a model stopped, in terms that all formats can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reason {
    /// It had said everything, or a server's tool takes a pause.
    #[default]
    Stop,
    /// It met a stop text.
    StopSequence,
    /// It was cut at the limit of tokens.
    Length,
    /// It was cut at the end of its context window.
    ContextWindow,
    /// It waits for the results of tools.
    ToolCalls,
    /// A safety system stopped it, or it refused.
    Refused,
    /// It made a tool call or an answer that its own vendor cannot read: a failure, not an answer.
    Malformed,
}

/// A whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The vendor's name for it.
    pub id: Option<String>,
    /// The model that answered, as the vendor says it.
    pub model: Option<String>,
    /// What it says, in order.
    pub blocks: Vec<Piece>,
    /// Why it stopped, if it did.
    pub finish: Option<Finish<'static>>,
    /// Tokens, if they were counted.
    pub usage: Option<Usage>,
    /// The last block takes more of its kind.
    open: bool,
    /// The place of each tool call among the blocks, by its index.
    calls: BTreeMap<u32, usize>,
}

/// A piece of a whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// Why the model will not answer.
    Refusal(String),
    /// What it thought.
    Reasoning {
        /// The text.
        text: String,
        /// The vendor's proof.
        signature: Option<String>,
    },
    /// Reasoning for the vendor's eyes only.
    Redacted(String),
    /// A tool call.
    ToolCall(ToolCall<'static>),
    /// What the vendor's format alone can say.
    Opaque {
        /// What it is.
        what: String,
        /// Its JSON.
        json: String,
    },
}

impl Answer {
    /// Adds one event of the stream.
    pub fn add(&mut self, event: &Event<'_>) {
        match event {
            Event::Start { id, model } => {
                self.id = id.as_deref().map(Into::into).or(self.id.take());
                self.model = model.as_deref().map(Into::into).or(self.model.take());
            }
            Event::Text(more) => match self.blocks.last_mut() {
                Some(Piece::Text(text)) if self.open => text.push_str(more),
                _ => self.begin(Piece::Text(more.to_string())),
            },
            Event::Refusal(more) => match self.blocks.last_mut() {
                Some(Piece::Refusal(text)) if self.open => text.push_str(more),
                _ => self.begin(Piece::Refusal(more.to_string())),
            },
            Event::Reasoning(more) => match self.blocks.last_mut() {
                Some(Piece::Reasoning { text, .. }) if self.open => text.push_str(more),
                _ => self.begin(Piece::Reasoning {
                    text: more.to_string(),
                    signature: None,
                }),
            },
            Event::Signature(proof) => match self.blocks.last_mut() {
                Some(Piece::Reasoning { signature, .. }) if self.open => {
                    signature.get_or_insert_default().push_str(proof);
                }
                _ => self.begin(Piece::Reasoning {
                    text: String::new(),
                    signature: Some(proof.to_string()),
                }),
            },
            Event::Redacted(data) => self.begin(Piece::Redacted(data.to_string())),
            Event::ToolStart {
                index,
                id,
                name,
                signature,
            } => {
                self.calls.insert(*index, self.blocks.len());
                self.begin(Piece::ToolCall(ToolCall {
                    id: id.to_string().into(),
                    name: name.to_string().into(),
                    arguments: Cow::Borrowed(""),
                    signature: signature.as_deref().map(|proof| proof.to_owned().into()),
                }));
            }
            Event::ToolArguments { index, fragment } => {
                let place = self.calls.get(index);
                if let Some(Piece::ToolCall(call)) = place.and_then(|place| self.blocks.get_mut(*place)) {
                    call.arguments.to_mut().push_str(fragment);
                }
            }
            Event::Opaque { what, json } => self.begin(Piece::Opaque {
                what: what.to_string(),
                json: json.to_string(),
            }),
            Event::BlockEnd | Event::ToolEnd { .. } => self.open = false,
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Finish(finish) => self.finish = Some(finish.clone().into_owned()),
            Event::Error(_) | Event::End => {}
        }
    }

    fn begin(&mut self, piece: Piece) {
        self.blocks.push(piece);
        self.open = true;
    }

    /// About as many bytes as it has when it is written, so that a large one is written without growing.
    pub fn size(&self) -> usize {
        /// Bytes around a piece.
        const AROUND: usize = 128;
        let is_escaped = |byte: &u8| matches!(byte, b'"' | b'\\' | b'\n' | b'\t' | b'\r');
        let written = |text: &str| text.len() + text.bytes().filter(is_escaped).count();
        let pieces = self.blocks.iter().map(|piece| match piece {
            Piece::Text(text) | Piece::Refusal(text) | Piece::Redacted(text) => written(text),
            Piece::Reasoning { text, signature } => written(text) + signature.as_ref().map_or(0, String::len),
            Piece::ToolCall(call) => call.id.len() + call.name.len() + written(&call.arguments),
            Piece::Opaque { json, .. } => json.len(),
        });
        8 * AROUND + pieces.map(|bytes| bytes + AROUND).sum::<usize>()
    }

    /// All text, in one piece.
    pub fn text(&self) -> String {
        let texts = self.blocks.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }
}

impl Event<'_> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Event<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Event::Start { id, model } => Event::Start {
                id: id.map(own),
                model: model.map(own),
            },
            Event::Text(text) => Event::Text(own(text)),
            Event::Refusal(text) => Event::Refusal(own(text)),
            Event::Reasoning(text) => Event::Reasoning(own(text)),
            Event::Signature(proof) => Event::Signature(own(proof)),
            Event::Redacted(data) => Event::Redacted(own(data)),
            Event::ToolStart {
                index,
                id,
                name,
                signature,
            } => Event::ToolStart {
                index,
                id: own(id),
                name: own(name),
                signature: signature.map(own),
            },
            Event::ToolArguments { index, fragment } => Event::ToolArguments {
                index,
                fragment: own(fragment),
            },
            Event::ToolEnd { index } => Event::ToolEnd { index },
            Event::BlockEnd => Event::BlockEnd,
            Event::Opaque { what, json } => Event::Opaque {
                what: own(what),
                json: own(json),
            },
            Event::Usage(usage) => Event::Usage(usage),
            Event::Finish(finish) => Event::Finish(finish.into_owned()),
            Event::Error(error) => Event::Error(error),
            Event::End => Event::End,
        }
    }
}

impl Finish<'_> {
    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Finish<'static> {
        Finish {
            reason: self.reason,
            raw: self.raw.into_owned().into(),
            stop_sequence: self.stop_sequence.map(|text| text.into_owned().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_is_the_fold_of_its_stream() {
        let start = |index, id: &'static str| Event::ToolStart {
            index,
            id: id.into(),
            name: "f".into(),
            signature: None,
        };
        let more = |index, fragment: &'static str| Event::ToolArguments {
            index,
            fragment: fragment.into(),
        };
        let events = [
            Event::Reasoning("a".into()),
            Event::Signature("s".into()),
            Event::BlockEnd,
            Event::Text("b".into()),
            Event::Text("c".into()),
            start(0, "x"),
            start(1, "y"),
            more(0, "{"),
            more(1, "[]"),
            more(0, "}"),
        ];
        let mut answer = Answer::default();
        events.iter().for_each(|event| answer.add(event));
        let call = |id: &'static str, arguments: &'static str| {
            Piece::ToolCall(ToolCall {
                id: id.into(),
                name: "f".into(),
                arguments: arguments.into(),
                signature: None,
            })
        };
        let reasoning = Piece::Reasoning {
            text: "a".into(),
            signature: Some("s".into()),
        };
        assert_eq!(
            answer.blocks,
            [reasoning, Piece::Text("bc".into()), call("x", "{}"), call("y", "[]")]
        );
    }
}
