use std::borrow::Cow;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Asked, Call, Codec, Dialect, ErrorBody, Format, PLAIN, signature, sse};
use super::Responses;
use crate::answer::{Answer, Event, Finish, Piece, Reason};
use crate::chat::Usage;
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};

const USER: Dialect = Dialect { user: true, ..PLAIN };

fn call(client: Format) -> Call<'static> {
    Call {
        client,
        model: "gpt-5",
        streaming: false,
        default_max_tokens: 4096,
        dialect: &USER,
    }
}

fn sent(conversation: &Conversation<'_>, client: Format) -> Value {
    let encoded = Responses.encode_request(conversation, &call(client)).unwrap();
    serde_json::from_slice(&encoded.body).unwrap()
}

fn decoded(body: &str) -> Conversation<'_> {
    Responses.decode_request(body.as_bytes()).unwrap()
}

fn asked(body: &str) -> Asked {
    Asked {
        id: "r1".to_owned(),
        created: 1_741_257_730,
        model: "smart".to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

/// The data of a stream's events; each name is that of its data.
fn lines(stream: &[u8]) -> Vec<Value> {
    let line = |event: sse::Event<'_>| {
        let data: Value = serde_json::from_slice(&event.data.unwrap()).unwrap();
        assert_eq!(data["type"].as_str().unwrap().as_bytes(), event.name);
        data
    };
    sse::events(stream).map(line).collect()
}

fn encoded(events: &[Event<'_>], asked: &Asked) -> Vec<u8> {
    let mut encoder = Responses.encoder(asked);
    let mut out = Vec::new();
    events.iter().for_each(|event| encoder.event(event, &mut out));
    out
}

/// The events of a stream, one JSON of a line each.
fn streamed<'s>(lines: impl IntoIterator<Item = &'s str>) -> Vec<Event<'static>> {
    let mut decoder = Responses.decoder();
    let mut events = Vec::new();
    for line in lines {
        let event = sse::Event {
            name: b"",
            data: Some(Cow::Borrowed(line.as_bytes())),
        };
        decoder
            .event(&event, &mut |event| events.push(owned(&event)))
            .unwrap_or_else(|error| panic!("{error} in {line}"));
    }
    events
}

fn whole(body: &str) -> Vec<Event<'static>> {
    let mut events = Vec::new();
    Responses
        .decode_answer(body.as_bytes(), &mut |event| events.push(owned(&event)))
        .unwrap();
    events
}

