use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Dialect, Format, PLAIN, signature, sse};
use super::*;
use crate::answer::{Finish, Piece};
use crate::conversation::{Block, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn};

fn call(client: Format) -> Call<'static> {
    const DIALECT: Dialect = PLAIN;
    Call {
        client,
        model: "anthropic.claude-v1:0",
        streaming: true,
        default_max_tokens: 4096,
        dialect: &DIALECT,
    }
}

fn asked() -> Asked {
    Asked {
        id: "r1".into(),
        created: 0,
        model: "m".into(),
        body: Bytes::new(),
    }
}

fn user(blocks: Vec<Block<'_>>) -> Turn<'_> {
    let role = Role::User;
    Turn { role, blocks }
}

fn assistant(blocks: Vec<Block<'_>>) -> Turn<'_> {
    let role = Role::Assistant;
    Turn { role, blocks }
}

fn tool_call(id: &'static str, name: &'static str, arguments: &'static str) -> Block<'static> {
    Block::ToolCall(ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
        signature: None,
    })
}

fn tool_result(id: &'static str, text: &'static str) -> Block<'static> {
    Block::ToolResult {
        id: id.into(),
        name: None,
        content: vec![Block::Text(text.into())],
        is_error: false,
    }
}

fn function(name: &str) -> Tool<'_> {
    Tool::Function(Function {
        name: name.into(),
        description: None,
        parameters: None,
        strict: None,
    })
}

fn raw(json: &str) -> Cow<'_, RawValue> {
    Cow::Borrowed(serde_json::from_str(json).unwrap())
}

fn encoded(conversation: &Conversation<'_>, client: Format) -> Value {
    let encoded = Converse.encode_request(conversation, &call(client)).unwrap();
    assert!(!String::from_utf8_lossy(&encoded.body).contains("null"));
    serde_json::from_slice(&encoded.body).unwrap()
}

fn said(turns: Vec<Turn<'_>>) -> Conversation<'_> {
    Conversation {
        turns,
        ..Conversation::default()
    }
}

const REQUEST: &str = r#"{
    "messages":[
        {"role":"user","content":[{"text":"what is it?"},{"image":{"format":"png","source":{"bytes":"iVBORw=="}}},
            {"document":{"format":"pdf","name":"Q3 (final)","source":{"bytes":"JVBERg=="}}},{"cachePoint":{"type":"default"}}]},
        {"role":"assistant","content":[
            {"reasoningContent":{"reasoningText":{"text":"hm","signature":"sig="}}},
            {"reasoningContent":{"redactedContent":"cmVk"}},
            {"text":"let me see"},{"toolUse":{"toolUseId":"t:1","name":"look","input":{"b":1.50,"a":[ ]}}}]},
        {"role":"user","content":[{"toolResult":{"toolUseId":"t:1","content":[{"json":{"found":true}},{"text":"yes"}],"status":"error"}}]}],
    "system":[{"text":"be brief"},{"cachePoint":{"type":"default","ttl":"1h"}}],
    "inferenceConfig":{"maxTokens":99,"temperature":0.50,"topP":0.9,"stopSequences":["END"]},
    "toolConfig":{"tools":[{"toolSpec":{"name":"look","description":"looks","inputSchema":{"json":{"type":"object"}},"strict":true}},
        {"cachePoint":{"type":"default"}}],"toolChoice":{"tool":{"name":"look"}}},
    "outputConfig":{"textFormat":{"type":"json_schema","structure":{"jsonSchema":{"schema":"{\"type\":\"object\"}","name":"n"}}},"effort":"high"},
    "requestMetadata":{"team":"red"},"performanceConfig":{"latency":"standard"},"serviceTier":{"type":"default"}}"#;

