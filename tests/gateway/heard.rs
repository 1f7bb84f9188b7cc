//! What a client makes of a stream, as the SDK of its format would.

use bytes::Bytes;
use pointsman::wire::eventstream::{self, Splitter};
use serde_json::Value;

/// A format that clients and vendors speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Chat,
    Messages,
    Gemini,
    Converse,
    /// Spoken by a vendor to clients of the same format only: to all others it speaks chat.
    Responses,
    /// Gemini for a client that wants its stream as one JSON array. Vendors are never asked for that.
    GeminiArray,
}

/// One event of a stream.
#[derive(Debug)]
pub struct Event {
    /// As the format calls it; empty where it does not, and [`DONE`] for the end of a chat.
    pub name: String,
    pub json: Value,
}

/// The end of a chat, which is an event without JSON.
pub const DONE: &str = "[DONE]";

/// A stream, read to its end.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Heard {
    /// Text, and calls as `NAME:ARGUMENTS`.
    pub says: String,
    /// The names that the answer calls itself by, each once.
    pub ids: Vec<String>,
    /// Why the model stopped, as often as it says so.
    pub finishes: Vec<String>,
    /// End markers; always 0 where the format has none.
    pub ends: usize,
    /// Tokens of the prompt and of the answer, as last told.
    pub usage: Option<(u64, u64)>,
    /// The words of an error.
    pub error: Option<String>,
}

impl Format {
    /// Those that vendors speak.
    pub const VENDORS: [Format; 5] = [
        Format::Chat,
        Format::Messages,
        Format::Gemini,
        Format::Converse,
        Format::Responses,
    ];
    /// Those that clients speak.
    pub const CLIENTS: [Format; 6] = [
        Format::Chat,
        Format::Messages,
        Format::Gemini,
        Format::Converse,
        Format::Responses,
        Format::GeminiArray,
    ];

    /// The vendor of a target that speaks it.
    pub fn vendor(self) -> &'static str {
        match self {
            Format::Chat => "openai-compatible",
            Format::Messages => "anthropic",
            Format::Gemini | Format::GeminiArray => "gemini",
            Format::Converse => "bedrock",
            Format::Responses => "openai",
        }
    }

    /// Whether a vendor that speaks this answers clients of that.
    pub fn is_spoken_to(self, client: Format) -> bool {
        self != Format::Responses || client == self
    }

    /// The request line that asks a model.
    pub fn line(self, model: &str, streaming: bool) -> String {
        match self {
            Format::Chat => "POST /v1/chat/completions".to_owned(),
            Format::Messages => "POST /v1/messages".to_owned(),
            Format::Responses => "POST /v1/responses".to_owned(),
            Format::Converse if streaming => format!("POST /model/{model}/converse-stream"),
            Format::Converse => format!("POST /model/{model}/converse"),
            Format::Gemini if streaming => format!("POST /v1beta/models/{model}:streamGenerateContent?alt=sse"),
            Format::GeminiArray if streaming => format!("POST /v1beta/models/{model}:streamGenerateContent"),
            Format::Gemini | Format::GeminiArray => format!("POST /v1beta/models/{model}:generateContent"),
        }
    }

    /// The body that asks a model, with something said by the user.
    pub fn body(self, model: &str, streaming: bool, says: &str) -> String {
        match self {
            Format::Chat => format!(
                r#"{{"model":"{model}","stream":{streaming},"messages":[{{"role":"user","content":"{says}"}}]}}"#
            ),
            Format::Messages => format!(
                r#"{{"model":"{model}","max_tokens":99,"stream":{streaming},"messages":[{{"role":"user","content":"{says}"}}]}}"#
            ),
            Format::Responses => format!(r#"{{"model":"{model}","stream":{streaming},"input":"{says}"}}"#),
            Format::Converse => format!(r#"{{"messages":[{{"role":"user","content":[{{"text":"{says}"}}]}}]}}"#),
            Format::Gemini | Format::GeminiArray => {
                format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{says}"}}]}}]}}"#)
            }
        }
    }

    /// How many end markers a whole stream has.
    pub fn end_markers(self) -> usize {
        usize::from(matches!(self, Format::Chat | Format::Messages))
    }

    /// How many names an answer has.
    pub fn names(self) -> usize {
        usize::from(self != Format::Converse)
    }

    /// Reads a stream. Frames that are none, and frames behind the end, are nobody's to understand.
    #[track_caller]
    pub fn hear(self, stream: impl AsRef<[u8]>) -> Heard {
        let mut heard = Heard::default();
        for event in self.events(stream.as_ref()) {
            // Here the whole response, as far as it came, follows its error.
            let is_epilogue = self == Format::Responses && event.name == "response.failed";
            assert!(
                is_epilogue || heard.error.is_none() && heard.ends == 0,
                "{event:?} follows the end"
            );
            if event.name == DONE {
                heard.ends += 1;
            } else {
                self.note(&mut heard, &event);
            }
        }
        heard
    }

    /// The events of a stream.
    #[track_caller]
    pub fn events(self, stream: &[u8]) -> Vec<Event> {
        match self {
            Format::Converse => messages(stream),
            Format::GeminiArray if stream.is_empty() => Vec::new(),
            Format::GeminiArray => {
                let chunks: Vec<Value> = serde_json::from_slice(stream)
                    .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(stream)));
                let event = |json| Event {
                    name: String::new(),
                    json,
                };
                chunks.into_iter().map(event).collect()
            }
            _ => lines(std::str::from_utf8(stream).expect("a text")),
        }
    }

    fn note(self, heard: &mut Heard, event: &Event) {
        let Event { name, json } = event;
        if json["error"].is_object() || json["type"] == "error" || name.starts_with(eventstream::EXCEPTION) {
            heard.note_error(json, self);
            return;
        }
        if matches!(self, Format::Messages | Format::Responses) {
            assert_eq!(json["type"], **name, "{event:?}");
        }
        match self {
            Format::Chat => heard.note_chat(json),
            Format::Messages => heard.note_message(name, json),
            Format::Gemini | Format::GeminiArray => heard.note_gemini(json),
            Format::Converse => heard.note_converse(name, json),
            Format::Responses => heard.note_response(name, json),
        }
    }

    /// That a whole answer is an error in this format.
    #[track_caller]
    pub fn assert_error(self, text: &str) {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Heard::default().note_error(&json, self);
    }
}

