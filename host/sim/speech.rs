//! What a simulated vendor says, and how fast: as a whole answer or as a stream.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::question::{Call, Question, Reply};
use super::{Answer, broken, respond};
use crate::config::Sim;

/// Tokens that go out together when the pace is faster than the timer, or the client was slower than the pace.
const MAX_BATCH: u32 = 64;

/// Characters of JSON that count as one token.
const JSON_TOKEN_CHARS: usize = 4;

/// What answers go on with, over and over, until they are as long as they should be.
const FILLER: &str = "Every word is one token, sent at the pace that the configuration asks for. \
    No model was asked and no money was spent. To hear a real one, give a target another vendor and a key.";

/// What is said to a question, and how fast.
pub(super) struct Speech {
    id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
    include_usage: bool,
    prompt_tokens: u32,
    /// Of each choice.
    tokens: u32,
    choices: u32,
    finish_reason: &'static str,
    content: Content,
    pace: Pace,
}

/// What one choice consists of; all choices of an answer say the same.
struct Content {
    /// The call whose input the tokens are.
    call: Option<Call>,
    tokens: Box<dyn Iterator<Item = String> + Send>,
}

impl Content {
    /// The content of a reply, and its number of tokens where the reply itself says it.
    fn new(name: &str, reply: Reply) -> (Self, Option<u32>) {
        match reply {
            Reply::Text(echo) => {
                let tokens = Box::new(Words::new(name, echo.as_deref()));
                (Self { call: None, tokens }, None)
            }
            Reply::Document(document) => Self::exact(None, &document),
            Reply::Call(call) => {
                let input = call.input.clone();
                Self::exact(Some(call), &input)
            }
        }
    }

    fn exact(call: Option<Call>, text: &str) -> (Self, Option<u32>) {
        let chars: Vec<char> = text.chars().collect();
        let tokens: Vec<String> = chars
            .chunks(JSON_TOKEN_CHARS)
            .map(|token| token.iter().collect())
            .collect();
        let count = u32::try_from(tokens.len().max(1)).unwrap_or(u32::MAX);
        let tokens = Box::new(tokens.into_iter());
        (Self { call, tokens }, Some(count))
    }
}

impl Call {
    /// The call with this much of its input, as a message has it.
    fn whole(&self, input: &str) -> Value {
        let id = call_id();
        if self.is_custom {
            json!({"id": id, "type": "custom", "custom": {"name": self.name, "input": input}})
        } else {
            json!({"id": id, "type": "function", "function": {"name": self.name, "arguments": input}})
        }
    }

    /// More of its input, as a delta has it.
    fn more(&self, input: &str) -> Value {
        if self.is_custom {
            json!({"index": 0, "custom": {"input": input}})
        } else {
            json!({"index": 0, "function": {"arguments": input}})
        }
    }
}

fn call_id() -> String {
    let id: String = std::iter::repeat_with(fastrand::alphanumeric).take(24).collect();
    format!("call_{id}")
}

impl Speech {
    /// Begins now: the first token is due in [`Sim::first_token`].
    pub(super) fn new(name: &str, question: Question, sim: &Sim) -> Self {
        let allowed = question
            .max_tokens
            .map_or(u32::MAX, |max| u32::try_from(max).unwrap_or(u32::MAX));
        let id: String = std::iter::repeat_with(fastrand::alphanumeric).take(29).collect();
        let (content, exact) = Content::new(name, question.reply);
        let wanted = exact.unwrap_or(sim.tokens);
        let finish_reason = match &content.call {
            _ if allowed < wanted => "length",
            Some(_) => "tool_calls",
            None => "stop",
        };
        Self {
            id: format!("chatcmpl-{id}"),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            content,
            model: question.model,
            include_usage: question.include_usage,
            prompt_tokens: question.prompt_tokens,
            tokens: wanted.min(allowed),
            choices: question.choices,
            finish_reason,
            pace: Pace {
                first: Instant::now() + sim.first_token,
                per_second: sim.tokens_per_second,
            },
        }
    }