#[test]
fn reads_a_request() {
    let read = Converse.decode_request(REQUEST.as_bytes()).unwrap();
    let inline = |media_type: &'static str, data: &'static str| Source::Inline {
        media_type: media_type.into(),
        data: data.into(),
    };
    let expected = [
        user(vec![
            Block::Text("what is it?".into()),
            Block::Image(inline("image/png", "iVBORw==")),
            Block::Document {
                name: Some("Q3 (final)".into()),
                source: inline("application/pdf", "JVBERg=="),
            },
        ]),
        assistant(vec![
            Block::Reasoning {
                text: "hm".into(),
                signature: Some("sig=".into()),
            },
            Block::Redacted("cmVk".into()),
            Block::Text("let me see".into()),
            tool_call("t:1", "look", r#"{"b":1.50,"a":[ ]}"#),
        ]),
        user(vec![Block::ToolResult {
            id: "t:1".into(),
            name: None,
            content: vec![Block::Text(r#"{"found":true}"#.into()), Block::Text("yes".into())],
            is_error: true,
        }]),
    ];
    assert_eq!(read.turns, expected);
    assert_eq!(read.system, [Block::Text("be brief".into())]);
    assert_eq!(read.max_tokens, Some(99));
    assert_eq!(read.temperature.as_ref().unwrap().to_string(), "0.50");
    assert_eq!(read.top_p.as_ref().unwrap().to_string(), "0.9");
    assert_eq!(read.stop, ["END"]);
    assert_eq!(read.tool_choice, Some(ToolChoice::Named("look".into())));
    assert_eq!(read.effort, Some(Effort::High));
    assert_eq!(read.metadata, [("team".into(), "red".into())]);
    assert!(read.others.is_empty(), "{:?}", read.others);
    let look = read.functions().next().unwrap();
    assert_eq!((&*look.name, look.strict, read.tools.len()), ("look", Some(true), 1));
    assert!(matches!(&read.output, Output::Schema { schema, .. } if schema.get() == r#"{"type":"object"}"#));
    assert!(matches!(
        &read.turns[0].blocks[1],
        Block::Image(Source::Inline {
            data: Cow::Borrowed(_),
            ..
        })
    ));
}

#[test]
fn tells_routing_what_it_needs() {
    let inquiry = Converse.read(Bytes::from_static(REQUEST.as_bytes())).unwrap();
    assert!(inquiry.model_spans.is_empty() && inquiry.body == REQUEST);
    let request = inquiry.request;
    assert!(request.model.is_empty() && !request.streaming);
    assert!(request.uses_tools && request.has_images);
    assert_eq!(request.max_output_tokens, Some(99));
}

#[test]
fn what_it_writes_for_its_own_clients_is_what_they_sent() {
    let read = Converse.decode_request(REQUEST.as_bytes()).unwrap();
    let body = encoded(&read, Format::Converse);
    let mut expected: Value = serde_json::from_str(REQUEST).unwrap();
    expected.as_object_mut().unwrap().remove("performanceConfig");
    expected.as_object_mut().unwrap().remove("serviceTier");
    expected["system"].as_array_mut().unwrap().pop();
    expected["toolConfig"]["tools"].as_array_mut().unwrap().pop();
    expected["messages"][0]["content"].as_array_mut().unwrap().pop();
    expected["messages"][2]["content"][0]["toolResult"]["content"][0] = json!({"text": "{\"found\":true}"});
    assert_eq!(body, expected);
}

#[test]
fn says_what_is_wrong_with_a_request() {
    let wrong = |body: &'static str| {
        let error = Converse.decode_request(body.as_bytes()).unwrap_err();
        (error.param.unwrap_or_default(), error.message)
    };
    assert_eq!(wrong("{}").1, "you must provide `messages`");
    assert_eq!(wrong(r#"{"messages":null}"#).0, "messages");
    assert_eq!(wrong(r#"{"messages":{}}"#).1, "`messages` must be a list");
    assert_eq!(wrong(r#"{"messages":["hi"]}"#).0, "messages");
    assert_eq!(wrong(r#"{"messages":[{"role":"tool","content":[]}]}"#).0, "messages");
    assert_eq!(wrong(r#"{"messages":[],"toolConfig":[]}"#).0, "toolConfig");
    assert!(wrong("hello").1.starts_with("the body is not the JSON"));
}

#[test]
fn what_only_this_format_knows_is_kept_or_named() {
    let body = r#"{"messages":[{"role":"user","content":[{"video":{"format":"mp4","source":{"bytes":"AA=="}}},
            {"guardContent":{"text":{"text":"x"}}},{"toolUse":{"toolUseId":"a","name":"b","input":{},"type":"server_tool_use"}},
            {"image":{"format":"png","source":{"s3Location":{"uri":"s3://b/k.png"}}}},
            {"image":{"format":"png","source":{"s3Location":{"uri":"s3://b/k","bucketOwner":"1"}}}},
            {"document":{"format":"txt","name":"d","source":{"text":"plain"},"context":"c","citations":{"enabled":true}}},
            {"citationsContent":{"content":[{"text":"cited"}],"citations":[{"title":"t"}]}}]}],
        "toolConfig":{"tools":[{"systemTool":{"name":"nova_grounding"}}]},
        "guardrailConfig":{"guardrailIdentifier":"g"},"promptVariables":{"a":{"text":"b"}},"newField":1,"nothing":null,
        "performanceConfig":{"latency":"optimized"},"serviceTier":{"type":"flex"},"inferenceConfig":{"topK":3},
        "additionalModelRequestFields":{"top_k":5,"thinking":{"type":"enabled","budget_tokens":2000},"anthropic_beta":["x"]},
        "additionalModelResponseFieldPaths":["/delta/stop_sequence"],"outputConfig":{"effort":"extreme"}}"#;
    let read = Converse.decode_request(body.as_bytes()).unwrap();
    let blocks = &read.turns[0].blocks;
    let what = |block: &Block<'_>| match block {
        Block::Opaque { what, .. } => what.to_string(),
        Block::Image(Source::Stored(uri)) => uri.to_string(),
        Block::Document {
            source: Source::Text(text),
            ..
        }
        | Block::Text(text) => text.to_string(),
        _ => String::new(),
    };
    let kinds: Vec<_> = blocks.iter().map(what).collect();
    let expected = [
        "video",
        "guardContent",
        "toolUse",
        "s3://b/k.png",
        "image",
        "plain",
        "cited",
    ];
    assert_eq!(kinds, expected);
    assert!(matches!(&read.tools[..], [Tool::Opaque { what, .. }] if what == "systemTool"));
    assert_eq!(read.top_k, Some(5.into()));
    assert_eq!((read.thinking_budget, read.effort), (Some(2000), Some(Effort::Low)));
    let others = [
        "messages.document.context",
        "messages.document.citations",
        "messages.citationsContent.citations",
        "guardrailConfig",
        "promptVariables",
        "newField",
        "performanceConfig",
        "serviceTier",
        "inferenceConfig.topK",
        "additionalModelRequestFields",
        "outputConfig.effort",
    ];
    assert_eq!(read.others, others);
    let own = encoded(&read, Format::Converse);
    let content = own["messages"][0]["content"].as_array().unwrap();
    assert_eq!(content[0]["video"]["format"], "mp4");
    assert_eq!(content[3]["image"]["source"]["s3Location"]["uri"], "s3://b/k.png");
    assert_eq!(content[4]["image"]["source"]["s3Location"]["bucketOwner"], "1");
    assert_eq!(
        own["toolConfig"]["tools"],
        json!([{"systemTool": {"name": "nova_grounding"}}])
    );
    let fields = json!({"top_k": 5, "thinking": {"type": "enabled", "budget_tokens": 2000}});
    assert_eq!(own["additionalModelRequestFields"], fields);
    assert_eq!(own.get("outputConfig"), None);
    let foreign = encoded(&read, Format::OpenAiChat);
    assert_eq!(foreign["messages"][0]["content"].as_array().unwrap().len(), 2);
    assert_eq!(foreign["outputConfig"], json!({"effort": "low"}));
    assert_eq!(foreign.get("additionalModelRequestFields"), None);
}

/// The least that a request can be, byte for byte.
#[test]
fn writes_nothing_that_was_not_asked_for() {
    let conversation = said(vec![user(vec![Block::Text("hi \"there\"".into())])]);
    let encoded = Converse
        .encode_request(&conversation, &call(Format::OpenAiChat))
        .unwrap();
    let expected = r#"{"messages":[{"role":"user","content":[{"text":"hi \"there\""}]}]}"#;
    assert_eq!(String::from_utf8(encoded.body).unwrap(), expected);
    assert!(encoded.renamed.is_empty());
}

#[test]
fn turns_alternate_from_the_user_on_and_results_come_first() {
    let system = Turn {
        role: Role::System,
        blocks: vec![Block::Text("mind the gap".into())],
    };
    let conversation = Conversation {
        system: vec![Block::Text("first".into()), Block::Text(" \n".into())],
        turns: vec![
            assistant(vec![Block::Text("hello".into())]),
            user(vec![Block::Text("  ".into())]),
            assistant(vec![tool_call("a", "f", ""), tool_call("b", "g", " {\"x\": 1.0}")]),
            user(vec![Block::Text("before".into()), tool_result("a", "1")]),
            system,
            user(vec![tool_result("b", " "), Block::Text("after".into())]),
        ],
        ..Conversation::default()
    };
    let body = encoded(&conversation, Format::OpenAiChat);
    let result = |id: &str, content: Value| json!({"toolResult": {"toolUseId": id, "content": content}});
    let call = |id: &str, name: &str, input: Value| json!({"toolUse": {"toolUseId": id, "name": name, "input": input}});
    let spec = |name: &str| {
        let schema = json!({"json": {"type": "object", "additionalProperties": true}});
        json!({"toolSpec": {"name": name, "inputSchema": schema}})
    };
    let number: Value = serde_json::from_str("1.0").unwrap();
    let expected = json!({
        "messages": [
            {"role": "user", "content": [{"text": "Begin."}]},
            {"role": "assistant", "content": [{"text": "hello"}, call("a", "f", json!({})), call("b", "g", json!({"x": number}))]},
            {"role": "user", "content": [result("a", json!([{"text": "1"}])), result("b", json!([])), {"text": "before"}, {"text": "after"}]},
        ],
        "system": [{"text": "first"}, {"text": "mind the gap"}],
        "toolConfig": {"tools": [spec("f"), spec("g")]},
    });
    assert_eq!(body, expected);
}

#[test]
fn names_and_ids_that_do_not_fit_are_fitted_everywhere() {
    let long: &'static str = "a.name.with.dots";
    let id: &'static str = "an id|with a bar";
    let conversation = Conversation {
        tools: vec![function(long), function("plain")],
        tool_choice: Some(ToolChoice::Named(long.into())),
        ..said(vec![
            user(vec![Block::Text("x".into())]),
            assistant(vec![tool_call(id, long, "{}")]),
            user(vec![tool_result(id, "y")]),
        ])
    };
    let encoded = Converse
        .encode_request(&conversation, &call(Format::OpenAiChat))
        .unwrap();
    let body: Value = serde_json::from_slice(&encoded.body).unwrap();
    let fitted = TOOL.fit(long).into_owned();
    assert_ne!(fitted, long);
    assert_eq!(encoded.renamed, [(fitted.clone(), long.to_owned())]);
    assert_eq!(body["toolConfig"]["tools"][0]["toolSpec"]["name"], *fitted);
    assert_eq!(body["toolConfig"]["toolChoice"], json!({"tool": {"name": fitted}}));
    let call = &body["messages"][1]["content"][0]["toolUse"];
    assert_eq!(call["name"], *fitted);
    assert_eq!(call["toolUseId"], *TOOL_USE_ID.fit(id));
    assert_eq!(
        body["messages"][2]["content"][0]["toolResult"]["toolUseId"],
        call["toolUseId"]
    );
}

#[test]
fn every_tool_choice() {
    let written = |choice: Option<ToolChoice<'static>>, history: bool| {
        let mut turns = vec![user(vec![Block::Text("x".into())])];
        if history {
            turns.push(assistant(vec![tool_call("a", "f", "{}")]));
            turns.push(user(vec![tool_result("a", "y")]));
        }
        let conversation = Conversation {
            tools: vec![function("f"), function("g")],
            tool_choice: choice,
            ..said(turns)
        };
        let body = encoded(&conversation, Format::OpenAiChat);
        let config = &body["toolConfig"];
        let tools = config["tools"].as_array().map_or(0, Vec::len);
        (tools, config.get("toolChoice").cloned().unwrap_or_default())
    };
    let allowed = |names: &[&'static str], required| {
        let names = names.iter().map(|name| (*name).into()).collect();
        Some(ToolChoice::Allowed { names, required })
    };
    assert_eq!(written(None, false), (2, Value::Null));
    assert_eq!(written(Some(ToolChoice::Auto), false), (2, Value::Null));
    assert_eq!(written(Some(ToolChoice::None), false), (0, Value::Null));
    assert_eq!(written(Some(ToolChoice::None), true), (2, Value::Null));
    assert_eq!(written(Some(ToolChoice::Required), false), (2, json!({"any": {}})));
    let named = Some(ToolChoice::Named("g".into()));
    assert_eq!(written(named, false), (2, json!({"tool": {"name": "g"}})));
    assert_eq!(
        written(allowed(&["g"], true), false),
        (1, json!({"tool": {"name": "g"}}))
    );
    assert_eq!(written(allowed(&["f", "g"], true), false), (2, json!({"any": {}})));
    assert_eq!(written(allowed(&["f"], false), false), (1, Value::Null));
    assert_eq!(written(allowed(&["h"], false), false), (0, Value::Null));
}

#[test]
fn tools_as_the_format_wants_them() {
    let conversation = Conversation {
        tools: vec![
            Tool::Function(Function {
                name: "f".into(),
                description: Some(" ".into()),
                parameters: None,
                strict: Some(false),
            }),
            Tool::Function(Function {
                name: "g".into(),
                description: Some("does".into()),
                parameters: Some(raw(r#"{"type":"object","properties":{"z":{"maximum":1.0e+2}}}"#)),
                strict: Some(true),
            }),
        ],
        ..said(vec![user(vec![Block::Text("x".into())])])
    };
    let encoded = Converse
        .encode_request(&conversation, &call(Format::OpenAiChat))
        .unwrap();
    let expected = concat!(
        r#"{"messages":[{"role":"user","content":[{"text":"x"}]}],"toolConfig":{"tools":["#,
        r#"{"toolSpec":{"name":"f","inputSchema":{"json":{"type":"object","properties":{}}}}},"#,
        r#"{"toolSpec":{"name":"g","description":"does","inputSchema":{"json":{"type":"object","properties":{"z":{"maximum":1.0e+2}}}},"strict":true}}]}}"#
    );
    assert_eq!(String::from_utf8(encoded.body).unwrap(), expected);
}

#[test]
fn arguments_must_be_an_object() {
    let conversation = said(vec![assistant(vec![tool_call("c1", "f", "[1]")])]);
    let error = Converse
        .encode_request(&conversation, &call(Format::OpenAiChat))
        .unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages"));
    assert_eq!(error.message, "the arguments of tool call `c1` are not a JSON object");
}

#[test]
fn sampling_output_and_effort() {
    let conversation = |output, effort| Conversation {
        max_tokens: Some(7),
        temperature: Some(serde_json::from_str("1.5").unwrap()),
        top_p: Some(serde_json::from_str("0.90").unwrap()),
        top_k: Some(4.into()),
        seed: Some(1.into()),
        stop: vec!["".into(), "a".into()],
        user: Some("u".into()),
        metadata: vec![("a".into(), "b".into())],
        output,
        effort,
        ..said(vec![user(vec![Block::Text("x".into())])])
    };
    let body = encoded(&conversation(Output::Json, Some(Effort::Minimal)), Format::OpenAiChat);
    let sampling = json!({"maxTokens": 7, "temperature": 1, "stopSequences": ["a"]});
    let mut inference = body["inferenceConfig"].clone();
    assert_eq!(
        inference.as_object_mut().unwrap().remove("topP").unwrap().to_string(),
        "0.90"
    );
    assert_eq!(inference, sampling);
    assert_eq!(body.as_object().unwrap().len(), 3);
    assert_eq!(body["outputConfig"], json!({"effort": "low"}));
    let schema = Output::Schema {
        name: Some("n".into()),
        description: Some("d".into()),
        schema: raw(r#"{"type": "object"}"#),
        strict: Some(true),
    };
    let body = encoded(&conversation(schema, Some(Effort::None)), Format::OpenAiChat);
    let definition = json!({"schema": "{\"type\": \"object\"}", "name": "n", "description": "d"});
    let format = json!({"type": "json_schema", "structure": {"jsonSchema": definition}});
    assert_eq!(body["outputConfig"], json!({"textFormat": format}));
}

#[test]
fn media_as_the_format_wants_them() {
    let inline = |media_type: &'static str| Source::Inline {
        media_type: media_type.into(),
        data: "AAAA".into(),
    };
    let document = |name: Option<&'static str>, source| Block::Document {
        name: name.map(Into::into),
        source,
    };
    let result = Block::ToolResult {
        id: "a".into(),
        name: None,
        content: vec![Block::Image(inline("image/gif")), Block::Audio(inline("audio/mpeg"))],
        is_error: true,
    };
    let blocks = vec![
        Block::Image(inline("image/jpeg")),
        Block::Image(inline("image/tiff")),
        Block::Image(Source::Url("https://example.com/a.png".into())),
        Block::Image(Source::Stored("file-1".into())),
        Block::Audio(inline("audio/wav")),
        document(Some("Größe_v1.2.pdf"), inline("application/pdf")),
        document(None, inline("text/x-rust")),
        document(None, Source::Text("abc".into())),
        document(Some("a.docx"), inline("application/octet-stream")),
        document(Some("a.docx"), inline("application/octet-stream")),
        result,
    ];
    let body = encoded(&said(vec![user(blocks)]), Format::OpenAiChat);
    let document = |format: &str, name: &str, bytes: &str| json!({"document": {"format": format, "name": name, "source": {"bytes": bytes}}});
    let media = |kind: &str, format: &str| json!({kind: {"format": format, "source": {"bytes": "AAAA"}}});
    let expected = json!([
        {"toolResult": {"toolUseId": "a", "content": [media("image", "gif")], "status": "error"}},
        media("image", "jpeg"),
        media("audio", "wav"),
        document("pdf", "Gr e v1 2", "AAAA"),
        document("txt", "document", "AAAA"),
        document("txt", "document 2", "YWJj"),
        document("docx", "a", "AAAA"),
        document("docx", "a 2", "AAAA"),
        media("audio", "mp3"),
    ]);
    assert_eq!(body["messages"][0]["content"], expected);
}

#[test]
fn signatures_go_to_those_who_made_them() {
    let reasoning = |proof: Option<&str>| Block::Reasoning {
        text: "hm".into(),
        signature: proof.map(|proof| proof.to_owned().into()),
    };
    let ours = signature::marked("ours", Format::Converse);
    let theirs = signature::marked("theirs", Format::Messages);
    let blocks = vec![
        reasoning(None),
        reasoning(Some("own")),
        reasoning(Some(&ours)),
        reasoning(Some(&theirs)),
        Block::Redacted("b3du".into()),
        Block::Redacted(signature::marked("b3Vycw==", Format::Converse).into()),
        Block::Redacted(theirs.into()),
        Block::Text("so".into()),
    ];
    let conversation = said(vec![user(vec![Block::Text("x".into())]), assistant(blocks)]);
    let written = |client| encoded(&conversation, client)["messages"][1]["content"].clone();
    let spoken = |proof: &str| json!({"reasoningContent": {"reasoningText": {"text": "hm", "signature": proof}}});
    let redacted = |data: &str| json!({"reasoningContent": {"redactedContent": data}});
    let unsigned = json!({"reasoningContent": {"reasoningText": {"text": "hm"}}});
    let own = json!([unsigned, spoken("own"), spoken("ours"), redacted("b3du"), redacted("b3Vycw=="), {"text": "so"}]);
    assert_eq!(written(Format::Converse), own);
    let foreign = json!([spoken("ours"), redacted("b3Vycw=="), {"text": "so"}]);
    assert_eq!(written(Format::Messages), foreign);
}

/// A blob of Converse is base64, and SDKs decode it: a mark would not survive.
#[test]
fn redacted_reasoning_of_others_comes_back_as_it_was() {
    let marked = signature::marked("secret", Format::Messages);
    let mut answer = Answer::default();
    answer.add(&Event::Redacted(marked.clone().into()));
    let whole = Converse.encode_answer(&answer, &asked());
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    let message = &whole["output"]["message"];
    assert!(!message.to_string().contains(signature::MARK));
    let body = json!({"messages": [message]}).to_string();
    assert!(signature::may_be_in(body.as_bytes()));
    let read = Converse.decode_request(body.as_bytes()).unwrap();
    assert_eq!(read.turns[0].blocks, [Block::Redacted(marked.into())]);
}

/// Events of a stream, as (name, data).
fn decode(events: &[(&str, &str)]) -> Result<Vec<Event<'static>>, Malformed> {
    let mut decoder = Converse.decoder();
    let mut all = Vec::new();
    for (name, data) in events {
        let event = sse::Event {
            name: name.as_bytes(),
            data: Some(data.as_bytes().into()),
        };
        decoder.event(&event, &mut |event| all.push(owned(&event)))?;
    }
    Ok(all)
}

fn owned(event: &Event<'_>) -> Event<'static> {
    let own = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
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

fn fold(events: &[Event<'_>]) -> Answer {
    let mut answer = Answer::default();
    events.iter().for_each(|event| answer.add(event));
    answer
}

fn whole(body: &str) -> Answer {
    let mut answer = Answer::default();
    Converse
        .decode_answer(body.as_bytes(), &mut |event| answer.add(&event))
        .unwrap();
    answer
}

/// What two answers say; how they were put together is not compared.
fn same(one: &Answer, other: &Answer) -> bool {
    one.blocks == other.blocks && one.finish == other.finish && one.usage == other.usage
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
    let fragment = fragment.into();
    Event::ToolArguments { index, fragment }
}

fn finish(reason: Reason, raw: &'static str) -> Event<'static> {
    Event::Finish(Finish {
        reason,
        raw: raw.into(),
        stop_sequence: None,
    })
}

const STREAM: &[(&str, &str)] = &[
    ("messageStart", r#"{"p":"abcd","role":"assistant"}"#),
    (
        "contentBlockDelta",
        r#"{"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"hm"}},"p":"ab"}"#,
    ),
    (
        "contentBlockDelta",
        r#"{"contentBlockIndex":0,"delta":{"reasoningContent":{"signature":"sig="}}}"#,
    ),
    ("contentBlockDelta", r#"{"contentBlockIndex":2,"delta":{"text":"a"}}"#),
    ("contentBlockDelta", r#"{"contentBlockIndex":2,"delta":{"text":"\nb"}}"#),
    ("contentBlockStop", r#"{"contentBlockIndex":2,"p":""}"#),
    (
        "contentBlockStart",
        r#"{"contentBlockIndex":5,"start":{"toolUse":{"toolUseId":"x","name":"f"}}}"#,
    ),
    (
        "contentBlockStart",
        r#"{"contentBlockIndex":6,"start":{"toolUse":{"name":"g"}}}"#,
    ),
    (
        "contentBlockDelta",
        r#"{"contentBlockIndex":6,"delta":{"toolUse":{"input":"{}"}}}"#,
    ),
    (
        "contentBlockDelta",
        r#"{"contentBlockIndex":5,"delta":{"toolUse":{"input":"{\"a\":1}"}}}"#,
    ),
    ("contentBlockStop", r#"{"contentBlockIndex":5}"#),
    ("somethingNew", r#"{"a":1}"#),
    ("messageStop", r#"{"stopReason":"tool_use"}"#),
    (
        "metadata",
        r#"{"usage":{"inputTokens":16,"outputTokens":9,"totalTokens":2412,"cacheReadInputTokens":3,"cacheWriteInputTokens":2387},"metrics":{"latencyMs":5}}"#,
    ),
];

#[test]
fn reads_a_stream_with_gaps_and_interleaving_and_without_starts_and_ends() {
    let usage = Usage {
        input_tokens: 2406,
        cached_tokens: 3,
        cache_write_tokens: 2387,
        output_tokens: 9,
        reasoning_tokens: 0,
    };
    let expected = [
        Event::Start { id: None, model: None },
        Event::Reasoning("hm".into()),
        Event::Signature("sig=".into()),
        Event::BlockEnd,
        Event::Text("a".into()),
        Event::Text("\nb".into()),
        Event::BlockEnd,
        tool_start(0, "x", "f"),
        tool_start(1, "call_1", "g"),
        arguments(1, "{}"),
        arguments(0, r#"{"a":1}"#),
        Event::ToolEnd { index: 0 },
        Event::ToolEnd { index: 1 },
        finish(Reason::ToolCalls, "tool_use"),
        Event::Usage(usage),
    ];
    assert_eq!(decode(STREAM).unwrap(), expected);
}

#[test]
fn a_whole_answer_is_the_fold_of_its_stream() {
    let body = r#"{"output":{"message":{"role":"assistant","content":[
        {"reasoningContent":{"reasoningText":{"text":"hm","signature":"sig="}}},{"type":"text","text":"a\nb"},
        {"toolUse":{"toolUseId":"x","name":"f","input":{
            "a":1}}},{"toolUse":{"name":"g","input":{}}}]}},"stopReason":"tool_use",
        "usage":{"inputTokens":16,"outputTokens":9,"totalTokens":2412,"cacheReadInputTokens":3,"cacheWriteInputTokens":2387}}"#;
    let (whole, streamed) = (whole(body), fold(&decode(STREAM).unwrap()));
    assert!(same(&whole, &streamed), "{whole:?}\n{streamed:?}");
}

#[test]
fn every_reason_to_stop() {
    let read = |word: &str| {
        let events = decode(&[("messageStop", &format!(r#"{{"stopReason":"{word}"}}"#))]).unwrap();
        fold(&events).finish.unwrap()
    };
    for (word, reason) in STOP_REASONS {
        assert_eq!(read(word).reason, reason);
        let mut answer = Answer::default();
        answer.add(&Event::Finish(read(word)));
        let written: Value = serde_json::from_slice(&Converse.encode_answer(&answer, &asked())).unwrap();
        assert_eq!(written["stopReason"], word);
        answer.add(&finish(reason, "a word of another format"));
        let written: Value = serde_json::from_slice(&Converse.encode_answer(&answer, &asked())).unwrap();
        let first = STOP_REASONS.iter().find(|(_, known)| *known == reason).unwrap();
        assert_eq!(written["stopReason"], first.0);
    }
    assert_eq!(read("something_new").reason, Reason::Stop);
    let stop = r#"{"stopReason":"stop_sequence","additionalModelResponseFields":{"delta":{"stop_sequence":"END"}}}"#;
    let met = fold(&decode(&[("messageStop", stop)]).unwrap()).finish.unwrap();
    assert_eq!(met.stop_sequence.as_deref(), Some("END"));
}

/// AWS writes a `type` beside the calls of clients' tools, which its service model does not have.
#[test]
fn calls_of_clients_tools_are_calls_whatever_type_they_have() {
    for kind in [r#","type":"tool_use""#, r#","type":"function""#, r#","type":null"#, ""] {
        let start = format!(r#"{{"contentBlockIndex":0,"start":{{"toolUse":{{"toolUseId":"t1","name":"f"{kind}}}}}}}"#);
        let input = r#"{"contentBlockIndex":0,"delta":{"toolUse":{"input":"{\"q\":1}"}}}"#;
        let stream = [
            ("contentBlockStart", &*start),
            ("contentBlockDelta", input),
            ("contentBlockStop", r#"{"contentBlockIndex":0}"#),
            ("messageStop", r#"{"stopReason":"tool_use"}"#),
        ];
        let call = format!(r#"{{"toolUse":{{"toolUseId":"t1","name":"f","input":{{"q":1}}{kind}}}}}"#);
        let body =
            format!(r#"{{"output":{{"message":{{"role":"assistant","content":[{call}]}}}},"stopReason":"tool_use"}}"#);
        let expected = [
            tool_start(0, "t1", "f"),
            Event::ToolArguments {
                index: 0,
                fragment: r#"{"q":1}"#.into(),
            },
            Event::ToolEnd { index: 0 },
        ];
        let streamed = fold(&decode(&stream).unwrap());
        assert_eq!(streamed.blocks, fold(&expected).blocks, "{kind}");
        assert!(same(&streamed, &whole(&body)), "{kind}");
    }
}

#[test]
fn a_history_may_echo_the_types_that_aws_writes() {
    let body = br#"{"messages":[{"role":"assistant","content":[{"toolUse":{"toolUseId":"t1","name":"f","input":{},"type":"tool_use"}}]},
        {"role":"user","content":[{"toolResult":{"toolUseId":"t1","type":"tool_result","content":[{"text":"done"}]}}]}]}"#;
    let read = Converse.decode_request(body).unwrap();
    assert_eq!(read.turns[0].blocks, [tool_call("t1", "f", "{}")]);
    assert_eq!(read.turns[1].blocks, [tool_result("t1", "done")]);
}

#[test]
fn citations_and_the_vendors_own_tools_are_kept() {
    let stream: &[(&str, &str)] = &[
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"text":"it is so"}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":0,"delta":{"citation":{"title":"t"}}}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        (
            "contentBlockStart",
            r#"{"contentBlockIndex":1,"start":{"toolUse":{"toolUseId":"s","name":"n","type":"server_tool_use"}}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":1,"delta":{"toolUse":{"input":"{\"q\":"}}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":1,"delta":{"toolUse":{"input":"1}"}}}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":1}"#),
        (
            "contentBlockStart",
            r#"{"contentBlockIndex":2,"start":{"toolResult":{"toolUseId":"s","type":"x","status":"success"}}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":2,"delta":{"toolResult":[{"text":"r"}]}}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":2}"#),
        (
            "contentBlockStart",
            r#"{"contentBlockIndex":3,"start":{"image":{"format":"png"}}}"#,
        ),
        (
            "contentBlockDelta",
            r#"{"contentBlockIndex":3,"delta":{"image":{"source":{"bytes":"AAAA"}}}}"#,
        ),
        ("contentBlockStop", r#"{"contentBlockIndex":3}"#),
        ("messageStop", r#"{"stopReason":"end_turn"}"#),
    ];
    let body = r#"{"output":{"message":{"role":"assistant","content":[
        {"citationsContent":{"content":[{"text":"it is so"}],"citations":[{"title":"t"}]}},
        {"toolUse":{"toolUseId":"s","name":"n","type":"server_tool_use","input":{"q":1}}},
        {"toolResult":{"toolUseId":"s","type":"x","status":"success","content":[{"text":"r"}]}},
        {"image":{"format":"png","source":{"bytes":"AAAA"}}}]}},"stopReason":"end_turn"}"#;
    let events = decode(stream).unwrap();
    let (streamed, whole) = (fold(&events), whole(body));
    assert!(same(&streamed, &whole), "{streamed:?}\n{whole:?}");
    let written: Value = serde_json::from_slice(&Converse.encode_answer(&whole, &asked())).unwrap();
    let came: Value = serde_json::from_str(body).unwrap();
    assert_eq!(written["output"], came["output"]);
    let again = fold(&decode_stream(&encode(&events)));
    assert!(same(&again, &fold(&with_usage(&events))), "{again:?}");
}

/// The events of a stream in its binary framing.
fn decode_stream(mut bytes: &[u8]) -> Vec<Event<'static>> {
    let mut decoder = Converse.decoder();
    let mut events = Vec::new();
    while let Some((event, rest)) = eventstream::split_first(bytes).unwrap() {
        decoder.event(&event, &mut |event| events.push(owned(&event))).unwrap();
        bytes = rest;
    }
    events
}

fn encode(events: &[Event<'_>]) -> Vec<u8> {
    let mut encoder = Converse.encoder(&asked());
    let mut out = Vec::new();
    for event in events {
        encoder.event(event, &mut out);
    }
    encoder.event(&Event::End, &mut out);
    out
}

/// A stream that is written always counts tokens.
fn with_usage(events: &[Event<'static>]) -> Vec<Event<'static>> {
    let counts = |event: &Event<'_>| matches!(event, Event::Usage(_));
    let mut events = events.to_vec();
    if !events.iter().any(counts) {
        events.push(Event::Usage(Usage::default()));
    }
    events
}

/// The frames of a stream, as (name, data).
fn frames(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut frames = Vec::new();
    while let Some((event, rest)) = eventstream::split_first(bytes).unwrap() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        frames.push((text(event.name), text(&event.data.unwrap())));
        bytes = rest;
    }
    frames
}

#[test]
fn writes_a_stream_at_once_where_it_can() {
    let mut encoder = Converse.encoder(&asked());
    let mut write = |event: Event<'_>| {
        let mut out = Vec::new();
        encoder.event(&event, &mut out);
        frames(&out)
    };
    let frame = |name: &str, data: &str| (name.to_owned(), data.to_owned());
    let stop = |index: u32| frame("contentBlockStop", &format!(r#"{{"contentBlockIndex":{index}}}"#));
    let delta = |index: u32, delta: &str| {
        frame(
            "contentBlockDelta",
            &format!(r#"{{"contentBlockIndex":{index},"delta":{delta}}}"#),
        )
    };
    let start = Event::Start {
        id: Some("x".into()),
        model: None,
    };
    assert_eq!(write(start), [frame("messageStart", r#"{"role":"assistant"}"#)]);
    let thought = delta(0, r#"{"reasoningContent":{"text":"hm"}}"#);
    assert_eq!(write(Event::Reasoning("hm".into())), [thought]);
    let signed = delta(0, r#"{"reasoningContent":{"signature":"s"}}"#);
    assert_eq!(write(Event::Signature("s".into())), [signed]);
    assert_eq!(write(Event::BlockEnd), [stop(0)]);
    assert_eq!(write(Event::Text("a".into())), [delta(1, r#"{"text":"a"}"#)]);
    assert_eq!(write(Event::Text("".into())), []);
    let redacted = delta(2, r#"{"reasoningContent":{"redactedContent":"eA=="}}"#);
    assert_eq!(write(Event::Redacted("eA==".into())), [stop(1), redacted, stop(2)]);
    let begun = frame(
        "contentBlockStart",
        r#"{"contentBlockIndex":3,"start":{"toolUse":{"toolUseId":"c","name":"f"}}}"#,
    );
    assert_eq!(write(tool_start(0, "c", "f")), [begun]);
    assert_eq!(
        write(arguments(0, "{\"a\"")),
        [delta(3, r#"{"toolUse":{"input":"{\"a\""}}"#)]
    );
    assert_eq!(write(arguments(0, ":1}")), [delta(3, r#"{"toolUse":{"input":":1}"}}"#)]);
    assert_eq!(write(Event::ToolEnd { index: 0 }), [stop(3)]);
    let usage = Usage {
        input_tokens: 10,
        cached_tokens: 4,
        cache_write_tokens: 1,
        output_tokens: 3,
        reasoning_tokens: 2,
    };
    assert_eq!(write(Event::Usage(usage)), []);
    let stopped = frame("messageStop", r#"{"stopReason":"tool_use"}"#);
    assert_eq!(write(finish(Reason::ToolCalls, "tool_calls")), [stopped]);
    let counted = r#"{"usage":{"inputTokens":5,"outputTokens":3,"totalTokens":13,"cacheReadInputTokens":4,"cacheWriteInputTokens":1},"metrics":{"latencyMs":0}}"#;
    assert_eq!(write(Event::End), [frame("metadata", counted)]);
}

#[test]
fn interleaved_calls_are_written_one_after_the_other() {
    let events = [
        tool_start(0, "x", "f"),
        tool_start(1, "y", "g"),
        arguments(0, "{"),
        arguments(1, "{\"b\""),
        Event::Text("meanwhile".into()),
        arguments(0, "}"),
        arguments(1, ":2}"),
        finish(Reason::ToolCalls, "tool_calls"),
    ];
    let written = encode(&events);
    let indices: Vec<_> = frames(&written)
        .into_iter()
        .filter_map(|(_, data)| serde_json::from_str::<Value>(&data).unwrap()["contentBlockIndex"].as_u64())
        .collect();
    assert!(indices.is_sorted(), "{indices:?}");
    let answer = fold(&decode_stream(&written));
    assert_eq!(answer.blocks, fold(&events).blocks);
}

#[test]
fn a_vendor_that_gives_no_reason_has_come_to_an_end() {
    let written = frames(&encode(&[Event::Text("a".into())]));
    let names: Vec<_> = written.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "messageStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    ];
    assert_eq!(names, expected);
    assert_eq!(written[3].1, r#"{"stopReason":"end_turn"}"#);
}

#[test]
fn writes_a_whole_answer() {
    let mut answer = fold(&[
        Event::Reasoning("hm".into()),
        Event::BlockEnd,
        Event::Text("a".into()),
        tool_start(0, "x", "f"),
        arguments(0, "{\"a\":1.0}"),
        tool_start(1, "y", "g"),
        finish(Reason::StopSequence, "stop"),
    ]);
    answer.finish.as_mut().unwrap().stop_sequence = Some("END".into());
    let expected = concat!(
        r#"{"output":{"message":{"role":"assistant","content":[{"reasoningContent":{"reasoningText":{"text":"hm"}}},{"text":"a"},"#,
        r#"{"toolUse":{"toolUseId":"x","name":"f","input":{"a":1.0}}},{"toolUse":{"toolUseId":"y","name":"g","input":{}}}]}},"#,
        r#""stopReason":"stop_sequence","additionalModelResponseFields":{"delta":{"stop_sequence":"END"}},"#,
        r#""usage":{"inputTokens":0,"outputTokens":0,"totalTokens":0},"metrics":{"latencyMs":0}}"#
    );
    assert_eq!(
        String::from_utf8(Converse.encode_answer(&answer, &asked())).unwrap(),
        expected
    );
}

#[test]
fn reads_errors_of_every_shape() {
    let read = |body: &str| {
        let error = Converse.vendor_error(body.as_bytes());
        (error.code, error.status, error.message)
    };
    let expect = |code: &str, status, message: &str| (code.to_owned(), status, message.to_owned());
    assert_eq!(read(r#"{"message":"slow"}"#), expect("", None, "slow"));
    assert_eq!(read(r#"{"Message":"no"}"#), expect("", None, "no"));
    assert_eq!(
        read(r#"{"__type":"com.amazon.coral.service#ThrottlingException:http://x/","message":"slow"}"#),
        expect("ThrottlingException", Some(429), "slow")
    );
    assert_eq!(
        read(r#"{"Output":{"__type":"com.amazon.coral.service#UnknownOperationException"},"Version":"1.0"}"#),
        expect("UnknownOperationException", None, "")
    );
    assert_eq!(read(r#"{"error":{"message":"m","type":"t"}}"#), expect("t", None, "m"));
    assert_eq!(read("<html>"), expect("", None, "<html>"));
    assert!(Converse.is_error_answer(br#"{"message":"x"}"#));
    assert!(!Converse.is_error_answer(br#"{"error":{"message":"x"}}"#));
    assert!(!Converse.is_error_answer(b"<html>"));
    let error = |body: &[u8]| Converse.answer(body).unwrap().error;
    assert_eq!(error(br#"{"message":"x"}"#).unwrap().message, "x");
    assert!(error(br#"{"output":{"message":{"role":"assistant","content":[]}},"stopReason":"end_turn"}"#).is_none());
    assert!(Converse.answer(b"{}").is_err() && Converse.answer(b"<html>").is_err());
}

#[test]
fn reads_exceptions_in_a_stream() {
    let read = |name: &str, data: &str| match &decode(&[(name, data)]).unwrap()[..] {
        [Event::Error(error)] => (error.code.clone(), error.status, error.message.clone()),
        events => panic!("{events:?}"),
    };
    let expect = |code: &str, status, message: &str| (code.to_owned(), status, message.to_owned());
    assert_eq!(
        read("exception:throttlingException", r#"{"message":"slow"}"#),
        expect("ThrottlingException", Some(429), "slow")
    );
    assert_eq!(
        read(
            "exception:modelStreamErrorException",
            r#"{"originalMessage":"o","originalStatusCode":529}"#
        ),
        expect("ModelStreamErrorException", Some(529), "o")
    );
    assert_eq!(
        read("exception:", r#"{"__type":"InternalError","message":"m"}"#),
        expect("InternalError", None, "m")
    );
    assert_eq!(
        read("exception:validationException", "not JSON"),
        expect("ValidationException", Some(400), "")
    );
    let loose = [(
        "contentBlockDelta",
        r#"{"contentBlockIndex":0,"delta":{"toolUse":{"input":"{}"}}}"#,
    )];
    assert!(decode(&loose).is_err());
    assert!(decode(&[("contentBlockDelta", "{")]).is_err());
}

#[test]
fn writes_errors() {
    let error = |status| ErrorBody {
        status,
        kind: "k",
        code: "c",
        param: None,
        message: "it \"failed\"".into(),
    };
    assert_eq!(Converse.error(&error(429)), r#"{"message":"it \"failed\""}"#);
    let name = |status| {
        let written = frames(&Converse.error_event(&error(status)));
        let mut out = Vec::new();
        Converse.encoder(&asked()).error(&error(status), &mut out);
        assert_eq!(frames(&out), written);
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].1, r#"{"message":"it \"failed\""}"#);
        written[0].0.clone()
    };
    assert_eq!(name(429), "exception:throttlingException");
    assert_eq!(name(400), "exception:validationException");
    assert_eq!(name(502), "exception:internalServerException");
    assert_eq!(name(503), "exception:serviceUnavailableException");
    assert_eq!(name(504), "exception:modelStreamErrorException");
    let known: Vec<_> = EXCEPTIONS.iter().map(|(name, _)| *name).collect();
    for status in 400..600 {
        assert!(known.contains(&error_type(status)));
    }
    assert_eq!(error_type(413), "ValidationException");
    assert_eq!(error_type(529), "ServiceUnavailableException");
}

#[test]
fn what_passes_through_is_understood() {
    let mut decoder = Converse.decoder();
    let mut total = crate::chat::Frame::default();
    for (name, data) in STREAM {
        let event = sse::Event {
            name: name.as_bytes(),
            data: Some(data.as_bytes().into()),
        };
        let frame = Converse.frame(&mut *decoder, &event).unwrap();
        total.content |= frame.content;
        total.finished |= frame.finished;
        total.choices |= frame.choices;
        total.usage = frame.usage.or(total.usage);
        assert!(!frame.end, "the format has no end marker");
    }
    assert!(total.content && total.finished == 1 && total.choices == 1);
    assert_eq!(total.usage.unwrap().input_tokens, 2406);
}

fn corpus(ending: &str) -> Option<Vec<(PathBuf, Vec<u8>)>> {
    let Some(root) = std::env::var_os("POINTSMAN_CORPUS").map(PathBuf::from) else {
        println!("skipped: POINTSMAN_CORPUS is not set");
        return None;
    };
    let folders = [
        "vercel-ai/packages/amazon-bedrock/src/__fixtures__",
        "agentgateway/crates/llm/src/tests/response/bedrock",
    ];
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let paths = files.map(|file| file.unwrap().path());
    let wanted = paths.filter(|path| path.to_string_lossy().ends_with(ending) && !path.ends_with("rerank.json"));
    let found: Vec<_> = wanted
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert!(!found.is_empty());
    Some(found)
}

#[test]
fn recorded_answers_survive_a_round_trip() {
    for (path, body) in corpus(".json").unwrap_or_default() {
        let mut first = whole(std::str::from_utf8(&body).unwrap());
        assert!(!first.blocks.is_empty() && first.finish.is_some(), "{}", path.display());
        let written = Converse.encode_answer(&first, &asked());
        first.usage.get_or_insert_default();
        let second = whole(std::str::from_utf8(&written).unwrap());
        assert!(same(&first, &second), "{}: {first:?}\n{second:?}", path.display());
    }
}

#[test]
fn recorded_streams_survive_a_round_trip() {
    let mut streams = Vec::new();
    for (path, body) in corpus(".chunks.txt").unwrap_or_default() {
        let mut framed = Vec::new();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let union: Members<'_> = serde_json::from_slice(line).unwrap();
            let (name, inner) = union.kind().unwrap();
            let name = name.clone().into_owned().leak();
            eventstream::message(name, inner.get().into(), &mut framed);
        }
        streams.push((path, framed));
    }
    streams.extend(corpus(".bin").unwrap_or_default());
    for (path, bytes) in streams {
        let mut splitter = eventstream::Splitter::default();
        let pieces: Vec<Bytes> = bytes
            .chunks(7)
            .map(|piece| splitter.push(Bytes::copy_from_slice(piece)))
            .collect();
        assert_eq!(pieces.concat(), bytes, "{}", path.display());
        let events = decode_stream(&bytes);
        let first = fold(&with_usage(&events));
        assert!(!first.blocks.is_empty(), "{}", path.display());
        let mut second = fold(&decode_stream(&encode(&events)));
        if first.finish.is_none() {
            second.finish = None;
        }
        assert!(same(&first, &second), "{}: {first:?}\n{second:?}", path.display());
    }
}

fn any_text() -> impl Strategy<Value = String> {
    "[a-z \"\\\\\n\u{e9}\u{1f600}]{0,12}x"
}

fn any_events() -> impl Strategy<Value = Vec<Event<'static>>> {
    let piece = prop_oneof![
        any_text().prop_map(|text| vec![Event::Text(text.into())]),
        any_text().prop_map(|text| vec![Event::Text(text.into()), Event::BlockEnd]),
        any_text().prop_map(|text| vec![
            Event::Reasoning(text.into()),
            Event::Signature("s".into()),
            Event::BlockEnd
        ]),
        Just(vec![Event::Redacted("eA==".into())]),
        (0u32..3, any::<bool>()).prop_map(|(index, ends)| {
            let mut events = vec![tool_start(index, "id", "f"), arguments(index, "{\"a\":")];
            events.push(arguments(index, "1}"));
            if ends {
                events.push(Event::ToolEnd { index });
            }
            events
        }),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), name in 0usize..9) {
        let _ = Converse.read(Bytes::copy_from_slice(&bytes));
        let _ = Converse.answer(&bytes);
        let _ = Converse.vendor_error(&bytes);
        let _ = Converse.is_error_answer(&bytes);
        let names = ["", "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata",
            "exception:", "exception:throttlingException"];
        let event = sse::Event { name: names[name].as_bytes(), data: Some(bytes.into()) };
        let _ = Converse.decoder().event(&event, &mut |_| {});
    }

    /// JSON that is nearly right, with wrong types and nulls anywhere.
    #[test]
    fn no_json_panics(at in 0usize..2000, with in prop_oneof![Just("null"), Just("1"), Just("{}"), Just("[]"), Just("\"\"")]) {
        let bodies = [REQUEST, r#"{"output":{"message":{"content":[{"toolUse":{"toolUseId":"a","name":"b","input":{}}}]}},"stopReason":"x","usage":{"inputTokens":1}}"#];
        for body in bodies {
            let value: Value = serde_json::from_str(body).unwrap();
            let mut count = at;
            let changed = replaced(&value, &mut count, &serde_json::from_str(with).unwrap()).to_string();
            if let Ok(conversation) = Converse.decode_request(changed.as_bytes()) {
                let _ = Converse.encode_request(&conversation, &call(Format::Converse));
            }
            let _ = Converse.answer(changed.as_bytes());
        }
    }

    #[test]
    fn any_answer_survives_a_round_trip(events in any_events()) {
        let mut events = events;
        // Calls of one index in one answer are distinct calls for the fold, but not for a stream.
        let mut next = 0;
        for event in &mut events {
            if let Event::ToolStart { index, .. } = event { *index = next; next += 1; }
            if let Event::ToolArguments { index, .. } | Event::ToolEnd { index } = event { *index = next - 1; }
        }
        events.push(finish(Reason::ToolCalls, "tool_use"));
        events.push(Event::Usage(Usage { input_tokens: 9, cached_tokens: 2, output_tokens: 1, ..Usage::default() }));
        let told = fold(&events);
        let streamed = fold(&decode_stream(&encode(&events)));
        prop_assert!(same(&told, &streamed), "{told:?}\n{streamed:?}");
        let body = Converse.encode_answer(&told, &asked());
        let whole = whole(std::str::from_utf8(&body).unwrap());
        prop_assert!(same(&told, &whole), "{told:?}\n{whole:?}");
    }

    #[test]
    fn any_conversation_survives_a_round_trip(texts in proptest::collection::vec(any_text(), 1..6), name in "[a-z_]{1,20}", id in "[a-zA-Z0-9_.:-]{1,64}") {
        let mut turns = Vec::new();
        for text in &texts {
            turns.push(user(vec![Block::Text(text.into())]));
            turns.push(assistant(vec![Block::Text(text.into()), Block::ToolCall(ToolCall {
                id: (&id).into(), name: (&name).into(), arguments: "{\"a\":1.50}".into(), signature: None,
            })]));
            turns.push(user(vec![Block::ToolResult { id: (&id).into(), name: None, content: vec![Block::Text(text.into())], is_error: false }]));
            turns.push(assistant(vec![Block::Text(text.into())]));
        }
        let conversation = Conversation { tools: vec![function(&name)], ..said(turns) };
        let encoded = Converse.encode_request(&conversation, &call(Format::OpenAiChat)).unwrap();
        let again = Converse.decode_request(&encoded.body).unwrap();
        prop_assert_eq!(&again.turns, &conversation.turns);
        prop_assert_eq!(&*again.functions().next().unwrap().name, &*name);
    }
}

/// A value whose part number `count` is another.
fn replaced(value: &Value, count: &mut usize, with: &Value) -> Value {
    if *count == 0 {
        *count = usize::MAX;
        return with.clone();
    }
    *count -= 1;
    match value {
        Value::Array(list) => list.iter().map(|value| replaced(value, count, with)).collect(),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| (name.clone(), replaced(value, count, with)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

#[test]
fn a_whole_answer_says_what_its_stream_says() {
    let events = decode(STREAM).unwrap();
    let body = Converse.encode_answer(&fold(&events), &asked());
    let whole = whole(std::str::from_utf8(&body).unwrap());
    let streamed = fold(&decode_stream(&encode(&events)));
    assert!(same(&whole, &streamed), "{whole:?}\n{streamed:?}");
    assert!(matches!(
        &whole.blocks[..],
        [
            Piece::Reasoning { .. },
            Piece::Text(_),
            Piece::ToolCall(_),
            Piece::ToolCall(_)
        ]
    ));
}
