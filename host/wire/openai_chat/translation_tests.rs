//! What the codec makes of requests and answers that are translated.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Format, PLAIN, signature};
use super::*;
use crate::answer::{Finish, Piece, Reason};
use crate::conversation::{Block, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn};

const OPENAI: super::super::Dialect = super::super::Dialect {
    max_tokens: "max_completion_tokens",
    user: true,
    ..PLAIN
};

fn decode(body: &Value) -> Conversation<'static> {
    let text: &'static str = Box::leak(body.to_string().into_boxed_str());
    OpenAiChat.decode_request(text.as_bytes()).unwrap()
}

fn encode_as(conversation: &Conversation<'_>, client: Format, dialect: &super::super::Dialect) -> (Value, Encoded) {
    let call = Call {
        client,
        model: "m2",
        streaming: conversation.streaming,
        default_max_tokens: 4096,
        dialect,
    };
    let encoded = OpenAiChat.encode_request(conversation, &call).unwrap();
    (serde_json::from_slice(&encoded.body).unwrap(), encoded)
}

fn encode(conversation: &Conversation<'_>) -> Value {
    encode_as(conversation, Format::OpenAiChat, &OPENAI).0
}

fn asked(body: &'static str) -> Asked {
    Asked {
        id: "r1".into(),
        created: 7,
        model: "asked".into(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

/// The events of a stream whose events have this data.
fn events<S: AsRef<str>>(chunks: impl IntoIterator<Item = S>) -> Vec<Event<'static>> {
    let mut decoder = OpenAiChat.decoder();
    let mut events = Vec::new();
    for chunk in chunks {
        let bytes: &'static str = Box::leak(format!("data: {}\n\n", chunk.as_ref()).into_boxed_str());
        for event in sse::events(bytes.as_bytes()) {
            decoder
                .event(&event, &mut |event| events.push(owned(&event)))
                .unwrap_or_else(|error| panic!("{error}: {bytes}"));
        }
    }
    events
}

fn owned(event: &Event<'_>) -> Event<'static> {
    let own = |text: &std::borrow::Cow<'_, str>| text.to_string().into();
    match event {
        Event::Start { id, model } => Event::Start {
            id: id.as_ref().map(own),
            model: model.as_ref().map(own),
        },
        Event::Text(text) => Event::Text(own(text)),
        Event::Refusal(text) => Event::Refusal(own(text)),
        Event::Reasoning(text) => Event::Reasoning(own(text)),
        Event::Signature(text) => Event::Signature(own(text)),
        Event::Redacted(text) => Event::Redacted(own(text)),
        Event::ToolStart {
            index,
            id,
            name,
            signature,
        } => Event::ToolStart {
            index: *index,
            id: own(id),
            name: own(name),
            signature: signature.as_ref().map(own),
        },
        Event::ToolArguments { index, fragment } => Event::ToolArguments {
            index: *index,
            fragment: own(fragment),
        },
        Event::ToolEnd { index } => Event::ToolEnd { index: *index },
        Event::BlockEnd => Event::BlockEnd,
        Event::Opaque { what, json } => Event::Opaque {
            what: own(what),
            json: own(json),
        },
        Event::Usage(usage) => Event::Usage(*usage),
        Event::Finish(finish) => Event::Finish(finish.clone().into_owned()),
        Event::Error(error) => Event::Error(error.clone()),
        Event::End => Event::End,
    }
}

fn whole_events(body: &[u8]) -> Vec<Event<'static>> {
    let mut events = Vec::new();
    OpenAiChat
        .decode_answer(body, &mut |event| events.push(owned(&event)))
        .unwrap();
    events
}

fn fold(events: &[Event<'_>]) -> Answer {
    let mut answer = Answer::default();
    events.iter().for_each(|event| answer.add(event));
    answer
}

fn written(events: &[Event<'_>], asked: &Asked) -> String {
    let mut encoder = OpenAiChat.encoder(asked);
    let mut out = Vec::new();
    events.iter().for_each(|event| encoder.event(event, &mut out));
    String::from_utf8(out).unwrap()
}

fn data_of(stream: &str) -> Vec<&str> {
    stream
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect()
}

fn start(index: u32, id: &'static str, name: &'static str) -> Event<'static> {
    Event::ToolStart {
        index,
        id: id.into(),
        name: name.into(),
        signature: None,
    }
}

fn more(index: u32, fragment: &'static str) -> Event<'static> {
    Event::ToolArguments {
        index,
        fragment: fragment.into(),
    }
}

fn finish(reason: Reason, raw: &'static str) -> Event<'static> {
    Event::Finish(Finish {
        reason,
        raw: raw.into(),
        stop_sequence: None,
    })
}

#[test]
fn reads_every_field_of_a_request() {
    let conversation = decode(&json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5, "max_completion_tokens": 7,
        "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 1, "presence_penalty": 0.1, "frequency_penalty": 0.2, "stop": "END",
        "n": 1, "logprobs": false, "top_logprobs": 0, "parallel_tool_calls": false, "reasoning_effort": "xhigh", "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}, "store": false, "modalities": ["text"],
        "service_tier": "auto", "logit_bias": {}, "verbosity": "medium", "audio": null,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}},
            {"type": "custom", "custom": {"name": "c"}}],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required",
            "tools": [{"type": "function", "function": {"name": "f"}}]}},
        "messages": []
    }));
    assert_eq!((&*conversation.model, conversation.streaming), ("m", true));
    assert_eq!(conversation.max_tokens, Some(7));
    assert_eq!(conversation.stop, ["END"]);
    assert_eq!(conversation.effort, Some(Effort::XHigh));
    assert_eq!(conversation.user.as_deref(), Some("u"));
    assert_eq!(conversation.session.as_deref(), Some("k"));
    assert_eq!(conversation.parallel_tools, Some(false));
    assert!(!conversation.logprobs);
    assert_eq!(conversation.metadata, [("a".into(), "b".into())]);
    assert!(
        matches!(&conversation.output, Output::Schema { name: Some(name), strict: Some(true), schema, .. }
        if name == "n" && schema.get() == r#"{"type":"object"}"#)
    );
    assert!(
        matches!(&conversation.tools[..], [Tool::Function(Function { strict: Some(true), .. }), Tool::Opaque { what, .. }]
        if what == "custom")
    );
    let allowed = ToolChoice::Allowed {
        names: vec!["f".into()],
        required: true,
    };
    assert_eq!(conversation.tool_choice, Some(allowed));
    assert_eq!(conversation.others, [""; 0]);
}