fn fold(events: &[Event<'_>]) -> Answer {
    let mut answer = Answer::default();
    events.iter().for_each(|event| answer.add(event));
    answer
}

type Said = (
    Vec<Piece>,
    Option<Reason>,
    Option<Usage>,
    Option<String>,
    Option<String>,
);

/// What an answer says: how it was cut into events does not matter, nor that a vendor left out why it is incomplete.
fn said(answer: &Answer) -> Said {
    let answer = answer.clone();
    (
        answer.blocks,
        answer.finish.map(|finish| finish.reason),
        answer.usage,
        answer.id,
        answer.model,
    )
}

fn owned(event: &Event<'_>) -> Event<'static> {
    let own = |text: &Cow<'_, str>| Cow::Owned(text.to_string());
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

fn finish(reason: Reason, raw: &'static str) -> Finish<'static> {
    Finish {
        reason,
        raw: raw.into(),
        stop_sequence: None,
    }
}

fn tool_start(index: u32, id: &'static str, name: &'static str) -> Event<'static> {
    Event::ToolStart {
        index,
        id: id.into(),
        name: name.into(),
        signature: None,
    }
}

fn arguments(index: u32, fragment: &'static str) -> Event<'static> {
    Event::ToolArguments {
        index,
        fragment: fragment.into(),
    }
}

const USAGE: Usage = Usage {
    input_tokens: 30,
    cached_tokens: 4,
    cache_write_tokens: 6,
    output_tokens: 5,
    reasoning_tokens: 2,
};

#[test]
fn what_a_request_says_is_read() {
    let body = r#"{"model":"gpt-5","instructions":"Be brief.","stream":true,"max_output_tokens":512,"temperature":0.50,"top_p":1,
        "parallel_tool_calls":false,"metadata":{"b":"2","a":"1"},"safety_identifier":"u1","prompt_cache_key":"s1","store":false,
        "truncation":"disabled","service_tier":"auto","background":false,"include":["reasoning.encrypted_content"],
        "reasoning":{"effort":"high","summary":"auto","context":"auto"},
        "text":{"verbosity":"medium","format":{"type":"json_schema","name":"city","strict":true,"schema":{"type":"object"}}},
        "tool_choice":{"type":"function","name":"get_weather"},
        "tools":[{"type":"function","name":"get_weather","description":"d","strict":false,"parameters":{"type":"object"}},{"type":"web_search"}],
        "input":[
            {"role":"developer","content":"First."},
            {"role":"user","content":[{"type":"input_text","text":"How?"},
                {"type":"input_image","image_url":"data:image/png;base64,iVBO","detail":"auto"},
                {"type":"input_file","file_data":"data:application/pdf;base64,JVBE","filename":"r.pdf"}]},
            {"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"a"},{"type":"summary_text","text":"b"}],"encrypted_content":"gAAA"},
            {"type":"message","role":"assistant","id":"msg_1","status":"completed","content":[{"type":"output_text","text":"So.","annotations":[]}]},
            {"type":"function_call","call_id":"c1","name":"get_weather","arguments":"{\"a\": 1.0}"},
            {"type":"function_call","call_id":"c2","name":"get_weather","arguments":"{}"},
            {"type":"function_call_output","call_id":"c1","output":"sunny"},
            {"type":"function_call_output","call_id":"c2","output":[{"type":"input_text","text":"rain"},{"type":"input_image","image_url":"https://example.com/a.png"}]},
            {"role":"system","content":"Later."}]}"#;
    let it = decoded(body);
    assert_eq!((&*it.model, it.streaming, it.max_tokens), ("gpt-5", true, Some(512)));
    assert_eq!(it.temperature.unwrap().to_string(), "0.50");
    assert_eq!(
        it.system,
        [Block::Text("Be brief.".into()), Block::Text("First.".into())]
    );
    assert_eq!(
        (it.effort, it.show_reasoning, it.parallel_tools),
        (Some(Effort::High), Some(true), Some(false))
    );
    assert_eq!((it.user.as_deref(), it.session.as_deref()), (Some("u1"), Some("s1")));
    assert_eq!(it.metadata, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    assert_eq!(it.tool_choice, Some(ToolChoice::Named("get_weather".into())));
    assert!(matches!(&it.output, Output::Schema { name: Some(name), strict: Some(true), .. } if name == "city"));
    assert!(matches!(&it.tools[..], [Tool::Function(_), Tool::Opaque { what, .. }] if what == "web_search"));
    assert_eq!(it.others, Vec::<Cow<'_, str>>::new());
    let roles: Vec<Role> = it.turns.iter().map(|turn| turn.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::System]);
    assert_eq!(
        it.turns[0].blocks[1],
        Block::Image(Source::Inline {
            media_type: "image/png".into(),
            data: "iVBO".into()
        })
    );
    let reasoning = Block::Reasoning {
        text: "a\n\nb".into(),
        signature: Some("gAAA".into()),
    };
    assert_eq!(it.turns[1].blocks[..2], [reasoning, Block::Text("So.".into())]);
    let result = |id: &'static str, content| Block::ToolResult {
        id: id.into(),
        name: None,
        content,
        is_error: false,
    };
    let picture = Block::Image(Source::Url("https://example.com/a.png".into()));
    assert_eq!(
        it.turns[2].blocks,
        [
            result("c1", vec![Block::Text("sunny".into())]),
            result("c2", vec![Block::Text("rain".into()), picture])
        ]
    );
}

#[test]
fn large_data_is_not_copied() {
    let body = r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,iVBO"}]}]}"#;
    let it = decoded(body);
    assert!(matches!(
        &it.turns[0].blocks[0],
        Block::Image(Source::Inline {
            data: Cow::Borrowed("iVBO"),
            ..
        })
    ));
}

#[test]
fn what_only_this_format_can_say_is_named() {
    let body = r#"{"model":"m","store":true,"previous_response_id":"resp_1","conversation":{"id":"c"},"background":true,"truncation":"auto",
        "service_tier":"flex","text":{"verbosity":"low"},"reasoning":{"mode":"pro"},"include":["web_search_call.results"],
        "unknown":null,"max_tool_calls":3,"top_logprobs":2,
        "input":[{"type":"web_search_call","id":"ws_1"},{"type":"item_reference","id":"msg_1"},
            {"role":"user","content":[{"type":"input_video","x":1},{"type":"input_file","file_id":"file_1"}]},
            {"role":"tool","content":"?"},{"type":"custom_tool_call_output","call_id":"c","output":"o"}]}"#;
    let it = decoded(body);
    assert_eq!(
        it.others,
        [
            "store",
            "previous_response_id",
            "conversation",
            "background",
            "truncation",
            "service_tier",
            "text.verbosity",
            "reasoning.mode",
            "include",
            "max_tool_calls"
        ]
    );
    assert!(it.logprobs);
    let blocks = it.turns.iter().flat_map(|turn| &turn.blocks);
    let names: Vec<&str> = blocks
        .map(|block| match block {
            Block::Opaque { what, .. } => what,
            Block::Document {
                source: Source::Stored(id),
                ..
            } => id,
            _ => "",
        })
        .collect();
    assert_eq!(
        names,
        [
            "web_search_call",
            "item_reference",
            "content.input_video",
            "file_1",
            "message",
            "custom_tool_call_output"
        ]
    );
}

#[test]
fn errors_tell_what_to_write() {
    let refused = |body: &str| {
        let error = Responses.read(Bytes::copy_from_slice(body.as_bytes())).unwrap_err();
        (error.param.unwrap_or_default().into_owned(), error.message)
    };
    assert_eq!(
        refused(r#"{"input":"x"}"#),
        ("model".into(), "you must provide a `model`".into())
    );
    assert_eq!(refused(r#"{"model":1,"input":"x"}"#).0, "model");
    assert_eq!(refused(r#"{"model":"m"}"#).0, "input");
    assert_eq!(refused(r#"{"model":"m","input":7}"#).0, "input");
    assert_eq!(
        refused(r#"{"model":"m","input":[{"role":"user","content":"x"},"y"]}"#),
        ("input".into(), "`input[1]` must be an object".into())
    );
    assert_eq!(refused("[]").0, "");
    assert_eq!(
        refused(&format!(r#"{{"model":"{}","input":""}}"#, "m".repeat(257))).0,
        "model"
    );
    assert!(
        Responses
            .decode_request(br#"{"model":"m","previous_response_id":"r"}"#)
            .is_ok()
    );
}

#[test]
fn routing_knows_where_the_model_stands() {
    let body = Bytes::from_static(br#"{"model":"a","input":"x","mod\u0065l" : "smart","stream":true}"#);
    let inquiry = Responses.read(body.clone()).unwrap();
    assert_eq!((&*inquiry.request.model, inquiry.request.streaming), ("smart", true));
    let passed = Format::Responses.pass_through(&inquiry, "gpt-5", None).unwrap();
    assert_eq!(
        passed,
        &br#"{"model":"gpt-5","input":"x","mod\u0065l" : "gpt-5","stream":true}"#[..]
    );
}

#[test]
fn a_request_is_written() {
    let text = |text: &'static str| Block::Text(text.into());
    let result = |id: &'static str, is_error| Block::ToolResult {
        id: id.into(),
        name: None,
        content: vec![text("nothing")],
        is_error,
    };
    let tool_call = |id: &'static str, arguments: &'static str| {
        Block::ToolCall(ToolCall {
            id: id.into(),
            name: "weather.get".into(),
            arguments: arguments.into(),
            signature: None,
        })
    };
    let turn = |role, blocks| Turn { role, blocks };
    let document = |source| Block::Document { name: None, source };
    let inline = |media_type: &'static str| Source::Inline {
        media_type: media_type.into(),
        data: "QUJD".into(),
    };
    let schema = serde_json::value::RawValue::from_string(r#"{"type":"object","x":1.0}"#.into()).unwrap();
    let conversation = Conversation {
        system: vec![text("A"), text("B")],
        turns: vec![
            turn(
                Role::User,
                vec![
                    text("look"),
                    Block::Image(inline("image/png")),
                    Block::Image(Source::Url("https://e.com/a".into())),
                    document(inline("application/pdf")),
                    document(Source::Url("https://e.com/b".into())),
                    document(Source::Text("plain".into())),
                ],
            ),
            turn(
                Role::Assistant,
                vec![text("ok"), tool_call("c1", ""), tool_call("c2", r#"{"a":1}"#)],
            ),
            turn(Role::User, vec![result("c1", false), result("c2", true), text("go on")]),
            turn(Role::System, vec![text("mind")]),
        ],
        tools: vec![Tool::Function(Function {
            name: "weather.get".into(),
            description: None,
            parameters: None,
            strict: None,
        })],
        tool_choice: Some(ToolChoice::Named("weather.get".into())),
        parallel_tools: Some(true),
        max_tokens: Some(5),
        output: Output::Schema {
            name: None,
            description: None,
            schema: Cow::Owned(schema),
            strict: Some(true),
        },
        effort: Some(Effort::Low),
        show_reasoning: Some(true),
        user: Some("u".repeat(80).into()),
        metadata: vec![("k".into(), "v".into())],
        ..Conversation::default()
    };
    let encoded = Responses
        .encode_request(&conversation, &call(Format::OpenAiChat))
        .unwrap();
    let [(there, here)] = &encoded.renamed[..] else {
        panic!("{:?}", encoded.renamed)
    };
    assert_eq!(here, "weather.get");
    assert!(there.starts_with("weather_get_"));
    let mut body: Value = serde_json::from_slice(&encoded.body).unwrap();
    assert!(body["user"].take().as_str().unwrap().len() <= 64);
    let say = |text: &str| json!({"type":"input_text","text":text});
    assert_eq!(
        body,
        json!({
            "model": "gpt-5",
            "instructions": "A\n\nB",
            "input": [
                {"type":"message","role":"user","content":[
                    say("look"),
                    {"type":"input_image","image_url":"data:image/png;base64,QUJD"},
                    {"type":"input_image","image_url":"https://e.com/a"},
                    {"type":"input_file","filename":"document.pdf","file_data":"data:application/pdf;base64,QUJD"},
                    {"type":"input_file","file_url":"https://e.com/b"},
                    say("plain"),
                ]},
                {"type":"message","role":"assistant","content":[{"type":"output_text","text":"ok"}]},
                {"type":"function_call","call_id":"c1","name":there,"arguments":"{}"},
                {"type":"function_call","call_id":"c2","name":there,"arguments":"{\"a\":1}"},
                {"type":"function_call_output","call_id":"c1","output":"nothing"},
                {"type":"function_call_output","call_id":"c2","output":"Error: nothing"},
                {"type":"message","role":"user","content":[say("go on")]},
                {"type":"message","role":"system","content":[say("mind")]},
            ],
            "tools": [{"type":"function","name":there,"parameters":{"type":"object","properties":{}},"strict":false}],
            "tool_choice": {"type":"function","name":there},
            "parallel_tool_calls": true,
            "max_output_tokens": 16,
            "text": {"format":{"type":"json_schema","name":"answer","schema":{"type":"object","x":serde_json::from_str::<Value>("1.0").unwrap()},"strict":true}},
            "reasoning": {"effort":"low","summary":"auto"},
            "include": ["reasoning.encrypted_content"],
            "user": null,
            "metadata": {"k":"v"},
            "store": false,
        })
    );
}

#[test]
fn instructions_alone_become_input() {
    let conversation = Conversation {
        system: vec![Block::Text("A".into()), Block::Text("B".into())],
        ..Conversation::default()
    };
    let body = sent(&conversation, Format::OpenAiChat);
    assert_eq!(
        body["input"],
        json!([{"type":"message","role":"system","content":[{"type":"input_text","text":"A"},{"type":"input_text","text":"B"}]}])
    );
    assert_eq!(body.get("instructions"), None);
}

#[test]
fn proofs_of_reasoning_go_to_their_own_vendor_only() {
    let history = |proof: Option<String>| Conversation {
        turns: vec![Turn {
            role: Role::Assistant,
            blocks: vec![
                Block::Reasoning {
                    text: "hm".into(),
                    signature: proof.map(Cow::Owned),
                },
                Block::Text("a".into()),
            ],
        }],
        ..Conversation::default()
    };
    let reasoning = |proof: Option<String>, client| sent(&history(proof), client)["input"][0].clone();
    let own = json!({"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"gAAA"});
    let marked = |from| Some(signature::marked("gAAA", from));
    assert_eq!(reasoning(Some("gAAA".into()), Format::Responses), own);
    assert_eq!(reasoning(marked(Format::Responses), Format::Messages), own);
    for left_out in [
        reasoning(None, Format::Responses),
        reasoning(Some("gAAA".into()), Format::Messages),
        reasoning(marked(Format::Messages), Format::Responses),
    ] {
        assert_eq!(left_out["type"], "message");
    }
    let body = sent(&history(marked(Format::Responses)), Format::Messages);
    assert_eq!(body["include"], json!(["reasoning.encrypted_content"]));
}

#[test]
fn hidden_proofs_come_back_as_what_they_were() {
    let events = [
        Event::Redacted("pointsman.m.secret".into()),
        Event::ToolStart {
            index: 0,
            id: "c1".into(),
            name: "f".into(),
            signature: Some("pointsman.g.thought".into()),
        },
        arguments(0, "{}"),
        Event::ToolEnd { index: 0 },
    ];
    let body = Responses.encode_answer(&fold(&events), &asked("{}"));
    let body: Value = serde_json::from_slice(&body).unwrap();
    let request = json!({"model": "m", "input": body["output"]}).to_string();
    assert!(signature::may_be_in(request.as_bytes()));
    assert_eq!(
        decoded(&request).turns[0].blocks,
        [
            Block::Redacted("pointsman.m.secret".into()),
            Block::ToolCall(ToolCall {
                id: "c1".into(),
                name: "f".into(),
                arguments: "{}".into(),
                signature: Some("pointsman.g.thought".into()),
            })
        ]
    );
    assert_eq!(fold(&whole(&body.to_string())).blocks, fold(&events).blocks);
}

#[test]
fn the_same_format_keeps_what_is_its_own() {
    let body = r#"{"model":"m","tools":[{"type":"web_search"}],"input":[{"type":"web_search_call","id":"ws_1"},
        {"role":"user","content":[{"type":"input_video","x":1},{"type":"input_text","text":"t"}]}]}"#;
    let own = sent(&decoded(body), Format::Responses);
    let asked: Value = serde_json::from_str(body).unwrap();
    assert_eq!(own["tools"], asked["tools"]);
    assert_eq!(own["input"][0], asked["input"][0]);
    assert_eq!(own["input"][1]["content"], asked["input"][1]["content"]);
    let foreign = sent(&decoded(body), Format::OpenAiChat);
    assert_eq!(foreign.get("tools"), None);
    assert_eq!(foreign["input"].as_array().unwrap().len(), 1);
}

#[test]
fn a_stream_is_written_event_by_event() {
    let asked = asked(
        r#"{"model":"smart","input":"x","instructions":"I","temperature":0.25,"tools":[{"type":"function","name":"f"}]}"#,
    );
    let events = [
        Event::Start {
            id: Some("resp_9".into()),
            model: Some("gpt-5".into()),
        },
        Event::Reasoning("th".into()),
        Event::Reasoning("ink".into()),
        Event::Signature("gAAA".into()),
        Event::BlockEnd,
        Event::Text("Hel".into()),
        Event::Text("lo".into()),
        Event::BlockEnd,
        tool_start(0, "c1", "f"),
        arguments(0, "{\"a\""),
        arguments(0, ":1}"),
        Event::ToolEnd { index: 0 },
        Event::Finish(finish(Reason::ToolCalls, "tool_calls")),
        Event::Usage(USAGE),
        Event::End,
    ];
    let stream = encoded(&events, &asked);
    let lines = lines(&stream);
    let numbers: Vec<u64> = lines
        .iter()
        .map(|line| line["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..lines.len() as u64).collect::<Vec<_>>());
    let said: Vec<Value> = lines[2..lines.len() - 1]
        .iter()
        .map(|line| {
            let mut line = line.clone();
            line.as_object_mut().unwrap().remove("sequence_number");
            line
        })
        .collect();
    let rs = json!({"type":"reasoning","id":"rs_r1_0","summary":[{"type":"summary_text","text":"think"}],"encrypted_content":"gAAA"});
    let msg = json!({"type":"message","id":"msg_r1_1","status":"completed","role":"assistant",
        "content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"Hello"}]});
    let fc = json!({"type":"function_call","id":"fc_r1_2","status":"completed","arguments":"{\"a\":1}","call_id":"c1","name":"f"});
    let in_rs = |kind: &str, more: Value| {
        merged(
            json!({"type":kind,"item_id":"rs_r1_0","output_index":0,"summary_index":0}),
            more,
        )
    };
    let in_msg = |kind: &str, more: Value| {
        merged(
            json!({"type":kind,"item_id":"msg_r1_1","output_index":1,"content_index":0}),
            more,
        )
    };
    let in_fc = |kind: &str, more: Value| merged(json!({"type":kind,"item_id":"fc_r1_2","output_index":2}), more);
    let part = |text: &str| json!({"type":"output_text","annotations":[],"logprobs":[],"text":text});
    assert_eq!(
        said,
        [
            json!({"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"rs_r1_0","summary":[],"encrypted_content":null}}),
            in_rs(
                "response.reasoning_summary_part.added",
                json!({"part":{"type":"summary_text","text":""}})
            ),
            in_rs("response.reasoning_summary_text.delta", json!({"delta":"th"})),
            in_rs("response.reasoning_summary_text.delta", json!({"delta":"ink"})),
            in_rs("response.reasoning_summary_text.done", json!({"text":"think"})),
            in_rs(
                "response.reasoning_summary_part.done",
                json!({"part":{"type":"summary_text","text":"think"}})
            ),
            json!({"type":"response.output_item.done","output_index":0,"item":rs}),
            json!({"type":"response.output_item.added","output_index":1,"item":{"type":"message","id":"msg_r1_1","status":"in_progress","role":"assistant","content":[]}}),
            in_msg("response.content_part.added", json!({"part":part("")})),
            in_msg("response.output_text.delta", json!({"delta":"Hel","logprobs":[]})),
            in_msg("response.output_text.delta", json!({"delta":"lo","logprobs":[]})),
            in_msg("response.output_text.done", json!({"text":"Hello","logprobs":[]})),
            in_msg("response.content_part.done", json!({"part":part("Hello")})),
            json!({"type":"response.output_item.done","output_index":1,"item":msg}),
            json!({"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","id":"fc_r1_2","status":"in_progress","arguments":"","call_id":"c1","name":"f"}}),
            in_fc("response.function_call_arguments.delta", json!({"delta":"{\"a\""})),
            in_fc("response.function_call_arguments.delta", json!({"delta":":1}"})),
            in_fc(
                "response.function_call_arguments.done",
                json!({"arguments":"{\"a\":1}"})
            ),
            json!({"type":"response.output_item.done","output_index":2,"item":fc}),
        ]
    );
    let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let last = &lines[lines.len() - 1];
    assert_eq!(last["type"], "response.completed");
    assert_eq!(
        last["response"],
        json!({
            "id":"resp_9","object":"response","created_at":1741257730,"status":"completed","background":false,"error":null,
            "incomplete_details":null,"model":"gpt-5","output":[rs, msg, fc],"store":false,"instructions":"I",
            "max_output_tokens":null,"max_tool_calls":null,"metadata":{},"parallel_tool_calls":true,"previous_response_id":null,
            "prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default",
            "temperature":number("0.25"),"text":{"format":{"type":"text"}},"tool_choice":"auto",
            "tools":[{"type":"function","name":"f","description":null,"parameters":null,"strict":false}],
            "top_logprobs":0,"top_p":number("1.0"),"truncation":"disabled","user":null,
            "usage":{"input_tokens":30,"input_tokens_details":{"cached_tokens":4,"cache_write_tokens":6},"output_tokens":5,
                "output_tokens_details":{"reasoning_tokens":2},"total_tokens":35}
        })
    );
    let whole: Value = serde_json::from_slice(&Responses.encode_answer(&fold(&events), &asked)).unwrap();
    assert_eq!(whole, last["response"]);
    let first = &lines[0]["response"];
    assert_eq!(
        (&first["status"], &first["output"], &first["usage"]),
        (&json!("in_progress"), &json!([]), &Value::Null)
    );
}

fn merged(mut one: Value, other: Value) -> Value {
    let (Some(into), Value::Object(more)) = (one.as_object_mut(), other) else {
        unreachable!("both are objects")
    };
    into.extend(more);
    one
}

#[test]
fn a_pretty_request_does_not_break_lines() {
    let asked = asked(
        "{\"model\":\"m\",\n\"input\":\"x\",\n\"tools\":[\n{\"type\":\"function\",\n\"name\":\"f\",\"strict\":true,\"parameters\":{\n}}],\"text\":{\n\"verbosity\":\"low\"}}",
    );
    let stream = encoded(&[Event::Text("a".into()), Event::End], &asked);
    let lines = lines(&stream);
    let response = &lines[lines.len() - 1]["response"];
    assert_eq!(
        response["tools"],
        json!([{"type":"function","name":"f","strict":true,"parameters":{}}])
    );
    assert_eq!(response["text"], json!({"format":{"type":"text"},"verbosity":"low"}));
    assert_eq!(
        (&response["id"], &response["model"]),
        (&json!("resp_r1"), &json!("smart"))
    );
}

#[test]
fn interleaved_calls_keep_their_places() {
    let events = [
        tool_start(0, "c1", "f"),
        tool_start(1, "c2", "g"),
        arguments(1, "[2"),
        arguments(0, "{1}"),
        arguments(1, "]"),
        Event::Finish(finish(Reason::ToolCalls, "tool_calls")),
        Event::End,
    ];
    let lines = lines(&encoded(&events, &asked("{}")));
    let deltas = lines
        .iter()
        .filter(|line| line["type"] == "response.function_call_arguments.delta");
    let deltas: Vec<_> = deltas
        .map(|line| (line["output_index"].as_u64().unwrap(), line["delta"].as_str().unwrap()))
        .collect();
    assert_eq!(deltas, [(1, "[2"), (0, "{1}"), (1, "]")]);
    let output = &lines[lines.len() - 1]["response"]["output"];
    assert_eq!(
        (&output[0]["arguments"], &output[1]["arguments"]),
        (&json!("{1}"), &json!("[2]"))
    );
}

#[test]
fn every_reason_has_its_status() {
    let ended = |events: &[Event<'static>], reason| {
        let mut events = events.to_vec();
        events.extend([Event::Finish(finish(reason, "")), Event::End]);
        let lines = lines(&encoded(&events, &asked("{}")));
        let last = &lines[lines.len() - 1];
        let whole = Responses.encode_answer(&fold(&events), &asked("{}"));
        assert_eq!(last["response"], serde_json::from_slice::<Value>(&whole).unwrap());
        let why = last["response"]["incomplete_details"]["reason"]
            .as_str()
            .unwrap_or_default();
        let code = last["response"]["error"]["code"].as_str().unwrap_or_default();
        format!("{} {why}{code}", last["type"].as_str().unwrap())
    };
    let text = [Event::Text("a".into())];
    assert_eq!(ended(&text, Reason::Stop), "response.completed ");
    assert_eq!(ended(&text, Reason::StopSequence), "response.completed ");
    assert_eq!(ended(&text, Reason::ToolCalls), "response.completed ");
    assert_eq!(ended(&text, Reason::Length), "response.incomplete max_output_tokens");
    assert_eq!(
        ended(&text, Reason::ContextWindow),
        "response.incomplete max_output_tokens"
    );
    assert_eq!(ended(&text, Reason::Refused), "response.incomplete content_filter");
    assert_eq!(ended(&text, Reason::Malformed), "response.failed server_error");
    let refusal = [Event::Refusal("no".into())];
    assert_eq!(ended(&refusal, Reason::Refused), "response.completed ");
}

#[test]
fn every_status_has_its_reason() {
    let reason = |answer: Value| {
        let events = whole(&answer.to_string());
        fold(&events)
            .finish
            .map(|finish| (finish.reason, finish.raw.into_owned()))
    };
    let answer = |status: &str, why: Value, output: Value| {
        reason(json!({"id":"r","status":status,"incomplete_details":{"reason":why},"output":output}))
    };
    let is = |reason, raw: &str| Some((reason, raw.to_owned()));
    let text = json!([{"type":"message","content":[{"type":"output_text","text":"a"}]}]);
    assert_eq!(
        answer("completed", json!(null), text.clone()),
        is(Reason::Stop, "completed")
    );
    let cut = answer("incomplete", json!("max_output_tokens"), text.clone());
    assert_eq!(cut, is(Reason::Length, "max_output_tokens"));
    let filtered = answer("incomplete", json!("content_filter"), text.clone());
    assert_eq!(filtered, is(Reason::Refused, "content_filter"));
    assert_eq!(
        answer("incomplete", json!(null), text.clone()),
        is(Reason::Length, "incomplete")
    );
    assert_eq!(
        answer("incomplete", json!("steered"), text),
        is(Reason::Stop, "steered")
    );
    let call = json!([{"type":"function_call","call_id":"c","name":"f","arguments":""}]);
    assert_eq!(
        answer("completed", json!(null), call),
        is(Reason::ToolCalls, "completed")
    );
    let refusal = json!([{"type":"message","content":[{"type":"refusal","refusal":"no"}]}]);
    assert_eq!(
        answer("completed", json!(null), refusal),
        is(Reason::Refused, "completed")
    );
    assert_eq!(answer("in_progress", json!(null), json!([])), None);
}

#[test]
fn streams_of_lenient_servers_are_read() {
    // llama.cpp: no indexes, no numbers. Others: no ends, empty ids, a marker of chat completions'.
    let events = streamed([
        r#"{"type":"response.created","response":{"id":"resp_1","object":"response","status":"in_progress"}}"#,
        r#"{"type":"response.output_item.added","item":{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":""}}"#,
        r#"{"type":"response.reasoning_text.delta","delta":"hm","item_id":"rs_1"}"#,
        r#"{"type":"response.output_item.added","item":{"id":"msg_1","type":"message","content":[]}}"#,
        r#"{"type":"response.output_text.delta","item_id":"msg_1","delta":"Hi"}"#,
        r#"{"type":"response.output_item.added","item":{"id":"","type":"function_call","call_id":"c1","name":"f","arguments":""}}"#,
        r#"{"type":"response.function_call_arguments.delta","item_id":"fc_c1","delta":"{}"}"#,
        r#"{"type":"response.output_item.done","item":{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"}}"#,
        r#"{"type":"response.output_item.done","item":{"type":"function_call","call_id":"c2","name":"g","arguments":"{\"a\":1}"}}"#,
        r#"{"type":"response.completed","response":{"id":"resp_1","model":"m","status":"completed","usage":{"input_tokens":3,"output_tokens":4}}}"#,
        "[DONE]",
    ]);
    let answer = fold(&events);
    let call = |id: &'static str, name: &'static str, arguments: &'static str| {
        Piece::ToolCall(ToolCall {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
            signature: None,
        })
    };
    let reasoning = Piece::Reasoning {
        text: "hm".into(),
        signature: None,
    };
    assert_eq!(
        answer.blocks,
        [
            reasoning,
            Piece::Text("Hi".into()),
            call("c1", "f", "{}"),
            call("c2", "g", "{\"a\":1}")
        ]
    );
    assert_eq!(
        answer.usage.map(|usage| (usage.input_tokens, usage.output_tokens)),
        Some((3, 4))
    );
    assert_eq!(answer.finish, Some(finish(Reason::ToolCalls, "completed")));
    assert_eq!(events.iter().filter(|event| **event == Event::End).count(), 1);
}

#[test]
fn an_answer_that_is_only_at_the_end_is_read() {
    let events = streamed([
        r#"{"type":"response.completed","response":{"id":"r","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}]}}"#,
    ]);
    assert_eq!(fold(&events).blocks, [Piece::Text("a".into())]);
}

#[test]
fn failures_are_told_once() {
    let nested = r#"{"type":"error","sequence_number":2,"error":{"type":"invalid_request_error","code":"context_length_exceeded","message":"long","param":"input"}}"#;
    let flat = r#"{"type":"error","code":"context_length_exceeded","message":"long","param":null,"sequence_number":2}"#;
    let failed = r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"context_length_exceeded","message":"long"}}}"#;
    for lines in [vec![nested, failed], vec![flat], vec![failed]] {
        let events = streamed(lines);
        let errors: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Error(error) => Some((error.code.as_str(), error.message.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(errors, [("context_length_exceeded", "long")]);
        assert!(!events.contains(&Event::End));
    }
    let failed = whole(r#"{"id":"r","status":"failed","error":{"code":"server_error","message":"m"},"output":[]}"#);
    assert!(matches!(failed.last(), Some(Event::Error(error)) if error.code == "server_error"));
    let error = whole(r#"{"error":{"message":"m","type":"t","code":"c","param":null}}"#);
    assert!(matches!(&error[..], [Event::Error(error)] if error.code == "c"));
    assert!(Responses.decode_answer(b"{}", &mut |_| ()).is_err());
    assert!(Responses.decode_answer(b"7", &mut |_| ()).is_err());
}

#[test]
fn errors_are_written() {
    let error = ErrorBody {
        status: 429,
        kind: "rate_limit_error",
        code: "all_targets_failed",
        param: None,
        message: "slow".into(),
    };
    let told = json!({"type":"rate_limit_error","code":"all_targets_failed","message":"slow","param":null});
    let events = lines(&Responses.error_event(&error));
    assert_eq!(events, [json!({"type":"error","sequence_number":0,"error":told})]);
    let body: Value = serde_json::from_slice(&Responses.error(&error)).unwrap();
    assert_eq!(body, json!({"error":told}));

    let mut encoder = Responses.encoder(&asked("{}"));
    let mut out = Vec::new();
    encoder.error(&error, &mut out);
    assert_eq!(lines(&out).len(), 1);

    let mut encoder = Responses.encoder(&asked("{}"));
    let mut out = Vec::new();
    encoder.event(&Event::Text("a".into()), &mut out);
    out.clear();
    encoder.error(&error, &mut out);
    let events = lines(&out);
    assert_eq!(
        (&events[0]["type"], &events[0]["sequence_number"]),
        (&json!("error"), &json!(5))
    );
    assert_eq!(
        (&events[1]["type"], &events[1]["sequence_number"]),
        (&json!("response.failed"), &json!(6))
    );
    assert_eq!(
        events[1]["response"]["error"],
        json!({"code":"rate_limit_exceeded","message":"slow"})
    );
    assert_eq!(events[1]["response"]["status"], "failed");
}

#[test]
fn hosted_tools_commit_a_stream_that_passes_through() {
    let mut decoder = Responses.decoder();
    let event = |name: &'static [u8], data: &'static str| sse::Event {
        name,
        data: Some(Cow::Borrowed(data.as_bytes())),
    };
    let created = event(
        b"response.created",
        r#"{"type":"response.created","response":{"id":"r"}}"#,
    );
    assert!(!Responses.frame(&mut *decoder, &created).unwrap().content);
    let delta = event(
        b"response.custom_tool_call_input.delta",
        r#"{"type":"response.custom_tool_call_input.delta","delta":"x"}"#,
    );
    assert!(Responses.frame(&mut *decoder, &delta).unwrap().content);
}

/// Recorded files of this format, as (name, text).
fn recorded(ending: &str) -> Option<Vec<(String, String)>> {
    let Ok(corpus) = std::env::var("POINTSMAN_CORPUS") else {
        println!("skipped: POINTSMAN_CORPUS is not set");
        return None;
    };
    let folders = [
        "vercel-ai/packages/openai/src/responses/__fixtures__",
        "vercel-ai/packages/azure/src/__fixtures__",
        "agentgateway/crates/llm/src/tests/response/responses",
    ];
    let files = folders.iter().flat_map(|folder| {
        let folder = std::path::Path::new(&corpus).join(folder);
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path())
    });
    let texts = files.filter(|path| path.to_string_lossy().ends_with(ending));
    let texts: Vec<_> = texts
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(!texts.is_empty());
    Some(texts)
}

#[test]
fn recorded_answers_survive_a_round_trip() {
    let Some(files) = recorded(".json") else { return };
    let mut survived = 0;
    for (name, text) in files {
        let is_response = |body: &Value| body.get("output").is_some();
        if !serde_json::from_str(&text).as_ref().is_ok_and(is_response) {
            continue;
        }
        let answer = fold(&whole(&text));
        let again = Responses.encode_answer(&answer, &asked("{}"));
        let again = fold(&whole(std::str::from_utf8(&again).unwrap()));
        assert_eq!(said(&again), said(&answer), "{name}");
        let stream = encoded(&replayed(&answer), &asked("{}"));
        assert_eq!(said(&fold(&reread(&stream))), said(&answer), "{name}");
        survived += 1;
    }
    assert!(survived > 20, "{survived}");
}

/// The events of a whole answer.
fn replayed(answer: &Answer) -> Vec<Event<'static>> {
    let whole = Responses.encode_answer(answer, &asked("{}"));
    self::whole(std::str::from_utf8(&whole).unwrap())
}

fn reread(stream: &[u8]) -> Vec<Event<'static>> {
    let lines: Vec<String> = lines(stream).iter().map(Value::to_string).collect();
    streamed(lines.iter().map(String::as_str))
}

#[test]
fn recorded_streams_survive_a_round_trip() {
    let Some(files) = recorded(".chunks.txt") else { return };
    for (name, text) in files {
        // Some files hold the streams of several requests.
        let mut streams: Vec<Vec<&str>> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if streams.is_empty() || line.contains(r#""type":"response.created""#) {
                streams.push(Vec::new());
            }
            streams.last_mut().unwrap().push(line);
        }
        let is_json = |line: &&str| serde_json::from_str::<Value>(line).is_ok();
        for stream in streams {
            // Chat completions are recorded beside.
            if !stream.iter().all(|line| line.contains(r#""type":""#)) {
                continue;
            }
            // One recording was cut by hand and is no JSON any more.
            if !stream.iter().all(is_json) {
                println!("skipped: {name} has lines that are not JSON");
                continue;
            }
            let events = streamed(stream.iter().copied());
            let answer = fold(&events);
            if events.iter().any(|event| matches!(event, Event::Error(_))) {
                continue;
            }
            assert!(events.contains(&Event::End), "{name}");
            let written = encoded(&events, &asked("{}"));
            assert_eq!(said(&fold(&reread(&written))), said(&answer), "{name}");
            let whole = Responses.encode_answer(&answer, &asked("{}"));
            let lines = lines(&written);
            let last = &lines[lines.len() - 1]["response"];
            assert_eq!(*last, serde_json::from_slice::<Value>(&whole).unwrap(), "{name}");
            let said_at_the_end = stream.iter().rev().find(|line| line.contains("response.completed"));
            if let Some(line) = said_at_the_end {
                let line: Value = serde_json::from_str(line).unwrap();
                let end = fold(&self::whole(&line["response"].to_string()));
                let kinds = |answer: &Answer| -> Vec<_> { answer.blocks.iter().map(comparable).collect() };
                if line["response"]["output"]
                    .as_array()
                    .is_some_and(|output| !output.is_empty())
                {
                    assert_eq!(kinds(&end), kinds(&answer), "{name}");
                }
            }
        }
    }
}

/// What is the same in a stream and in the response at its end: proofs are made anew, and fragments are missing in some recordings.
fn comparable(piece: &Piece) -> String {
    match piece {
        Piece::Reasoning { .. } => "reasoning".to_owned(),
        Piece::Text(_) => "text".to_owned(),
        Piece::Opaque { what, .. } => format!("opaque {what}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn recorded_requests_are_read() {
    let Ok(corpus) = std::env::var("POINTSMAN_CORPUS") else {
        println!("skipped: POINTSMAN_CORPUS is not set");
        return;
    };
    let folder = std::path::Path::new(&corpus).join("agentgateway/crates/llm/src/tests/requests/responses");
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let conversation = decoded(&text);
        let again = sent(&conversation, Format::Responses).to_string();
        let again = decoded(&again);
        let mut turns = conversation.turns.clone();
        for block in turns.iter_mut().flat_map(|turn| &mut turn.blocks) {
            if let Block::Document { name, .. } = block {
                name.get_or_insert("document.txt".into());
            }
        }
        assert_eq!(again.turns, turns);
        assert_eq!(
            crate::chat::texts(&again).first().map(|(_, text)| text.len()),
            crate::chat::texts(&conversation).first().map(|(_, text)| text.len())
        );
    }
}

fn any_text() -> impl Strategy<Value = String> {
    "[a-zé\"\\\\\n ]{1,12}"
}

fn any_piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        any_text().prop_map(Piece::Text),
        any_text().prop_map(Piece::Refusal),
        (any_text(), proptest::option::of("[a-z]{1,8}"))
            .prop_map(|(text, signature)| Piece::Reasoning { text, signature }),
        any_text().prop_map(Piece::Redacted),
        ("[a-z0-9_]{1,12}", "[a-z]{1,8}", any_text()).prop_map(|(id, name, text)| {
            Piece::ToolCall(ToolCall {
                id: id.into(),
                name: name.into(),
                arguments: json!({ "a": text }).to_string().into(),
                signature: None,
            })
        }),
    ]
}

fn any_blocks(role: Role) -> impl Strategy<Value = Vec<Block<'static>>> {
    let text = any_text().prop_map(|text| Block::Text(text.into()));
    let block = if role == Role::User {
        prop_oneof![
            text,
            "[a-z]{1,9}".prop_map(|data| Block::Image(Source::Inline {
                media_type: "image/png".into(),
                data: data.into()
            })),
        ]
        .boxed()
    } else {
        prop_oneof![
            text,
            ("[a-z0-9]{1,9}", "[a-z]{1,9}").prop_map(|(id, name)| Block::ToolCall(ToolCall {
                id: id.into(),
                name: name.into(),
                arguments: "{\"x\":[1.0]}".into(),
                signature: None,
            })),
            (any_text(), "[a-z]{1,9}").prop_map(|(text, proof)| Block::Reasoning {
                text: text.into(),
                signature: Some(proof.into())
            }),
        ]
        .boxed()
    };
    proptest::collection::vec(block, 1..4)
}

proptest! {
    /// A conversation of alternating turns comes back as it was.
    #[test]
    fn requests_survive_a_round_trip(
        system in proptest::collection::vec(any_text(), 0..2),
        turns in proptest::collection::vec((any_blocks(Role::User), any_blocks(Role::Assistant)), 1..4),
    ) {
        let turns = turns.into_iter().flat_map(|(user, model)| {
            [Turn { role: Role::User, blocks: user }, Turn { role: Role::Assistant, blocks: model }]
        });
        let conversation = Conversation {
            system: system.into_iter().map(|text| Block::Text(text.into())).collect(),
            turns: turns.collect(),
            ..Conversation::default()
        };
        let body = sent(&conversation, Format::Responses).to_string();
        let again = decoded(&body);
        prop_assert_eq!(again.system, conversation.system);
        prop_assert_eq!(again.turns, conversation.turns);
    }

    /// A whole answer and its stream say the same, and what they say comes back.
    #[test]
    fn answers_survive_a_round_trip(pieces in proptest::collection::vec(any_piece(), 0..8)) {
        let mut answer = Answer::default();
        answer.blocks = pieces;
        let body = Responses.encode_answer(&answer, &asked("{}"));
        let events = whole(std::str::from_utf8(&body).unwrap());
        prop_assert_eq!(&fold(&events).blocks, &answer.blocks);
        let stream = encoded(&events, &asked("{}"));
        prop_assert_eq!(&fold(&reread(&stream)).blocks, &answer.blocks);
        let lines = lines(&stream);
        prop_assert_eq!(&lines[lines.len() - 1]["response"]["output"], &serde_json::from_slice::<Value>(&body).unwrap()["output"]);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Responses.read(Bytes::copy_from_slice(&bytes));
        let _ = Responses.decode_answer(&bytes, &mut |_| ());
        let _ = Responses.vendor_error(&bytes);
        let event = sse::Event { name: b"error", data: Some(Cow::Borrowed(&bytes)) };
        let _ = Responses.decoder().event(&event, &mut |_| ());
    }

    /// Fields of the format with values of every type, in requests, answers and events.
    #[test]
    fn no_json_panics(fields in proptest::collection::vec((any_name(), any_json()), 0..8)) {
        let object = format!("{{{}}}", fields.iter().map(|(name, json)| format!("{name:?}:{json}")).collect::<Vec<_>>().join(","));
        let request = format!("{{\"model\":\"m\",\"input\":[{object}],\"tools\":[{object}],\"text\":{object},\"reasoning\":{object}}}");
        if let Ok(conversation) = Responses.decode_request(request.as_bytes()) {
            let _ = Responses.encode_request(&conversation, &call(Format::Responses));
        }
        let _ = Responses.decode_answer(format!("{{\"status\":\"completed\",\"output\":[{object}]}}").as_bytes(), &mut |_| ());
        let mut decoder = Responses.decoder();
        let mut encoder = Responses.encoder(&asked(&request));
        let mut out = Vec::new();
        for kind in ["response.output_item.added", "response.output_text.delta", "response.function_call_arguments.delta", "response.output_item.done", "response.completed"] {
            let data = format!("{{\"type\":{kind:?},\"item\":{object},\"response\":{{\"output\":[{object}]}},\"delta\":\"x\",\"output_index\":1}}");
            let event = sse::Event { name: b"", data: Some(Cow::Borrowed(data.as_bytes())) };
            let _ = decoder.event(&event, &mut |event| encoder.event(&event, &mut out));
        }
    }
}

fn any_name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "type",
        "role",
        "content",
        "id",
        "call_id",
        "name",
        "arguments",
        "summary",
        "encrypted_content",
        "output",
        "text",
        "format",
        "effort",
        "parameters",
        "image_url",
        "file_data",
        "annotations",
        "refusal",
    ])
}

fn any_json() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "null",
        "1",
        "-1.5e9",
        "true",
        "\"\"",
        "\"message\"",
        "\"function_call\"",
        "\"reasoning\"",
        "\"function\"",
        "\"x\\n\"",
        "[]",
        "{}",
        "[1,{}]",
        "[{\"type\":\"input_text\",\"text\":\"a\"}]",
        "[{\"type\":\"output_text\",\"text\":\"a\",\"annotations\":[1]}]",
        "\"user\"",
        "\"assistant\"",
        "{\"type\":\"json_schema\",\"schema\":{}}",
        "\"web_search_call\"",
    ])
}