/// The events of a stream of lines.
#[track_caller]
fn lines(stream: &str) -> Vec<Event> {
    let stream = stream.replace("\r\n", "\n");
    assert!(stream.is_empty() || stream.ends_with("\n\n"), "half an event: {stream}");
    let mut events = Vec::new();
    for event in stream.split("\n\n").filter(|event| !event.is_empty()) {
        let field = |name| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        match field("data:") {
            Some(DONE) => events.push(Event {
                name: DONE.to_owned(),
                json: Value::Null,
            }),
            Some(data) => events.push(Event {
                name: field("event:").unwrap_or_default().to_owned(),
                json: serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {event} in {stream}")),
            }),
            None => assert!(event.starts_with(':'), "{event:?} in {stream}"),
        }
    }
    events
}

/// The events of a stream of AWS's messages.
#[track_caller]
fn messages(stream: &[u8]) -> Vec<Event> {
    let mut splitter = Splitter::default();
    let whole = splitter.push(Bytes::copy_from_slice(stream));
    assert_eq!(splitter.pending(), 0, "half a message");
    let mut events = Vec::new();
    let mut unread: &[u8] = &whole;
    while let Some((event, rest)) = eventstream::split_first(unread).expect("whole messages") {
        unread = rest;
        events.push(Event {
            name: String::from_utf8_lossy(event.name).into_owned(),
            json: serde_json::from_slice(event.data.as_deref().unwrap()).expect("JSON"),
        });
    }
    events
}

impl Heard {
    /// That it is all of an answer.
    pub fn is_all(&self, says: &str) -> bool {
        self.says == says && self.finishes.len() == 1 && self.error.is_none()
    }

    /// That the client is told that something is missing, and never that nothing is.
    pub fn is_cut_off(&self) -> bool {
        self.error.is_some() && self.ends == 0 && self.finishes.is_empty()
    }

    fn note_error(&mut self, json: &Value, format: Format) {
        let error = if json["error"].is_object() {
            &json["error"]
        } else {
            json
        };
        let is_told = match format {
            Format::Chat | Format::Responses => error["type"].is_string() && error.get("code").is_some(),
            Format::Messages => json["type"] == "error" && error["type"].is_string(),
            Format::Gemini | Format::GeminiArray => error["code"].is_u64() && error["status"].is_string(),
            Format::Converse => error["message"].is_string(),
        };
        assert!(is_told, "no error in {format:?}: {json}");
        self.error = Some(error["message"].as_str().expect("an error's message").to_owned());
    }