#[test]
fn names_what_a_conversation_has_no_place_for() {
    let conversation = decode(&json!({
        "model": "m", "messages": [{"role": "user", "name": "Ann", "content": "x"}, {"role": "user", "name": "Bob", "content": "y"}],
        "store": true, "modalities": ["text", "audio"], "service_tier": "flex", "web_search_options": {}, "logit_bias": {"1": 2},
        "min_p": 0.1, "prediction": null, "temperature": "hot", "reasoning_effort": "utmost"
    }));
    let expected = [
        "logit_bias",
        "min_p",
        "modalities",
        "reasoning_effort",
        "service_tier",
        "store",
        "temperature",
        "web_search_options",
        "messages[].name",
    ];
    assert_eq!(conversation.others, expected);
}

#[test]
fn refuses_what_nobody_could_understand() {
    let error = |body: &'static str| OpenAiChat.decode_request(body.as_bytes()).unwrap_err();
    assert_eq!(error("{}").param.as_deref(), Some("model"));
    assert_eq!(error(r#"{"model":"m"}"#).param.as_deref(), Some("messages"));
    assert_eq!(
        error(r#"{"model":"m","messages":{}}"#).message,
        "`messages` must be a list"
    );
    assert_eq!(
        error(r#"{"model":"m","messages":["hi"]}"#).message,
        "each of `messages` must be an object"
    );
    assert_eq!(
        error(r#"{"model":"m","messages":[{"role":"user","content":7}]}"#).message,
        "the `content` of a message must be a string or a list of parts"
    );
    assert!(OpenAiChat.decode_request(b"[]").is_err());
}

#[test]
fn reads_messages_of_every_role() {
    let conversation = decode(&json!({"model": "m", "messages": [
        {"role": "developer", "content": "one"},
        {"role": "system", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}},
            {"type": "image_url", "image_url": "https://example.com/a.png"},
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "video_url", "video_url": {"url": "v"}}]},
        {"role": "assistant", "content": null, "reasoning_content": "hm", "reasoning_signature": "sig", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"},
             "extra_content": {"google": {"thought_signature": "ts"}}},
            {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "system", "content": "three"},
        {"role": "assistant", "content": "", "function_call": {"name": "old", "arguments": "{}"}},
        {"role": "function", "name": "old", "content": "done"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "critic", "content": "!"}
    ]}));
    let text = |text: &'static str| Block::Text(text.into());
    assert_eq!(conversation.system, [text("one"), text("two")]);
    let roles: Vec<_> = conversation.turns.iter().map(|turn| turn.role).collect();
    use Role::{Assistant, System, User};
    assert_eq!(roles, [User, Assistant, User, System, Assistant, User, Assistant, User]);
    let inline = |media_type: &'static str, data: &'static str| Source::Inline {
        media_type: media_type.into(),
        data: data.into(),
    };
    let user = &conversation.turns[0].blocks;
    assert_eq!(
        user[..6],
        [
            text("look"),
            Block::Image(inline("image/png", "AAAA")),
            Block::Image(Source::Url("https://example.com/a.png".into())),
            Block::Audio(inline("audio/wav", "UklG")),
            Block::Document {
                name: Some("a.pdf".into()),
                source: inline("application/pdf", "JVBE")
            },
            Block::Document {
                name: None,
                source: Source::Stored("file-1".into())
            },
        ]
    );
    assert!(matches!(&user[6], Block::Opaque { what, .. } if what == "video_url"));
    let call = |id: &'static str, name: &'static str, arguments: &'static str, signature: Option<&'static str>| {
        Block::ToolCall(ToolCall {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
            signature: signature.map(Into::into),
        })
    };
    let assistant = &conversation.turns[1].blocks;
    assert_eq!(
        assistant[..2],
        [
            Block::Reasoning {
                text: "hm".into(),
                signature: Some("sig".into())
            },
            call("c1", "f", r#"{"a":1}"#, Some("ts")),
        ]
    );
    assert!(matches!(&assistant[2], Block::Opaque { what, .. } if what == "custom"));
    assert_eq!(conversation.turns[4].blocks, [call("call_0", "old", "{}", None)]);
    assert!(matches!(&conversation.turns[5].blocks[..], [Block::ToolResult { id, .. }] if id == "call_0"));
    assert_eq!(conversation.turns[6].blocks, [text("no")]);
    assert!(matches!(&conversation.turns[7].blocks[..], [Block::Opaque { what, .. }] if what == "message"));
}

#[test]
fn large_data_is_borrowed() {
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]}}"#,
        "A".repeat(1000)
    );
    let conversation = OpenAiChat.decode_request(body.as_bytes()).unwrap();
    let Block::Image(Source::Inline { data, .. }) = &conversation.turns[0].blocks[0] else {
        panic!("no image");
    };
    assert!(matches!(data, std::borrow::Cow::Borrowed(_)));
}

