//! Streams and answers as the vendors of each format send them: what is said in two pieces, and where wanted a call of a tool.

use pointsman::wire::eventstream;
use serde_json::{Value, json};

use super::heard::Format;
use super::script::Script;

/// The call that a recorded answer may end with, as [`super::heard::Heard`] tells it.
pub const CALL: &str = r#"look:{"at":"sea"}"#;

impl Format {
    /// The frames of a stream that says this.
    pub fn frames(self, says: &str) -> Vec<Vec<u8>> {
        self.recorded(says, false)
    }

    /// The frames of a stream that says this and then calls a tool, see [`CALL`].
    pub fn frames_with_call(self, says: &str) -> Vec<Vec<u8>> {
        self.recorded(says, true)
    }

    /// The frames before content of a stream that says this, and the one with its first half.
    pub fn first_half(self, says: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut frames = self.frames(says);
        let has_content = |frame: &Vec<u8>| String::from_utf8_lossy(frame).contains(&says[..says.len() / 2]);
        let place = frames.iter().position(has_content).expect("a frame with content");
        let content = frames.remove(place);
        frames.truncate(place);
        (frames, content)
    }

    fn recorded(self, says: &str, calls: bool) -> Vec<Vec<u8>> {
        let (first, second) = says.split_at(says.len() / 2);
        let lines = match self {
            Format::Chat => chat(first, second, calls),
            Format::Messages => messages(first, second, calls),
            Format::Gemini | Format::GeminiArray => gemini(first, second, calls),
            Format::Responses => responses(first, second, calls),
            Format::Converse => return converse(first, second, calls),
        };
        lines.into_iter().map(String::into_bytes).collect()
    }

    /// The type of a stream.
    pub fn stream_type(self) -> &'static str {
        match self {
            Format::Converse => "application/vnd.amazon.eventstream",
            _ => "text/event-stream",
        }
    }

    /// A whole stream of these frames.
    pub fn stream<F: AsRef<[u8]>>(self, frames: impl IntoIterator<Item = F>) -> Script {
        self.begin(frames).end()
    }

    /// The head of a stream and these frames.
    pub fn begin<F: AsRef<[u8]>>(self, frames: impl IntoIterator<Item = F>) -> Script {
        Script::begin_as(self.stream_type(), frames)
    }

    /// The body of a whole answer that says this.
    pub fn whole(self, says: &str) -> String {
        match self {
            Format::Chat => super::script::whole(says),
            Format::Messages => json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
                "stop_sequence": null, "content": [{ "type": "text", "text": says }],
                "usage": { "input_tokens": 3, "output_tokens": 2 },
            })
            .to_string(),
            Format::Gemini | Format::GeminiArray => {
                gemini_chunk(&json!([{ "text": says }]), Some("STOP")).to_string()
            }
            Format::Converse => json!({
                "output": { "message": { "role": "assistant", "content": [{ "text": says }] } }, "stopReason": "end_turn",
                "usage": { "inputTokens": 3, "outputTokens": 2, "totalTokens": 5 }, "metrics": { "latencyMs": 1 },
            })
            .to_string(),
            Format::Responses => response("completed", &json!([message(says)])).to_string(),
        }
    }

    /// What a whole answer of this format says; `None`: it is none.
    pub fn said(self, body: &str) -> Option<String> {
        let json: Value = serde_json::from_str(body).ok()?;
        let text = match self {
            Format::Chat => &json["choices"][0]["message"]["content"],
            Format::Messages => &json["content"][0]["text"],
            Format::Gemini | Format::GeminiArray => &json["candidates"][0]["content"]["parts"][0]["text"],
            Format::Converse => &json["output"]["message"]["content"][0]["text"],
            Format::Responses => &json["output"][0]["content"][0]["text"],
        };
        text.as_str().map(str::to_owned)
    }
}

fn data(json: &Value) -> String {
    format!("data: {json}\n\n")
}

fn chat(first: &str, second: &str, calls: bool) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        data(
            &json!({ "id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice] }),
        )
    };
    let call = |arguments: &str, more: Value| {
        let mut call = json!({ "index": 0, "function": { "arguments": arguments } });
        if more == true {
            call = json!({ "index": 0, "id": "call_1", "type": "function",
                "function": { "name": "look", "arguments": arguments } });
        }
        chunk(json!({ "tool_calls": [call] }), Value::Null)
    };
    let mut frames = vec![
        chunk(json!({ "role": "assistant", "content": "" }), Value::Null),
        chunk(json!({ "content": first }), Value::Null),
        chunk(json!({ "content": second }), Value::Null),
    ];
    if calls {
        frames.extend([call("{\"at\":", true.into()), call("\"sea\"}", false.into())]);
    }
    frames.push(chunk(json!({}), if calls { "tool_calls" } else { "stop" }.into()));
    frames.push("data: [DONE]\n\n".to_owned());
    frames
}

