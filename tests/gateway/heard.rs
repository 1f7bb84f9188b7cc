//! What a client makes of a stream, as the SDK of its format would.

use serde_json::Value;

/// A format that clients and vendors speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Chat,
    Messages,
    Gemini,
    /// Spoken by a vendor to clients of the same format only: to all others it speaks chat.
    Responses,
}

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
    /// Those that vendors speak to clients of any.
    pub const ALL: [Format; 3] = [Format::Chat, Format::Messages, Format::Gemini];
    /// Those that clients speak.
    pub const CLIENTS: [Format; 4] = [Format::Chat, Format::Messages, Format::Gemini, Format::Responses];

    /// The vendor of a target that speaks it.
    pub fn vendor(self) -> &'static str {
        match self {
            Format::Chat => "openai-compatible",
            Format::Messages => "anthropic",
            Format::Gemini => "gemini",
            Format::Responses => "openai",
        }
    }

    /// The request line that asks a model.
    pub fn line(self, model: &str, streaming: bool) -> String {
        match self {
            Format::Chat => "POST /v1/chat/completions".to_owned(),
            Format::Messages => "POST /v1/messages".to_owned(),
            Format::Responses => "POST /v1/responses".to_owned(),
            Format::Gemini if streaming => format!("POST /v1beta/models/{model}:streamGenerateContent?alt=sse"),
            Format::Gemini => format!("POST /v1beta/models/{model}:generateContent"),
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
            Format::Gemini => format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{says}"}}]}}]}}"#),
        }
    }

    /// How many end markers a whole stream has.
    pub fn end_markers(self) -> usize {
        usize::from(matches!(self, Format::Chat | Format::Messages))
    }

    /// Reads a stream. Frames that are none, and frames behind the end, are nobody's to understand.
    #[track_caller]
    pub fn hear(self, stream: &str) -> Heard {
        let mut heard = Heard::default();
        let stream = stream.replace("\r\n", "\n");
        assert!(stream.is_empty() || stream.ends_with("\n\n"), "half an event: {stream}");
        for event in stream.split("\n\n").filter(|event| !event.is_empty()) {
            // Here the whole response, as far as it came, follows its error.
            let is_epilogue = self == Format::Responses && event.starts_with("event: response.failed\n");
            assert!(
                is_epilogue || heard.error.is_none() && heard.ends == 0,
                "{event:?} follows the end of {stream}"
            );
            let data = event.lines().find_map(|line| line.strip_prefix("data:"));
            match data.map(str::trim) {
                Some("[DONE]") if self == Format::Chat => heard.ends += 1,
                Some(data) => {
                    let json =
                        serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {event} in {stream}"));
                    self.note(&mut heard, event, &json);
                }
                None => assert!(event.starts_with(':'), "{event:?} in {stream}"),
            }
        }
        heard
    }

    fn note(self, heard: &mut Heard, event: &str, json: &Value) {
        if json["error"].is_object() || json["type"] == "error" {
            heard.note_error(json, self);
            return;
        }
        match self {
            Format::Chat => heard.note_chat(json),
            Format::Messages => heard.note_message(event, json),
            Format::Gemini => heard.note_gemini(json),
            Format::Responses => heard.note_response(event, json),
        }
    }

    /// That a whole answer is an error in this format.
    #[track_caller]
    pub fn assert_error(self, text: &str) {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Heard::default().note_error(&json, self);
    }
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
            Format::Gemini => error["code"].is_u64() && error["status"].is_string(),
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

    fn finish(&mut self, reason: &Value) {
        self.finishes.extend(reason.as_str().map(str::to_owned));
    }

    fn note_chat(&mut self, json: &Value) {
        self.note_id(&json["id"]);
        let tokens = |name: &str| json["usage"][name].as_u64();
        self.usage = tokens("prompt_tokens").zip(tokens("completion_tokens")).or(self.usage);
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

    fn note_message(&mut self, event: &str, json: &Value) {
        let kind = json["type"].as_str().expect("an event's type");
        assert!(event.starts_with(&format!("event: {kind}\n")), "{event}");
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

    fn note_response(&mut self, event: &str, json: &Value) {
        let kind = json["type"].as_str().expect("an event's type");
        assert!(event.starts_with(&format!("event: {kind}\n")), "{event}");
        match kind {
            "response.created" => self.note_id(&json["response"]["id"]),
            "response.output_text.delta" | "response.function_call_arguments.delta" => {
                self.says += json["delta"].as_str().expect("a delta");
            }
            "response.output_item.added" if json["item"]["type"] == "function_call" => {
                self.says += &format!("{}:", json["item"]["name"].as_str().unwrap());
            }
            "response.completed" | "response.incomplete" => self.finish(&json["response"]["status"]),
            "response.failed" => assert!(self.error.is_some(), "a failure without its error: {json}"),
            _ => {}
        }
    }

    fn note_gemini(&mut self, json: &Value) {
        self.note_id(&json["responseId"]);
        let tokens = |name: &str| json["usageMetadata"][name].as_u64();
        self.usage = tokens("promptTokenCount")
            .zip(tokens("candidatesTokenCount"))
            .or(self.usage);
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