#[test]
fn writes_what_it_read() {
    let body = json!({
        "model": "m2",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "input_audio", "input_audio": {"data": "UklG", "format": "mp3"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "video_url", "video_url": {"url": "v"}}]},
            {"role": "assistant", "content": "b", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"},
                 "extra_content": {"google": {"thought_signature": "ts"}}},
                {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "tool", "tool_call_id": "c2", "content": "43"},
            {"role": "user", "content": "thanks"},
            {"role": "critic", "content": "!"}],
        "stream": true, "stream_options": {"include_usage": true},
        "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 1, "presence_penalty": 0.1, "frequency_penalty": 0.2,
        "stop": ["END"],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}},
            {"type": "custom", "custom": {"name": "g"}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {"z": 1, "a": 1.50}, "strict": true}},
        "reasoning_effort": "low", "user": "u", "prompt_cache_key": "k"
    });
    assert_eq!(encode(&decode(&body)), body);
}

#[test]
fn vendors_differ_as_their_dialects_say() {
    let conversation = decode(
        &json!({"model": "m", "stream": true, "max_tokens": 5, "seed": 1, "user": "u", "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required", "parallel_tool_calls": true,
        "messages": [{"role": "assistant", "content": "x", "reasoning": "hm", "reasoning_signature": "s"}]}),
    );
    let mistral = super::super::Dialect {
        seed: "random_seed",
        required: "any",
        stream_options: false,
        effort: false,
        parallel_tool_calls: false,
        ..PLAIN
    };
    let parameters = json!({"type": "object", "properties": {}});
    assert_eq!(
        encode_as(&conversation, Format::OpenAiChat, &mistral).0,
        json!({"model": "m2", "messages": [{"role": "assistant", "content": "x"}], "stream": true, "max_tokens": 5, "random_seed": 1,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}], "tool_choice": "any"})
    );
    let vllm = super::super::Dialect {
        reasoning: Some("reasoning"),
        ..PLAIN
    };
    let sent = encode_as(&conversation, Format::OpenAiChat, &vllm).0;
    assert_eq!(
        sent["messages"][0],
        json!({"role": "assistant", "content": "x", "reasoning": "hm", "reasoning_signature": "s"})
    );
    let foreign = encode_as(&conversation, Format::Messages, &vllm).0;
    assert_eq!(
        foreign["messages"][0],
        json!({"role": "assistant", "content": "x", "reasoning": "hm"})
    );
}

#[test]
fn signatures_go_back_to_where_they_came_from() {
    let call = |proof: String| {
        json!({"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function",
            "function": {"name": "f", "arguments": ""}, "extra_content": {"google": {"thought_signature": proof}}}]}]})
    };
    let sent = |proof: String, client| {
        let (body, _) = encode_as(&decode(&call(proof)), client, &PLAIN);
        body["messages"][0]["tool_calls"][0].clone()
    };
    let plain = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    assert_eq!(sent(signature::marked("x", Format::Gemini), Format::OpenAiChat), plain);
    let own = signature::marked("x", Format::OpenAiChat);
    assert_eq!(
        sent(own, Format::Messages)["extra_content"]["google"]["thought_signature"],
        "x"
    );
}

#[test]
fn neighbours_are_joined_and_results_stand_behind_their_calls() {
    let call = |id: &'static str| {
        Block::ToolCall(ToolCall {
            id: id.into(),
            name: "f".into(),
            arguments: "{}".into(),
            signature: None,
        })
    };
    let result = |id: &'static str, content: Vec<Block<'static>>, is_error| Block::ToolResult {
        id: id.into(),
        name: None,
        content,
        is_error,
    };
    let text = |text: &'static str| Block::Text(text.into());
    let turn = |role, blocks| Turn { role, blocks };
    let image = Block::Image(Source::Url("https://example.com/a.png".into()));
    let conversation = Conversation {
        system: vec![text("a"), text("b")],
        turns: vec![
            turn(Role::Assistant, vec![text("x"), call("1")]),
            turn(Role::Assistant, vec![text("y"), call("2")]),
            turn(
                Role::User,
                vec![
                    text("now"),
                    result("1", vec![text("p"), image.clone(), text("q")], false),
                ],
            ),
            turn(Role::User, vec![result("2", vec![text("broke")], true)]),
        ],
        ..Conversation::default()
    };
    let called = |id| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    assert_eq!(
        encode_as(&conversation, Format::Messages, &PLAIN).0["messages"],
        json!([
            {"role": "system", "content": "a\n\nb"},
            {"role": "assistant", "content": "xy", "tool_calls": [called("1"), called("2")]},
            {"role": "tool", "tool_call_id": "1", "content": "p\nq"},
            {"role": "tool", "tool_call_id": "2", "content": "Error: broke"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                {"type": "text", "text": "now"}]}
        ])
    );
}