fn messages(first: &str, second: &str, calls: bool) -> Vec<String> {
    let event = |json: Value| format!("event: {}\n{}", json["type"].as_str().unwrap(), data(&json));
    let delta =
        |index: u32, delta: Value| event(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
    let begin = |index: u32, block: Value| {
        event(json!({ "type": "content_block_start", "index": index, "content_block": block }))
    };
    let stop = |index: u32| event(json!({ "type": "content_block_stop", "index": index }));
    let text = |text: &str| json!({ "type": "text_delta", "text": text });
    let arguments = |part: &str| json!({ "type": "input_json_delta", "partial_json": part });
    let message = json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 3, "output_tokens": 1 } });
    let mut frames = vec![
        event(json!({ "type": "message_start", "message": message })),
        begin(0, json!({ "type": "text", "text": "" })),
        event(json!({ "type": "ping" })),
        delta(0, text(first)),
        delta(0, text(second)),
        stop(0),
    ];
    if calls {
        frames.push(begin(
            1,
            json!({ "type": "tool_use", "id": "toolu_1", "name": "look", "input": {} }),
        ));
        frames.extend([
            delta(1, arguments("{\"at\":")),
            delta(1, arguments("\"sea\"}")),
            stop(1),
        ]);
    }
    let reason = if calls { "tool_use" } else { "end_turn" };
    let ended = json!({ "stop_reason": reason, "stop_sequence": null });
    frames.push(event(
        json!({ "type": "message_delta", "delta": ended, "usage": { "output_tokens": 2 } }),
    ));
    frames.push(event(json!({ "type": "message_stop" })));
    frames
}

fn gemini_chunk(parts: &Value, finish: Option<&str>) -> Value {
    let mut candidate = json!({ "content": { "role": "model", "parts": parts }, "index": 0 });
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    json!({ "candidates": [candidate], "modelVersion": "m", "responseId": "r-1",
        "usageMetadata": { "promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5 } })
}

fn gemini(first: &str, second: &str, calls: bool) -> Vec<String> {
    let mut frames = vec![data(&gemini_chunk(&json!([{ "text": first }]), None))];
    if calls {
        frames.push(data(&gemini_chunk(&json!([{ "text": second }]), None)));
        let call = json!([{ "functionCall": { "name": "look", "args": { "at": "sea" } } }]);
        frames.push(data(&gemini_chunk(&call, Some("STOP"))));
    } else {
        frames.push(data(&gemini_chunk(&json!([{ "text": second }]), Some("STOP"))));
    }
    frames
}

fn response(status: &str, output: &Value) -> Value {
    json!({ "id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "m", "error": null,
        "output": output, "usage": { "input_tokens": 3, "output_tokens": 2, "total_tokens": 5 } })
}

fn message(says: &str) -> Value {
    let text = json!({ "type": "output_text", "text": says, "annotations": [] });
    json!({ "id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text] })
}

fn responses(first: &str, second: &str, calls: bool) -> Vec<String> {
    let event = |kind: &str, mut json: Value| {
        json["type"] = kind.into();
        format!("event: {kind}\n{}", data(&json))
    };
    let delta = |kind: &str, index: u32, delta: &str| {
        event(
            &format!("response.{kind}.delta"),
            json!({ "output_index": index, "content_index": 0, "delta": delta }),
        )
    };
    let whole = message(&[first, second].concat());
    let empty = json!({ "id": "msg_1", "type": "message", "role": "assistant", "content": [] });
    let mut frames = vec![
        event(
            "response.created",
            json!({ "response": response("in_progress", &json!([])) }),
        ),
        event(
            "response.output_item.added",
            json!({ "output_index": 0, "item": empty }),
        ),
        delta("output_text", 0, first),
        delta("output_text", 0, second),
        event("response.output_item.done", json!({ "output_index": 0, "item": whole })),
    ];
    let mut output = vec![whole];
    if calls {
        let call = |arguments: &str| {
            json!({ "id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "look",
            "arguments": arguments })
        };
        let done = call("{\"at\":\"sea\"}");
        frames.push(event(
            "response.output_item.added",
            json!({ "output_index": 1, "item": call("") }),
        ));
        frames.push(delta("function_call_arguments", 1, "{\"at\":"));
        frames.push(delta("function_call_arguments", 1, "\"sea\"}"));
        frames.push(event(
            "response.output_item.done",
            json!({ "output_index": 1, "item": done }),
        ));
        output.push(done);
    }
    let ended = response("completed", &output.into());
    frames.push(event("response.completed", json!({ "response": ended })));
    frames
}

/// A message of Bedrock's, with the padding that it puts into each.
pub fn converse_event(kind: &'static str, mut json: Value) -> Vec<u8> {
    json["p"] = "abcdefgh".into();
    let mut out = Vec::new();
    eventstream::message(kind, json.to_string().into_bytes(), &mut out);
    out
}

/// As Bedrock sends it: no start of a text, usage behind the stop.
fn converse(first: &str, second: &str, calls: bool) -> Vec<Vec<u8>> {
    let event = converse_event;
    let delta = |index: u32, delta: Value| {
        event(
            "contentBlockDelta",
            json!({ "contentBlockIndex": index, "delta": delta }),
        )
    };
    let stop = |index: u32| event("contentBlockStop", json!({ "contentBlockIndex": index }));
    let mut frames = vec![
        event("messageStart", json!({ "role": "assistant" })),
        delta(0, json!({ "text": first })),
        delta(0, json!({ "text": second })),
        stop(0),
    ];
    if calls {
        let tool = json!({ "toolUse": { "toolUseId": "t1", "name": "look" } });
        frames.extend([
            event("contentBlockStart", json!({ "contentBlockIndex": 1, "start": tool })),
            delta(1, json!({ "toolUse": { "input": "{\"at\":" } })),
            delta(1, json!({ "toolUse": { "input": "\"sea\"}" } })),
            stop(1),
        ]);
    }
    let reason = if calls { "tool_use" } else { "end_turn" };
    let usage = json!({ "inputTokens": 3, "outputTokens": 2, "totalTokens": 5 });
    frames.extend([
        event("messageStop", json!({ "stopReason": reason })),
        event("metadata", json!({ "usage": usage })),
    ]);
    frames
}