    /// The whole answer as JSON, when its last token is due.
    pub(super) async fn whole(mut self) -> Bytes {
        sleep_until(self.pace.due(self.tokens - 1)).await;
        let text: String = self.content.tokens.by_ref().take(self.tokens as usize).collect();
        let choices: Vec<Value> = (0..self.choices).map(|index| self.choice(index, &text)).collect();
        let completion = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": self.usage(),
        });
        completion.to_string().into()
    }

    fn choice(&self, index: u32, text: &str) -> Value {
        let mut message = json!({"role": "assistant", "content": text, "refusal": null, "annotations": []});
        if let Some(call) = &self.content.call {
            message["content"] = Value::Null;
            message["tool_calls"] = json!([call.whole(text)]);
        }
        json!({"index": index, "message": message, "logprobs": null, "finish_reason": self.finish_reason})
    }

    /// The answer as a stream. Cut, it stops half way, behind its first token.
    pub(super) fn stream(self, cut: bool) -> Answer {
        let until = if cut { (self.tokens / 2).max(1) } else { self.tokens };
        let streaming = Streaming {
            speech: self,
            sent: 0,
            until,
            next: Next::Role,
            cut,
        };
        let frames = stream::unfold(streaming, |mut streaming| async move {
            let frame = streaming.frame().await?;
            Some((frame.map(Frame::data), streaming))
        });
        let mut answer = respond(
            "text/event-stream; charset=utf-8",
            StreamBody::new(frames).boxed_unsync(),
        );
        answer
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        answer
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens(),
            "total_tokens": u64::from(self.prompt_tokens) + self.completion_tokens(),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        })
    }

    /// Of all choices together.
    fn completion_tokens(&self) -> u64 {
        u64::from(self.tokens) * u64::from(self.choices)
    }

    /// One event of the stream. If the client asked for `usage`, it is in all of them, and null in all but the last.
    fn event(&self, choices: Value, usage: Value) -> String {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    }

    /// The same delta for each choice, each as an event of its own.
    fn delta(&self, delta: &Value, finish_reason: Option<&str>) -> String {
        let event = |index: u32| {
            let choice = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
            self.event(json!([choice]), Value::Null)
        };
        (0..self.choices).map(event).collect()
    }

    /// What goes before the first token of a call: its name. Each choice's call has an id of its own.
    fn call_begins(&self, call: &Call) -> String {
        let event = |index: u32| {
            let mut begun = call.whole("");
            begun["index"] = json!(0);
            let choice =
                json!({"index": index, "delta": {"tool_calls": [begun]}, "logprobs": null, "finish_reason": null});
            self.event(json!([choice]), Value::Null)
        };
        (0..self.choices).map(event).collect()
    }

    fn token(&self, token: &str) -> String {
        match &self.content.call {
            None => self.delta(&json!({"content": token}), None),
            Some(call) => self.delta(&json!({"tool_calls": [call.more(token)]}), None),
        }
    }
}

/// A speech on its way.
struct Streaming {
    speech: Speech,
    /// Tokens so far.
    sent: u32,
    /// Tokens before the end, or before the cut.
    until: u32,
    next: Next,
    cut: bool,
}

/// What comes next in a stream.
enum Next {
    Role,
    Tokens,
    Ending,
    Nothing,
}

impl Streaming {
    /// The next events, when they are due; all that are due by then come together.
    async fn frame(&mut self) -> Option<io::Result<Bytes>> {
        let events = match self.next {
            Next::Role => {
                self.next = Next::Tokens;
                let content = self.speech.content.call.is_none().then_some("");
                let role = json!({"role": "assistant", "content": content, "refusal": null});
                self.speech.delta(&role, None)
            }
            Next::Tokens => self.tokens().await,
            Next::Ending if self.cut => {
                self.next = Next::Nothing;
                return Some(Err(broken().await));
            }
            Next::Ending => {
                self.next = Next::Nothing;
                self.ending()
            }
            Next::Nothing => return None,
        };
        Some(Ok(events.into()))
    }

    async fn tokens(&mut self) -> String {
        sleep_until(self.speech.pace.due(self.sent)).await;
        // At least the one that was waited for, however clocks round.
        let due = self.speech.pace.tokens_due(Instant::now()).max(self.sent + 1);
        let up_to = due.min(self.sent + MAX_BATCH).min(self.until);
        let mut events = match &self.speech.content.call {
            Some(call) if self.sent == 0 => self.speech.call_begins(call),
            _ => String::new(),
        };
        for _ in self.sent..up_to {
            let token = self.speech.content.tokens.next().unwrap_or_default();
            events += &self.speech.token(&token);
        }
        self.sent = up_to;
        if self.sent == self.until {
            self.next = Next::Ending;
        }
        events
    }

    fn ending(&self) -> String {
        let mut events = self.speech.delta(&json!({}), Some(self.speech.finish_reason));
        if self.speech.include_usage {
            events += &self.speech.event(json!([]), self.speech.usage());
        }
        events + "data: [DONE]\n\n"
    }
}

/// When each token is due. It is reckoned from the first, so that a late timer delays one token and not all behind it.
pub(super) struct Pace {
    pub(super) first: Instant,
    pub(super) per_second: f64,
}

impl Pace {
    /// When a token is due, counted from 0.
    pub(super) fn due(&self, token: u32) -> Instant {
        self.first + Duration::from_secs_f64(f64::from(token) / self.per_second)
    }

    /// How many tokens are due by now.
    pub(super) fn tokens_due(&self, now: Instant) -> u32 {
        match now.checked_duration_since(self.first) {
            // Saturates, as `as` does with floats.
            Some(since) => ((since.as_secs_f64() * self.per_second) as u32).saturating_add(1),
            None => 0,
        }
    }
}

/// The words of an answer, without end. Each is one token, all but the first with the space before it.
struct Words {
    opening: std::vec::IntoIter<String>,
    filler: std::iter::Cycle<std::str::SplitAsciiWhitespace<'static>>,
    begun: bool,
}

impl Words {
    fn new(name: &str, echo: Option<&str>) -> Self {
        let opening = match echo {
            Some(echo) => format!("This is {name}, a simulated vendor, answering “{echo}”."),
            None => format!("This is {name}, a simulated vendor."),
        };
        let opening: Vec<_> = opening.split_whitespace().map(str::to_owned).collect();
        Self {
            opening: opening.into_iter(),
            filler: FILLER.split_ascii_whitespace().cycle(),
            begun: false,
        }
    }
}

impl Iterator for Words {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let word = self.opening.next().or_else(|| self.filler.next().map(str::to_owned))?;
        let space = if self.begun { " " } else { "" };
        self.begun = true;
        Some(format!("{space}{word}"))
    }
}