#[test]
fn names_that_do_not_fit_are_the_same_everywhere() {
    let long = "ns.tool:".repeat(10);
    let conversation = decode(
        &json!({"model": "m", "tools": [{"type": "function", "function": {"name": long}}],
        "tool_choice": {"type": "function", "function": {"name": long}},
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": "i".repeat(60), "type": "function", "function": {"name": long, "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "i".repeat(60), "content": "x"}]}),
    );
    let (body, encoded) = encode_as(&conversation, Format::Gemini, &PLAIN);
    let name = body["tools"][0]["function"]["name"].as_str().unwrap();
    assert!(name.len() <= 64 && name != long);
    assert_eq!(encoded.renamed, [(name.to_owned(), long)]);
    assert_eq!(body["tool_choice"]["function"]["name"], name);
    let call = &body["messages"][0]["tool_calls"][0];
    assert_eq!(call["function"]["name"], name);
    assert_eq!(call["id"], body["messages"][1]["tool_call_id"]);
    assert!(call["id"].as_str().unwrap().len() <= 40);
}

#[test]
fn reads_openais_stream() {
    let usage = Usage {
        input_tokens: 9,
        cached_tokens: 4,
        cache_write_tokens: 2,
        output_tokens: 3,
        reasoning_tokens: 1,
    };
    let read = events([
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null}"#,
        r#"{"id":"chatcmpl-1","model":"gpt","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}"#,
        r#"{"id":"chatcmpl-1","model":"gpt","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
        r#"{"id":"chatcmpl-1","model":"gpt","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{"}}]}}]}"#,
        r#"{"id":"chatcmpl-1","model":"gpt","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}},{"index":1,"function":{"arguments":"}"}}]}}]}"#,
        r#"{"id":"chatcmpl-1","model":"gpt","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":null}"#,
        r#"{"id":"chatcmpl-1","model":"gpt","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}"#,
        "[DONE]",
    ]);
    let expected = [
        Event::Start {
            id: Some("chatcmpl-1".into()),
            model: Some("gpt".into()),
        },
        Event::Text("Hi".into()),
        start(0, "a", "f"),
        start(1, "b", "g"),
        more(1, "{"),
        more(0, "{}"),
        more(1, "}"),
        finish(Reason::ToolCalls, "tool_calls"),
        Event::Usage(usage),
        Event::End,
    ];
    assert_eq!(read, expected);
}

#[test]
fn reads_what_other_servers_make_of_it() {
    // Azure begins without choices; vLLM says `reasoning`; the finish may carry the usage; a stop text may be named.
    let read = events([
        r#"{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}"#,
        r#"{"choices":[{"delta":{"reasoning":"hm","reasoning_signature":"s"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"type":"text","text":"c"},{"type":"reference","reference_ids":[1]}]}}]}"#,
        r#"{"choices":[{"index":1,"delta":{"content":"another choice"}}]}"#,
        r#"{"choices":[{"delta":{"content":null},"finish_reason":""}]}"#,
        r#"{"choices":[{"delta":{"refusal":"no"},"finish_reason":"stop","stop_reason":"END"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":10,"completion_tokens_details":{"reasoning_tokens":3}}}"#,
    ]);
    let usage = Usage {
        input_tokens: 5,
        output_tokens: 5,
        reasoning_tokens: 3,
        ..Usage::default()
    };
    let expected = [
        Event::Start { id: None, model: None },
        Event::Reasoning("hm".into()),
        Event::Signature("s".into()),
        Event::Reasoning("ab".into()),
        Event::Text("c".into()),
        Event::Opaque {
            what: "reference".into(),
            json: r#"{"type":"reference","reference_ids":[1]}"#.into(),
        },
        Event::Refusal("no".into()),
        Event::Finish(Finish {
            reason: Reason::StopSequence,
            raw: "stop".into(),
            stop_sequence: Some("END".into()),
        }),
        Event::Usage(usage),
    ];
    assert_eq!(read, expected);
}