    fn note_id(&mut self, id: &Value) {
        let id = id.as_str().expect("an answer's id").to_owned();
        if !self.ids.contains(&id) {
            self.ids.push(id);
        }
    }

    fn count(&mut self, usage: &Value, input: &str, output: &str) {
        self.usage = usage[input].as_u64().zip(usage[output].as_u64()).or(self.usage);
    }

    fn finish(&mut self, reason: &Value) {
        self.finishes.extend(reason.as_str().map(str::to_owned));
    }

    fn note_chat(&mut self, json: &Value) {
        self.note_id(&json["id"]);
        self.count(&json["usage"], "prompt_tokens", "completion_tokens");
        let Some(choice) = json["choices"].get(0) else { return };
        let delta = &choice["delta"];
        self.says += delta["content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            if let Some(name) = call["function"]["name"].as_str() {
                self.says += &format!("{name}:");
            }
            self.says += call["function"]["arguments"].as_str().unwrap_or_default();
        }
        self.finish(&choice["finish_reason"]);
    }

    fn note_message(&mut self, kind: &str, json: &Value) {
        let mut count = |usage: &Value| {
            let before = self.usage.unwrap_or_default();
            let count = |name: &str, before| usage[name].as_u64().unwrap_or(before);
            self.usage = Some((count("input_tokens", before.0), count("output_tokens", before.1)));
        };
        match kind {
            "message_start" => {
                count(&json["message"]["usage"]);
                self.note_id(&json["message"]["id"]);
            }
            "content_block_start" if json["content_block"]["type"] == "tool_use" => {
                self.says += &format!("{}:", json["content_block"]["name"].as_str().unwrap());
            }
            "content_block_delta" => {
                let delta = &json["delta"];
                let text = delta["text"].as_str().or(delta["partial_json"].as_str());
                self.says += text.unwrap_or_default();
            }
            "message_delta" => {
                count(&json["usage"]);
                self.finish(&json["delta"]["stop_reason"]);
            }
            "message_stop" => self.ends += 1,
            "content_block_start" | "content_block_stop" | "ping" => {}
            kind => panic!("an unknown event {kind}"),
        }
    }

    fn note_response(&mut self, kind: &str, json: &Value) {
        match kind {
            "response.created" => self.note_id(&json["response"]["id"]),
            "response.output_text.delta" | "response.function_call_arguments.delta" => {
                self.says += json["delta"].as_str().expect("a delta");
            }
            "response.output_item.added" if json["item"]["type"] == "function_call" => {
                self.says += &format!("{}:", json["item"]["name"].as_str().unwrap());
            }
            "response.completed" | "response.incomplete" => {
                self.count(&json["response"]["usage"], "input_tokens", "output_tokens");
                self.finish(&json["response"]["status"]);
            }
            // OpenAI's own failures may say no more than this; the gateway's say the error before.
            "response.failed" => {
                let error = &json["response"]["error"];
                let is_told = json["response"]["status"] == "failed" && error["code"].is_string();
                assert!(is_told, "a failure without its error: {json}");
                let message = error["message"].as_str().expect("an error's message");
                self.error.get_or_insert_with(|| message.to_owned());
            }
            _ => {}
        }
    }

    fn note_converse(&mut self, kind: &str, json: &Value) {
        match kind {
            "contentBlockStart" => self.says += &format!("{}:", json["start"]["toolUse"]["name"].as_str().unwrap()),
            "contentBlockDelta" => {
                let delta = &json["delta"];
                let text = delta["text"].as_str().or(delta["toolUse"]["input"].as_str());
                self.says += text.unwrap_or_default();
            }
            "messageStop" => self.finish(&json["stopReason"]),
            "metadata" => self.count(&json["usage"], "inputTokens", "outputTokens"),
            "messageStart" | "contentBlockStop" => {}
            kind => panic!("an unknown event {kind}"),
        }
    }

    fn note_gemini(&mut self, json: &Value) {
        self.note_id(&json["responseId"]);
        self.count(&json["usageMetadata"], "promptTokenCount", "candidatesTokenCount");
        let candidate = &json["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.says += part["text"].as_str().unwrap_or_default();
            if let Some(name) = part["functionCall"]["name"].as_str() {
                self.says += &format!("{name}:{}", part["functionCall"]["args"]);
            }
        }
        self.finish(&candidate["finishReason"]);
    }
}