#[test]
fn finds_tool_calls_however_they_are_numbered() {
    let calls = |chunks: &[&str]| -> Vec<(String, String, String)> {
        let chunk = |calls: &&str| format!(r#"{{"id":"x","choices":[{{"delta":{{"tool_calls":{calls}}}}}]}}"#);
        let end = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#.to_owned();
        let answer = fold(&events(chunks.iter().map(chunk).chain([end])));
        assert_eq!(
            answer.finish.unwrap().reason,
            Reason::ToolCalls,
            "an open server's `stop`"
        );
        let calls = answer.blocks.into_iter().map(|piece| match piece {
            Piece::ToolCall(call) => (call.id.into(), call.name.into(), call.arguments.into()),
            other => panic!("{other:?}"),
        });
        calls.collect()
    };
    let call = |id: &str, name: &str, arguments: &str| (id.to_owned(), name.to_owned(), arguments.to_owned());
    let two = [call("a", "f", "{}"), call("b", "g", "[]")];
    // Without an index.
    assert_eq!(
        calls(&[
            r#"[{"id":"a","function":{"name":"f","arguments":"{"}}]"#,
            r#"[{"function":{"arguments":"}"}}]"#,
            r#"[{"id":"b","function":{"name":"g","arguments":"[]"}}]"#
        ]),
        two
    );
    // The same index for all.
    assert_eq!(
        calls(&[
            r#"[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}},{"index":0,"id":"b","function":{"name":"g","arguments":"[]"}}]"#
        ]),
        two
    );
    // The name repeated, empty, and another id with every fragment.
    assert_eq!(
        calls(&[
            r#"[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}]"#,
            r#"[{"index":0,"id":"z","function":{"name":"","arguments":"}"}}]"#
        ]),
        two[..1]
    );
    // Arguments before the name, as an object, and a gap between the indices.
    assert_eq!(
        calls(&[
            r#"[{"index":3,"id":"a","function":{"arguments":{"x":1}}}]"#,
            r#"[{"index":3,"function":{"name":"f"}}]"#
        ]),
        [call("a", "f", r#"{"x":1}"#)]
    );
    // No ids, or the same id twice: made up, always the same.
    let made_up =
        || calls(&[r#"[{"function":{"name":"f","arguments":"{}"}},{"function":{"name":"f","arguments":"{}"}}]"#]);
    assert!(made_up()[0].0.starts_with("call_") && made_up()[0].0 != made_up()[1].0);
    assert_eq!(made_up(), made_up());
    let twice =
        calls(&[r#"[{"index":0,"id":"a","function":{"name":"f"}},{"index":1,"id":"a","function":{"name":"g"}}]"#]);
    assert_eq!(twice[0].0, "a");
    assert_ne!(twice[1].0, "a");
    // The older `function_call`.
    let old = fold(&events([
        r#"{"choices":[{"delta":{"function_call":{"name":"f","arguments":""}}}]}"#,
        r#"{"choices":[{"delta":{"function_call":{"arguments":"{}"}},"finish_reason":"function_call"}]}"#,
    ]));
    assert!(matches!(&old.blocks[..], [Piece::ToolCall(call)] if call.name == "f" && call.arguments == "{}"));
}

#[test]
fn reads_and_writes_every_reason() {
    let table = [
        ("stop", Reason::Stop, "stop"),
        ("length", Reason::Length, "length"),
        ("model_length", Reason::ContextWindow, "length"),
        ("tool_calls", Reason::ToolCalls, "tool_calls"),
        ("function_call", Reason::ToolCalls, "tool_calls"),
        ("content_filter", Reason::Refused, "content_filter"),
        ("error", Reason::Malformed, "stop"),
        ("eos", Reason::Stop, "stop"),
    ];
    for (raw, reason, again) in table {
        let chunk = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{raw}"}}]}}"#);
        let read = events([&chunk]);
        let Some(Event::Finish(finish)) = read.last() else {
            panic!("{raw}")
        };
        assert_eq!((finish.reason, &*finish.raw), (reason, raw));
        let stream = written(&read, &asked("{}"));
        assert!(stream.contains(&format!(r#""finish_reason":"{again}""#)), "{stream}");
        let answer: Value = serde_json::from_slice(&OpenAiChat.encode_answer(&fold(&read), &asked("{}"))).unwrap();
        assert_eq!(answer["choices"][0]["finish_reason"], again);
        let bytes = format!("data: {chunk}\n\n");
        let passing = frame(&sse::events(bytes.as_bytes()).next().unwrap()).unwrap();
        assert_eq!(passing.refused, reason == Reason::Refused);
    }
    let whole = br#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#;
    assert!(answer(whole).unwrap().refused);
}

#[test]
fn errors_in_the_middle_of_a_stream_are_read() {
    for chunk in [
        r#"{"error":{"message":"no","type":"server_error","code":null}}"#,
        r#"{"object":"error","message":"no","type":"server_error","code":500}"#,
    ] {
        let read = events([chunk]);
        assert!(
            matches!(&read[..], [Event::Error(error)] if error.message == "no" && error.code == "server_error"),
            "{chunk}"
        );
        let bytes = format!("data: {chunk}\n\n");
        let passing = frame(&sse::events(bytes.as_bytes()).next().unwrap()).unwrap();
        assert_eq!(passing.error.unwrap().message, "no");
        assert!(matches!(&whole_events(chunk.as_bytes())[..], [Event::Error(_)]));
    }
    let nothing = OpenAiChat.decode_answer(b"{}", &mut |_| {});
    assert_eq!(nothing.unwrap_err().message, "the answer has no `choices`");
}

const HEAD: &str =
    r#"{"id":"chatcmpl-r1","object":"chat.completion.chunk","created":7,"model":"asked","choices":[{"index":0,"#;

#[test]
fn writes_a_stream_as_openai_does() {
    let events = [
        Event::Start { id: None, model: None },
        Event::Reasoning("hm".into()),
        Event::Signature("sig".into()),
        Event::BlockEnd,
        Event::Text("Hi\n".into()),
        Event::ToolStart {
            index: 0,
            id: "a".into(),
            name: "f".into(),
            signature: Some("ts".into()),
        },
        more(0, "{\"x\":1}"),
        Event::ToolEnd { index: 0 },
        start(1, "b", "g"),
        Event::ToolEnd { index: 1 },
        finish(Reason::ToolCalls, "tool_use"),
        Event::Usage(Usage {
            input_tokens: 9,
            cached_tokens: 4,
            cache_write_tokens: 1,
            output_tokens: 3,
            reasoning_tokens: 2,
        }),
        Event::End,
    ];
    let deltas = [
        (r#"{"role":"assistant","content":"","refusal":null}"#, "null"),
        (r#"{"reasoning_content":"hm"}"#, "null"),
        (r#"{"reasoning_signature":"sig"}"#, "null"),
        (r#"{"content":"Hi\n"}"#, "null"),
        (
            r#"{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""},"extra_content":{"google":{"thought_signature":"ts"}}}]}"#,
            "null",
        ),
        (
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":1}"}}]}"#,
            "null",
        ),
        (
            r#"{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":""}}]}"#,
            "null",
        ),
        (r#"{"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]}"#, "null"),
        ("{}", r#""tool_calls""#),
    ];
    let expected = |tail: &str| -> String {
        let chunk = |(delta, reason): (&str, &str)| {
            format!("data: {HEAD}\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{reason}}}]{tail}}}\n\n")
        };
        deltas.map(chunk).concat()
    };
    assert_eq!(written(&events, &asked("{}")), expected("") + "data: [DONE]\n\n");
    let usage = r#"data: {"id":"chatcmpl-r1","object":"chat.completion.chunk","created":7,"model":"asked","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":1},"completion_tokens_details":{"reasoning_tokens":2}}}"#;
    assert_eq!(
        written(&events, &asked(r#"{"stream_options":{"include_usage":true}}"#)),
        expected(r#","usage":null"#) + usage + "\n\ndata: [DONE]\n\n"
    );
    let whole: Value = serde_json::from_slice(&OpenAiChat.encode_answer(&fold(&events), &asked("{}"))).unwrap();
    assert_eq!(
        whole,
        json!({"id": "chatcmpl-r1", "object": "chat.completion", "created": 7, "model": "asked", "choices": [{"index": 0, "message": {
            "role": "assistant", "content": "Hi\n", "refusal": null, "reasoning_content": "hm", "reasoning_signature": "sig", "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"},
                 "extra_content": {"google": {"thought_signature": "ts"}}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
            "logprobs": null, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 2}}})
    );
}

#[test]
fn the_vendors_id_and_model_are_kept_and_only_one_proof_is_written() {
    let events = [
        Event::Start {
            id: Some("msg_1".into()),
            model: Some("claude".into()),
        },
        Event::Signature("one".into()),
        Event::BlockEnd,
        Event::Reasoning("more".into()),
        Event::Signature("two".into()),
        Event::Redacted("r".into()),
        Event::End,
    ];
    let stream = written(&events, &asked("{}"));
    assert!(stream.contains(r#""id":"msg_1""#) && stream.contains(r#""model":"claude""#));
    assert!(stream.contains("one") && !stream.contains("two"));
    let whole = String::from_utf8(OpenAiChat.encode_answer(&fold(&events), &asked("{}"))).unwrap();
    assert!(whole.contains("one") && !whole.contains("two"));
}

#[test]
fn a_client_that_knows_functions_only_is_answered_in_their_words() {
    let asked = asked(r#"{"functions":[{"name":"f"}]}"#);
    let events = [
        start(0, "a", "f"),
        more(0, "{}"),
        start(1, "b", "g"),
        finish(Reason::ToolCalls, "tool_use"),
        Event::End,
    ];
    let stream = written(&events, &asked);
    assert!(stream.contains(r#""delta":{"function_call":{"name":"f","arguments":""}}"#));
    assert!(stream.contains(r#""finish_reason":"function_call""#) && !stream.contains("tool_calls"));
    let whole: Value = serde_json::from_slice(&OpenAiChat.encode_answer(&fold(&events), &asked)).unwrap();
    let message = json!({"role": "assistant", "content": null, "refusal": null, "function_call": {"name": "f", "arguments": "{}"}});
    assert_eq!(whole["choices"][0]["message"], message);
    let request =
        decode(&json!({"model": "m", "messages": [], "functions": [{"name": "f"}], "function_call": {"name": "f"}}));
    assert_eq!(request.tool_choice, Some(ToolChoice::Named("f".into())));
    assert_eq!(request.parallel_tools, Some(false));
}

#[test]
fn an_error_ends_a_stream_without_a_marker() {
    let mut out = Vec::new();
    OpenAiChat.encoder(&asked("{}")).error(
        &ErrorBody {
            status: 502,
            kind: "server_error",
            code: "bad_response",
            param: None,
            message: "no".into(),
        },
        &mut out,
    );
    let expected =
        "data: {\"error\":{\"message\":\"no\",\"type\":\"server_error\",\"param\":null,\"code\":\"bad_response\"}}\n\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_whole_answer_is_the_fold_of_its_stream() {
    let whole = br#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant",
        "reasoning_content":"hm","reasoning_signature":"s","content":"Hi","refusal":null,"annotations":[],
        "tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"google":{"thought_signature":"t"}}}]},
        "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#;
    let stream = events([
        r#"{"id":"1","model":"m","choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"reasoning_content":"h"}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"reasoning_content":"m"}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"reasoning_signature":"s"}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"content":"H"}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"content":"i"}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"},"extra_content":{"google":{"thought_signature":"t"}}}]}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#,
        r#"{"id":"1","choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"{"id":"1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
        "[DONE]",
    ]);
    assert_eq!(fold(&whole_events(whole)), fold(&stream));
}

/// The recorded files whose name ends in one of these.
fn recorded(ends: &[&str]) -> Option<Vec<(PathBuf, String)>> {
    let Some(corpus) = std::env::var_os("POINTSMAN_CORPUS") else {
        println!("skipped: POINTSMAN_CORPUS is not set");
        return None;
    };
    let mut found = Vec::new();
    let mut folders = vec![Path::new(&corpus).to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
                found.extend(std::fs::read_to_string(&path).ok().map(|text| (path, text)));
            }
        }
    }
    found.sort();
    Some(found)
}

#[test]
fn recorded_answers_survive_a_round_trip() {
    let mut checked = 0;
    for (path, text) in recorded(&[".json"]).into_iter().flatten() {
        let is_answer =
            serde_json::from_str::<Value>(&text).is_ok_and(|answer| answer["choices"][0]["message"].is_object());
        if !is_answer {
            continue;
        }
        let once = fold(&whole_events(text.as_bytes()));
        assert!(once.finish.is_some(), "{}", path.display());
        let again = OpenAiChat.encode_answer(&once, &asked("{}"));
        assert_eq!(fold(&whole_events(&again)), once, "{}", path.display());
        checked += 1;
    }
    println!("{checked} answers");
}

#[test]
fn recorded_streams_survive_a_round_trip() {
    let mut checked = 0;
    let ends = [
        ".chunks.txt",
        "completions/stream.json",
        "stream_tool_empty_content.json",
    ];
    for (path, text) in recorded(&ends).into_iter().flatten() {
        let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let lines: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
        if !lines
            .iter()
            .any(|line| line.contains(r#""object":"chat.completion.chunk""#))
        {
            continue;
        }
        let mut once = events(&lines);
        once.retain(|event| *event != Event::End);
        once.push(Event::End);
        let answer = fold(&once);
        assert!(answer.finish.is_some() && answer.usage.is_some(), "{}", path.display());
        let stream = written(&once, &asked(r#"{"stream_options":{"include_usage":true}}"#));
        assert_eq!(fold(&events(data_of(&stream))), answer, "{}", path.display());
        for line in lines {
            let bytes = format!("data: {line}\n\n");
            frame(&sse::events(bytes.as_bytes()).next().unwrap()).unwrap();
        }
        checked += 1;
    }
    println!("{checked} streams");
}

#[test]
fn recorded_requests_survive_a_round_trip() {
    let mut checked = 0;
    for (path, text) in recorded(&[".json"]).into_iter().flatten() {
        if !path.to_string_lossy().contains("requests/completions") {
            continue;
        }
        let mut once = OpenAiChat.decode_request(text.as_bytes()).unwrap();
        // A result needs no name where it has its call's id, and no arguments are written as an empty object.
        for block in once.turns.iter_mut().flat_map(|turn| &mut turn.blocks) {
            match block {
                Block::ToolResult { name, .. } => *name = None,
                Block::ToolCall(call) if call.arguments.is_empty() => call.arguments = "{}".into(),
                _ => {}
            }
        }
        let vllm = super::super::Dialect {
            reasoning: Some("reasoning_content"),
            ..OPENAI
        };
        let again = encode_as(&once, Format::OpenAiChat, &vllm).1.body;
        let again = OpenAiChat.decode_request(&again).unwrap();
        assert_eq!(again.turns, once.turns, "{}", path.display());
        assert_eq!(again.system, once.system, "{}", path.display());
        assert_eq!(again.tools.len(), once.tools.len(), "{}", path.display());
        assert_eq!(again.max_tokens, once.max_tokens, "{}", path.display());
        checked += 1;
    }
    println!("{checked} requests");
}

/// An event of a plausible stream.
fn any_event() -> impl Strategy<Value = Event<'static>> {
    let text = || "\\PC{1,12}";
    prop_oneof![
        text().prop_map(|text| Event::Text(text.into())),
        text().prop_map(|text| Event::Reasoning(text.into())),
        text().prop_map(|text| Event::Refusal(text.into())),
        (0..4u32, "[a-z]{1,8}").prop_map(|(index, name)| Event::ToolStart {
            index,
            id: format!("call_{index}").into(),
            name: name.into(),
            signature: None,
        }),
        (0..4u32, text()).prop_map(|(index, fragment)| Event::ToolArguments {
            index,
            fragment: fragment.into(),
        }),
    ]
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = OpenAiChat.decode_request(&bytes);
        let _ = OpenAiChat.decode_answer(&bytes, &mut |_| {});
        let event = [b"data: ", &bytes[..], b"\n\n"].concat();
        let mut decoder = OpenAiChat.decoder();
        for event in sse::events(&event) {
            let _ = decoder.event(&event, &mut |_| {});
        }
    }

    /// Likelier to be understood than any bytes.
    #[test]
    fn no_json_panics(
        field in "(content|tool_calls|reasoning|function_call|role|audio|name)",
        value in "(null|7|\"x\"|\\[\\]|\\[7\\]|\\{\\}|\\[\\{\\}\\]|\\[\\{\"index\":-1,\"function\":\\{\"name\":7,\"arguments\":[0-9]\\}\\}\\]|\\[\\{\"type\":\"(thinking|text|file|image_url|input_audio)\"\\}\\])",
    ) {
        let chunk = format!(r#"{{"id":7,"choices":[{{"delta":{{"{field}":{value}}},"finish_reason":{value}}}],"usage":{value}}}"#);
        let read = OpenAiChat.decode_answer(chunk.as_bytes(), &mut |_| ());
        prop_assert!(read.is_ok());
        let request = format!(r#"{{"model":"m","{field}":{value},"tools":{value},"messages":[{{"role":"user","{field}":{value}}}]}}"#);
        if let Ok(conversation) = OpenAiChat.decode_request(request.as_bytes()) {
            encode(&conversation);
        }
    }

    #[test]
    fn streams_and_whole_answers_say_the_same(events in proptest::collection::vec(any_event(), 0..20)) {
        // Each call begins once, before its arguments, and has some.
        let mut begun = Vec::new();
        let mut sound = vec![Event::Start { id: Some("1".into()), model: Some("m".into()) }];
        for event in events {
            match &event {
                Event::ToolStart { .. } => {
                    let Event::ToolStart { name, .. } = event else { continue };
                    let index = begun.len() as u32;
                    begun.push(index);
                    sound.push(Event::ToolStart { index, id: format!("call_{index}").into(), name, signature: None });
                    sound.push(more(index, "{"));
                }
                Event::ToolArguments { index, .. } if !begun.contains(index) => {}
                _ => sound.push(event),
            }
        }
        let reason = if begun.is_empty() { finish(Reason::Stop, "stop") } else { finish(Reason::ToolCalls, "tool_calls") };
        sound.extend([reason, Event::Usage(Usage { input_tokens: 1, output_tokens: 2, ..Usage::default() }), Event::End]);
        let answer = fold(&sound);
        let stream = written(&sound, &asked(r#"{"stream_options":{"include_usage":true}}"#));
        prop_assert_eq!(fold(&self::events(data_of(&stream))), answer.clone());

        let whole = fold(&whole_events(&OpenAiChat.encode_answer(&answer, &asked("{}"))));
        prop_assert_eq!(whole.text(), answer.text());
        let calls = |answer: &Answer| -> Vec<Piece> {
            answer.blocks.iter().filter(|piece| matches!(piece, Piece::ToolCall(_))).cloned().collect()
        };
        prop_assert_eq!(calls(&whole), calls(&answer));
        prop_assert_eq!((whole.id, whole.model, whole.usage, whole.finish), (answer.id, answer.model, answer.usage, answer.finish));
    }

    #[test]
    fn conversations_survive_a_round_trip(texts in proptest::collection::vec("\\PC{1,20}", 1..6), arguments in "\\PC{0,10}") {
        let mut turns = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let arguments = json!({"a": arguments}).to_string();
            let call = ToolCall { id: format!("call_{at}").into(), name: "f".into(), arguments: arguments.into(), signature: None };
            let image = Source::Inline { media_type: "image/png".into(), data: "AAAA".into() };
            let said = Block::Text(text.into());
            turns.push(Turn { role: Role::User, blocks: vec![said.clone(), Block::Image(image)] });
            turns.push(Turn { role: Role::Assistant, blocks: vec![said.clone(), Block::ToolCall(call)] });
            let result = Block::ToolResult { id: format!("call_{at}").into(), name: None, content: vec![said], is_error: false };
            turns.push(Turn { role: Role::User, blocks: vec![result] });
            turns.push(Turn { role: Role::Assistant, blocks: vec![Block::Text(text.into())] });
        }
        let conversation = Conversation { turns, max_tokens: Some(9), ..Conversation::default() };
        let (_, encoded) = encode_as(&conversation, Format::Messages, &OPENAI);
        let again = OpenAiChat.decode_request(&encoded.body).unwrap();
        prop_assert_eq!(again.turns, conversation.turns);
        prop_assert_eq!(again.max_tokens, Some(9));
    }
}
