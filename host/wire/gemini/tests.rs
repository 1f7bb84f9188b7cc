use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::answer::{Finish, Piece, Reason};
use crate::chat::Usage;
use crate::conversation::{Block, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn};
use crate::wire::signature::marked;
use crate::wire::{Format, PLAIN};

fn call(client: Format) -> Call<'static> {
    Call {
        client,
        model: "gemini-3-pro",
        streaming: false,
        default_max_tokens: 4096,
        dialect: &PLAIN,
    }
}

fn asked() -> Asked {
    Asked {
        id: "req-1".into(),
        created: 1,
        model: "smart".into(),
        body: Bytes::new(),
    }
}

fn encode(conversation: &Conversation<'_>, client: Format) -> String {
    String::from_utf8(Gemini.encode_request(conversation, &call(client)).unwrap().body).unwrap()
}

fn user(text: &'static str) -> Turn<'static> {
    Turn {
        role: Role::User,
        blocks: vec![Block::Text(text.into())],
    }
}

fn tool_call(id: &'static str, name: &'static str, arguments: &'static str) -> Block<'static> {
    Block::ToolCall(ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: arguments.into(),
        signature: None,
    })
}

fn result(id: &'static str, content: Vec<Block<'static>>, is_error: bool) -> Block<'static> {
    Block::ToolResult {
        id: id.into(),
        name: None,
        content,
        is_error,
    }
}

fn text(text: &'static str) -> Block<'static> {
    Block::Text(text.into())
}

fn raw(json: &str) -> std::borrow::Cow<'_, serde_json::value::RawValue> {
    std::borrow::Cow::Borrowed(serde_json::from_str(json).unwrap())
}

/// The whole request in both spellings.
const REQUEST: &str = r#"{"contents":[{"role":"user","parts":[{"text":"What is the weather?"},{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]},
    {"role":"model","parts":[{"text":"Hm.","thought":true,"thoughtSignature":"aaa1"},{"text":"One moment.","thoughtSignature":"aaa2"},
      {"functionCall":{"name":"get_weather","args":{"city":"Boston","n":1.50}},"thoughtSignature":"aaa3"},{"functionCall":{"name":"get_weather"}}]},
    {"role":"user","parts":[{"functionResponse":{"name":"get_weather","response":{"output":"rain"}}},{"functionResponse":{"name":"get_weather","response":{"error":"no such city"}}}]}],
    "systemInstruction":{"parts":[{"text":"Be brief."}]},
    "tools":[{"functionDeclarations":[{"name":"get_weather","description":"Weather","parameters":{"type":"OBJECT","properties":{"city":{"type":"STRING"}}}}]},{"googleSearch":{}}],
    "toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["get_weather"]}},
    "safetySettings":[{"category":"x"}],"cachedContent":"c/1","labels":{"team":"red"},"model":"models/x","serviceTier":"standard",
    "generationConfig":{"temperature":0.70,"topP":0.95,"topK":40,"maxOutputTokens":"1024","stopSequences":["END"],"candidateCount":1,"seed":42,
      "presencePenalty":0.1,"frequencyPenalty":0.2,"responseMimeType":"application/json","responseJsonSchema":{"type":"object"},
      "thinkingConfig":{"thinkingLevel":"high","includeThoughts":true},"responseModalities":["TEXT"],"mediaResolution":"MEDIA_RESOLUTION_LOW","audioTimestamp":true}}"#;

fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for (before, letter) in std::iter::once(' ').chain(camel.chars()).zip(camel.chars()) {
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            snake.push('_');
            snake.push(letter.to_ascii_lowercase());
        } else {
            snake.push(letter);
        }
    }
    snake
}

#[test]
fn reads_a_whole_request_in_both_spellings() {
    for body in [REQUEST.to_owned(), snake(REQUEST)] {
        let read = Gemini.decode_request(body.as_bytes()).unwrap();
        assert_eq!(read.system, [text("Be brief.")]);
        let reasoning = |text: &'static str, proof: &'static str| Block::Reasoning {
            text: text.into(),
            signature: Some(proof.into()),
        };
        let called = |id: &'static str, arguments: &'static str, signature: Option<&'static str>| {
            Block::ToolCall(ToolCall {
                id: id.into(),
                name: "get_weather".into(),
                arguments: arguments.into(),
                signature: signature.map(Into::into),
            })
        };
        let answered = |id: &'static str, said: &'static str, is_error| Block::ToolResult {
            id: id.into(),
            name: Some("get_weather".into()),
            content: vec![text(said)],
            is_error,
        };
        assert_eq!(
            read.turns[1].blocks,
            [
                reasoning("Hm.", "aaa1"),
                text("One moment."),
                reasoning("", "aaa2"),
                called("call_1_0", r#"{"city":"Boston","n":1.50}"#, Some("aaa3")),
                called("call_1_1", "", None),
            ]
        );
        assert_eq!(
            read.turns[2].blocks,
            [
                answered("call_1_0", "rain", false),
                answered("call_1_1", "no such city", true)
            ]
        );
        let Block::Image(Source::Inline { media_type, data }) = &read.turns[0].blocks[1] else {
            panic!("no image")
        };
        assert_eq!((&**media_type, &**data), ("image/png", "AAAA"));
        assert!(matches!(data, std::borrow::Cow::Borrowed(_)));
        let Some(Tool::Function(function)) = read.tools.first() else {
            panic!()
        };
        assert_eq!(
            function.parameters.as_ref().unwrap().get(),
            r#"{"type":"object","properties":{"city":{"type":"string"}}}"#
        );
        assert!(matches!(&read.tools[1], Tool::Opaque { what, .. } if what == "googleSearch"));
        assert_eq!(read.tool_choice, Some(ToolChoice::Named("get_weather".into())));
        assert_eq!(read.temperature.as_ref().unwrap().to_string(), "0.70");
        assert_eq!((read.max_tokens, read.candidates), (Some(1024), Some(1)));
        assert_eq!((read.stop.len(), read.effort), (1, Some(Effort::High)));
        assert_eq!(read.show_reasoning, Some(true));
        assert!(matches!(&read.output, Output::Schema { schema, .. } if schema.get() == r#"{"type":"object"}"#));
        assert_eq!(read.metadata, [("team".into(), "red".into())]);
        assert_eq!(
            read.others,
            ["generationConfig.audioTimestamp", "cachedContent", "safetySettings"]
        );
    }
}

#[test]
fn routing_gets_what_it_needs() {
    let inquiry = Gemini.read(Bytes::from_static(REQUEST.as_bytes())).unwrap();
    let request = inquiry.request;
    assert!(request.uses_tools && request.has_images && !request.streaming);
    assert_eq!((request.model.as_str(), request.max_output_tokens), ("", Some(1024)));
    assert_eq!(request.metadata, [("team".to_owned(), "red".to_owned())]);
    assert!(inquiry.model_spans.is_empty());
}

#[test]
fn says_what_is_wrong_with_a_request() {
    for wrong in [
        "{}",
        r#"{"contents":null}"#,
        r#"{"contents":"hi"}"#,
        r#"{"contents":[5]}"#,
        r#"{"contents":[{"parts":["hi"]}]}"#,
    ] {
        let error = Gemini.read(Bytes::from_static(wrong.as_bytes())).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("contents"), "{wrong}");
    }
    assert!(Gemini.read(Bytes::from_static(b"[")).is_err());
    assert!(Gemini.decode_request(br#"{"contents":[]}"#).is_ok());
    assert!(
        Gemini
            .decode_request(br#"{"contents":{"parts":{"text":"hi"}}}"#)
            .is_ok()
    );
}

#[test]
fn results_find_their_calls_by_name_and_order() {
    let body = br#"{"contents":[{"role":"model","parts":[{"functionCall":{"name":"a"}},{"functionCall":{"name":"b","id":"x"}},
        {"functionCall":{"name":"a","id":"y"}},{"functionCall":{"name":"b"}}]},
        {"parts":[{"functionResponse":{"name":"b","id":"x"}},{"functionResponse":{"name":"b"}},{"functionResponse":{"name":"a"}},
        {"functionResponse":{"name":"a","id":"unknown"}},{"functionResponse":{"name":"c"}},{"functionResponse":{"name":"c","id":"z"}}]}]}"#;
    let read = Gemini.decode_request(body).unwrap();
    let ids: Vec<_> = read.turns[1]
        .blocks
        .iter()
        .map(|block| match block {
            Block::ToolResult { id, .. } => &**id,
            _ => "",
        })
        .collect();
    assert_eq!(ids, ["x", "call_0_3", "call_0_0", "y", "call_1_4", "z"]);
}

/// What the Python SDK sends after a stream: each chunk's part as it came, and bytes in the alphabet for URLs.
#[test]
fn fragments_of_a_stream_come_back_as_one() {
    let body = br#"{"contents":[{"role":"user","parts":[{"inlineData":{"data":"__7-","mime_type":"image/png"}},{"text":"a"},{"text":"b"}]},
        {"role":"model","parts":[{"text":"h","thought":true},{"text":"m","thought":true},
        {"text":"","thought":true,"thoughtSignature":"cG9pbnRzbWFuLm0uRXJVQisveD09"},{"text":"Hi "},{"text":"there"},
        {"text":"","thoughtSignature":"aaa1"},{"functionCall":{"id":"x","name":"f","args":{}}},{"text":""}]}]}"#;
    let read = Gemini.decode_request(body).unwrap();
    let image = Block::Image(Source::Inline {
        media_type: "image/png".into(),
        data: "//7+".into(),
    });
    assert_eq!(read.turns[0].blocks, [image, text("a"), text("b")]);
    let reasoning = |text: &'static str, proof: &'static str| Block::Reasoning {
        text: text.into(),
        signature: Some(proof.into()),
    };
    assert_eq!(
        read.turns[1].blocks,
        [
            reasoning("hm", "pointsman.m.ErUB+/x=="),
            text("Hi there"),
            reasoning("", "aaa1"),
            tool_call("x", "f", "{}"),
        ]
    );
}

#[test]
fn what_only_google_has_is_opaque() {
    let body = br#"{"contents":[{"parts":[{"executableCode":{"code":"1"}},{"fileData":{"mimeType":"video/mp4","fileUri":"gs://b/c.mp4"},"videoMetadata":{"fps":2}},
        {"fileData":{"mimeType":"image/png","fileUri":"gs://b/c.png"}},{"fileData":{"mimeType":"image/png","fileUri":"https://example.com/c.png"}},
        {"fileData":{"mimeType":"application/pdf","fileUri":"https://generativelanguage.googleapis.com/v1beta/files/x"}},
        {"inlineData":{"mimeType":"audio/wav","data":"UklG"}},{"text":"hi","videoMetadata":{"fps":1}},{}]}]}"#;
    let read = Gemini.decode_request(body).unwrap();
    let blocks = &read.turns[0].blocks;
    assert!(matches!(&blocks[0], Block::Opaque { what, .. } if what == "executableCode"));
    assert!(matches!(&blocks[1], Block::Opaque { what, .. } if what == "fileData"));
    assert!(matches!(&blocks[2], Block::Image(Source::Stored(_))));
    assert!(matches!(&blocks[3], Block::Image(Source::Url(_))));
    assert!(matches!(
        &blocks[4],
        Block::Document {
            source: Source::Stored(_),
            ..
        }
    ));
    assert!(matches!(&blocks[5], Block::Audio(Source::Inline { .. })));
    assert_eq!(blocks.len(), 7);
    assert_eq!(read.others, ["contents.parts.videoMetadata"]);
    let same = encode(&read, Format::Gemini);
    assert!(same.contains(r#""videoMetadata":{"fps":2}"#), "{same}");
    let foreign = encode(&read, Format::OpenAiChat);
    assert_eq!(
        foreign,
        r#"{"contents":[{"role":"user","parts":[{"inlineData":{"mimeType":"audio/wav","data":"UklG"}},{"text":"hi"}]}]}"#
    );
}

#[test]
fn modes_of_tool_calls() {
    let choice = |config: &str| {
        let body = format!(r#"{{"contents":[],"toolConfig":{{"functionCallingConfig":{config}}}}}"#);
        let read = Gemini.decode_request(body.as_bytes()).unwrap();
        match read.tool_choice {
            None => "-".to_owned(),
            Some(choice) => format!("{choice:?}"),
        }
    };
    assert_eq!(choice(r#"{"mode":"AUTO"}"#), "Auto");
    assert_eq!(choice(r#"{"mode":"none"}"#), "None");
    assert_eq!(choice(r#"{"mode":"ANY"}"#), "Required");
    assert_eq!(choice(r#"{"mode":"MODE_UNSPECIFIED"}"#), "-");
    assert_eq!(
        choice(r#"{"mode":"ANY","allowedFunctionNames":["a","b"]}"#),
        r#"Allowed { names: ["a", "b"], required: true }"#
    );
    assert_eq!(
        choice(r#"{"mode":"VALIDATED","allowedFunctionNames":["a"]}"#),
        r#"Allowed { names: ["a"], required: false }"#
    );
}

#[test]
fn thinking_is_a_level_or_a_budget() {
    let read = |thinking: &str| {
        let body = format!(r#"{{"contents":[],"generationConfig":{{"thinkingConfig":{thinking}}}}}"#);
        let read = Gemini.decode_request(body.as_bytes()).unwrap();
        (read.effort, read.thinking_budget)
    };
    assert_eq!(read(r#"{"thinkingBudget":-1}"#), (None, None));
    assert_eq!(read(r#"{"thinkingBudget":0}"#), (Some(Effort::None), Some(0)));
    assert_eq!(read(r#"{"thinkingBudget":8192}"#), (Some(Effort::Medium), Some(8192)));
    assert_eq!(read(r#"{"thinkingLevel":"XHIGH"}"#), (Some(Effort::XHigh), None));
    let write = |effort, thinking_budget| {
        let conversation = Conversation {
            effort: Some(effort),
            thinking_budget,
            ..Conversation::default()
        };
        encode(&conversation, Format::OpenAiChat)
    };
    let config = |inner: &str| format!(r#"{{"contents":[],"generationConfig":{{"thinkingConfig":{inner}}}}}"#);
    assert_eq!(write(Effort::None, None), config(r#"{"thinkingBudget":0}"#));
    assert_eq!(write(Effort::Max, None), config(r#"{"thinkingLevel":"XHIGH"}"#));
    assert_eq!(write(Effort::Low, Some(2000)), config(r#"{"thinkingBudget":2000}"#));
}

#[test]
fn writes_a_conversation_of_another_format() {
    let conversation = Conversation {
        system: vec![text("Be brief.")],
        turns: vec![
            user("Weather in Boston and Rome?"),
            Turn {
                role: Role::Assistant,
                blocks: vec![
                    Block::Reasoning {
                        text: "foreign".into(),
                        signature: Some("sig".into()),
                    },
                    text(""),
                    tool_call("a", "weather now", r#"{"city": "Boston"}"#),
                    tool_call("b", "weather now", ""),
                ],
            },
            Turn {
                role: Role::User,
                blocks: vec![result(
                    "a",
                    vec![
                        text("rain"),
                        Block::Image(Source::Inline {
                            media_type: "image/png".into(),
                            data: "iVBO".into(),
                        }),
                    ],
                    false,
                )],
            },
            Turn {
                role: Role::User,
                blocks: vec![text("Go on."), result("b", vec![text("gone")], true)],
            },
            Turn {
                role: Role::System,
                blocks: vec![text("Now in French.")],
            },
            user("Please."),
        ],
        tools: vec![Tool::Function(Function {
            name: "weather now".into(),
            description: Some("d".into()),
            parameters: Some(raw(r#"{"type":"object","properties":{}}"#)),
            strict: Some(true),
        })],
        tool_choice: Some(ToolChoice::Named("weather now".into())),
        max_tokens: Some(9),
        temperature: serde_json::from_str("1.50").ok(),
        stop: vec!["END".into(), "".into()],
        output: Output::Schema {
            name: Some("n".into()),
            description: None,
            schema: raw(r#"{"type": "object"}"#),
            strict: Some(true),
        },
        ..Conversation::default()
    };
    let encoded = Gemini.encode_request(&conversation, &call(Format::OpenAiChat)).unwrap();
    let name = NAMES.fit("weather now").into_owned();
    assert_eq!(encoded.renamed, [(name.clone(), "weather now".to_owned())]);
    let expected = [
        r#"{"contents":[{"role":"user","parts":[{"text":"Weather in Boston and Rome?"}]},"#,
        r#"{"role":"model","parts":[{"functionCall":{"id":"a","name":"NAME","args":{"city": "Boston"}},"thoughtSignature":"skip_thought_signature_validator"},"#,
        r#"{"functionCall":{"id":"b","name":"NAME","args":{}}}]},"#,
        r#"{"role":"user","parts":[{"functionResponse":{"id":"a","name":"NAME","response":{"output":"rain"}}},"#,
        r#"{"functionResponse":{"id":"b","name":"NAME","response":{"error":"gone"}}},"#,
        r#"{"inlineData":{"mimeType":"image/png","data":"iVBO"}},{"text":"Go on."},{"text":"Please."}]}],"#,
        r#""systemInstruction":{"parts":[{"text":"Be brief."},{"text":"Now in French."}]},"#,
        r#""tools":[{"functionDeclarations":[{"name":"NAME","description":"d","parametersJsonSchema":{"type":"object","properties":{}}}]}],"#,
        r#""toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["NAME"]}},"#,
        r#""generationConfig":{"temperature":1.50,"maxOutputTokens":9,"stopSequences":["END"],"responseMimeType":"application/json","responseJsonSchema":{"type": "object"}}}"#,
    ];
    let expected = expected.concat().replace("NAME", &name);
    assert_eq!(String::from_utf8(encoded.body).unwrap(), expected);
}

#[test]
fn results_that_are_objects_stay_objects() {
    let of = |said: &'static str| {
        let conversation = Conversation {
            turns: vec![Turn {
                role: Role::User,
                blocks: vec![result("a", vec![text(said)], false)],
            }],
            ..Conversation::default()
        };
        encode(&conversation, Format::OpenAiChat)
    };
    assert!(of(r#" {"a":1.0}"#).contains(r#""response":{"a":1.0}"#));
    assert!(of("[1]").contains(r#""response":{"output":"[1]"}"#));
    assert!(of("{no").contains(r#""response":{"output":"{no"}"#));
    assert!(of("").contains(r#""name":"tool","response":{"output":""}"#));
}

#[test]
fn signatures_go_back_to_google_only() {
    let conversation = |signature: String| Conversation {
        turns: vec![Turn {
            role: Role::Assistant,
            blocks: vec![
                Block::Reasoning {
                    text: "hm".into(),
                    signature: Some(signature.clone().into()),
                },
                text("Well."),
                Block::Reasoning {
                    text: "".into(),
                    signature: Some(signature.clone().into()),
                },
                Block::ToolCall(ToolCall {
                    id: "a".into(),
                    name: "f".into(),
                    arguments: "{}".into(),
                    signature: Some(signature.into()),
                }),
            ],
        }],
        ..Conversation::default()
    };
    let own = r#"{"contents":[{"role":"model","parts":[{"text":"hm","thought":true,"thoughtSignature":"c2ln"},{"text":"Well.","thoughtSignature":"c2ln"},{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"c2ln"}]}]}"#;
    let foreign = r#"{"contents":[{"role":"model","parts":[{"text":"Well."},{"functionCall":{"id":"a","name":"f","args":{}},"thoughtSignature":"skip_thought_signature_validator"}]}]}"#;
    assert_eq!(encode(&conversation("c2ln".into()), Format::Gemini), own);
    assert_eq!(
        encode(&conversation(marked("c2ln", Format::Gemini)), Format::Messages),
        own
    );
    assert_eq!(encode(&conversation("c2ln".into()), Format::Messages), foreign);
    assert_eq!(
        encode(&conversation(marked("c2ln", Format::Messages)), Format::OpenAiChat),
        foreign
    );
}

#[test]
fn arguments_must_be_an_object() {
    let conversation = Conversation {
        turns: vec![Turn {
            role: Role::Assistant,
            blocks: vec![tool_call("a", "f", "[1]")],
        }],
        ..Conversation::default()
    };
    let error = Gemini
        .encode_request(&conversation, &call(Format::OpenAiChat))
        .unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages"));
    assert!(error.message.contains("`a`"));
}

#[test]
fn counts_tokens() {
    let plain = decode_count_request(br#"{"contents":[{"parts":[{"text":"a"}]}]}"#).unwrap();
    let wrapped = br#"{"generateContentRequest":{"model":"models/m","contents":[{"parts":[{"text":"a"}]}]}}"#;
    assert_eq!(decode_count_request(wrapped).unwrap().turns, plain.turns);
    assert!(decode_count_request(b"{}").is_err());
    assert_eq!(count_answer(12), br#"{"totalTokens":12}"#);
    assert_eq!(read_count(br#"{"totalTokens":12,"promptTokensDetails":[]}"#), Some(12));
    assert_eq!(read_count(b"{}"), None);
}

/// What a whole answer says.
fn decoded(body: &str) -> Result<Answer, Malformed> {
    let mut answer = Answer::default();
    Gemini.decode_answer(body.as_bytes(), &mut |event| answer.add(&event))?;
    Ok(answer)
}

/// What a stream says, all in all.
fn folded<'a>(chunks: impl IntoIterator<Item = &'a str>) -> Result<Answer, Malformed> {
    let mut answer = Answer::default();
    let mut decoder = Gemini.decoder();
    for chunk in chunks {
        let bytes = format!("data: {chunk}\r\n\r\n");
        for event in sse::events(bytes.as_bytes()) {
            decoder.event(&event, &mut |event| answer.add(&event))?;
        }
    }
    Ok(answer)
}

fn events_of(chunks: &[&str]) -> Vec<String> {
    let mut events = Vec::new();
    let mut decoder = Gemini.decoder();
    for chunk in chunks {
        let bytes = format!("data: {chunk}\r\n\r\n");
        for event in sse::events(bytes.as_bytes()) {
            decoder
                .event(&event, &mut |event| events.push(format!("{event:?}")))
                .unwrap();
        }
    }
    events
}

const WHOLE: &str = r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"Hm.","thought":true},{"text":"Rainy ","thoughtSignature":"czE="},{"text":"today."},
    {"functionCall":{"name":"f","args":{"a": 1.50}},"thoughtSignature":"czI="},{"functionCall":{"id":"own","name":"g"}}]},"finishReason":"STOP","index":0}],
    "usageMetadata":{"promptTokenCount":20,"cachedContentTokenCount":5,"toolUsePromptTokenCount":2,"candidatesTokenCount":8,"thoughtsTokenCount":4,"totalTokenCount":34},
    "modelVersion":"gemini-3-pro","responseId":"r/1"}"#;

#[test]
fn reads_a_whole_answer() {
    let answer = decoded(WHOLE).unwrap();
    assert_eq!(answer.id.as_deref(), Some("r/1"));
    assert_eq!(answer.model.as_deref(), Some("gemini-3-pro"));
    let called = |id: &'static str, name: &'static str, arguments: &'static str, signature: Option<&'static str>| {
        Piece::ToolCall(ToolCall {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
            signature: signature.map(Into::into),
        })
    };
    let thought = |text: &str, signature: Option<&str>| Piece::Reasoning {
        text: text.into(),
        signature: signature.map(Into::into),
    };
    assert_eq!(
        answer.blocks,
        [
            thought("Hm.", None),
            Piece::Text("Rainy ".into()),
            thought("", Some("czE=")),
            Piece::Text("today.".into()),
            called("call_r1_0", "f", r#"{"a": 1.50}"#, Some("czI=")),
            called("own", "g", "{}", None),
        ]
    );
    let usage = Usage {
        input_tokens: 22,
        cached_tokens: 5,
        cache_write_tokens: 0,
        output_tokens: 12,
        reasoning_tokens: 4,
    };
    assert_eq!(answer.usage, Some(usage));
    assert_eq!(answer.finish.unwrap().reason, Reason::ToolCalls);
}

#[test]
fn a_whole_answer_is_its_stream() {
    let chunk = |parts: &str| {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{parts}]}}}}],"modelVersion":"gemini-3-pro","responseId":"r/1"}}"#
        )
    };
    let end = r#"{"candidates":[{"content":{"parts":[{"text":""}]},"finishReason":"STOP"}],
        "usageMetadata":{"promptTokenCount":22,"cachedContentTokenCount":5,"candidatesTokenCount":8,"thoughtsTokenCount":4}}"#
        .replace('\n', " ");
    let chunks = [
        chunk(r#"{"text":"H","thought":true}"#),
        chunk(r#"{"text":"m.","thought":true}"#),
        chunk(r#"{"text":"Rai"}"#),
        chunk(r#"{"text":"ny "}"#),
        chunk(r#"{"text":"","thoughtSignature":"czE="}"#),
        chunk(r#"{"text":"today."}"#),
        chunk(r#"{"functionCall":{"name":"f","args":{"a": 1.50}},"thoughtSignature":"czI="}"#),
        chunk(r#"{"functionCall":{"id":"own","name":"g"}}"#),
        end,
    ];
    assert_eq!(
        folded(chunks.iter().map(String::as_str)).unwrap(),
        decoded(WHOLE).unwrap()
    );
    let list = format!("[{}]", chunks.join(",\r\n"));
    assert_eq!(decoded(&list).unwrap(), decoded(WHOLE).unwrap());
}

#[test]
fn a_streams_events_come_at_once() {
    let events = events_of(&[
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"trafficType":"ON_DEMAND"}}"#,
        r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f"}}]}}]}"#,
        r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1}}"#,
        "[DONE]",
    ]);
    let starts = [
        "Start",
        "Text",
        "BlockEnd",
        "ToolStart",
        "ToolArguments",
        "ToolEnd",
        "Usage",
        "Finish",
    ];
    assert_eq!(events.len(), starts.len(), "{events:?}");
    for (event, start) in events.iter().zip(starts) {
        assert!(event.starts_with(start), "{event}");
    }
}

#[test]
fn every_finish_reason() {
    let reason = |word: &str, part: &str| {
        let body = format!(r#"{{"candidates":[{{"content":{{"parts":[{part}]}},"finishReason":"{word}"}}]}}"#);
        let finish = decoded(&body).unwrap().finish.unwrap();
        assert_eq!(finish.raw, word);
        let written = reason::write(&finish).to_owned();
        (finish.reason, written)
    };
    let cases = [
        ("STOP", Reason::Stop),
        ("OTHER", Reason::Stop),
        ("LANGUAGE", Reason::Stop),
        ("NO_IMAGE", Reason::Stop),
        ("IMAGE_OTHER", Reason::Stop),
        ("MAX_TOKENS", Reason::Length),
        ("CONTINUATION", Reason::Length),
        ("SAFETY", Reason::Refused),
        ("RECITATION", Reason::Refused),
        ("BLOCKLIST", Reason::Refused),
        ("PROHIBITED_CONTENT", Reason::Refused),
        ("SPII", Reason::Refused),
        ("IMAGE_SAFETY", Reason::Refused),
        ("IMAGE_PROHIBITED_CONTENT", Reason::Refused),
        ("IMAGE_RECITATION", Reason::Refused),
        ("MODEL_ARMOR", Reason::Refused),
        ("ESCALATION", Reason::Refused),
        ("PUP_LIMITED_DISABLED", Reason::Refused),
        ("MALFORMED_FUNCTION_CALL", Reason::Malformed),
        ("MALFORMED_RESPONSE", Reason::Malformed),
        ("UNEXPECTED_TOOL_CALL", Reason::Malformed),
        ("TOO_MANY_TOOL_CALLS", Reason::Malformed),
        ("MISSING_THOUGHT_SIGNATURE", Reason::Malformed),
    ];
    for (word, expected) in cases {
        assert_eq!(reason(word, r#"{"text":"a"}"#), (expected, word.to_owned()));
    }
    assert_eq!(reason("STOP", r#"{"functionCall":{"name":"f"}}"#).0, Reason::ToolCalls);
    assert_eq!(reason("NEW", "").0, Reason::Stop);
    assert_eq!(reason("NEW", "").1, "STOP");
    let foreign = |reason, raw: &'static str| {
        let finish = Finish {
            reason,
            raw: raw.into(),
            stop_sequence: None,
        };
        reason::write(&finish).to_owned()
    };
    assert_eq!(foreign(Reason::ToolCalls, "tool_use"), "STOP");
    assert_eq!(foreign(Reason::StopSequence, "stop_sequence"), "STOP");
    assert_eq!(
        foreign(Reason::ContextWindow, "model_context_window_exceeded"),
        "MAX_TOKENS"
    );
    assert_eq!(foreign(Reason::Refused, "refusal"), "SAFETY");
    assert_eq!(foreign(Reason::Malformed, "error"), "MALFORMED_RESPONSE");
}

#[test]
fn a_blocked_prompt_is_a_refusal() {
    let answer = decoded(
        r#"{"candidates":[],"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":12}}"#,
    )
    .unwrap();
    assert_eq!(answer.blocks, []);
    let finish = answer.finish.as_ref().unwrap();
    assert_eq!((finish.reason, &*finish.raw), (Reason::Refused, "SAFETY"));
    let told = String::from_utf8(Gemini.encode_answer(&answer, &asked())).unwrap();
    assert_eq!(
        told,
        r#"{"candidates":[{"finishReason":"SAFETY","index":0}],"usageMetadata":{"promptTokenCount":12,"candidatesTokenCount":0,"totalTokenCount":12},"modelVersion":"smart","responseId":"req-1"}"#
    );
}

#[test]
fn what_is_no_answer_is_malformed() {
    for body in [
        "",
        "{}",
        "[]",
        "[1]",
        "5",
        "<html>",
        r#"{"candidates":"x"}"#,
        r#"{"usageMetadata":{}}"#,
    ] {
        assert!(decoded(body).is_err(), "{body}");
    }
    assert!(folded(["{"]).is_err());
}

#[test]
fn pieces_of_arguments_are_put_together() {
    let chunk = |call: &str, rest: &str| {
        format!(r#"{{"candidates":[{{"content":{{"parts":[{{"functionCall":{call}}}]}}{rest}}}],"responseId":"r"}}"#)
    };
    let chunks = [
        chunk(r#"{"name":"f","willContinue":true}"#, ""),
        chunk(
            r#"{"partialArgs":[{"jsonPath":"$.a","stringValue":"x","willContinue":true}],"willContinue":true}"#,
            "",
        ),
        chunk(
            r#"{"partialArgs":[{"jsonPath":"$.a","stringValue":"y"}],"willContinue":true}"#,
            "",
        ),
        chunk("{}", ""),
        chunk(r#"{"name":"g","willContinue":true}"#, ""),
        chunk(
            r#"{"partialArgs":[{"jsonPath":"$.b","numberValue":0.5}],"willContinue":true}"#,
            r#","finishReason":"STOP""#,
        ),
    ];
    let answer = folded(chunks.iter().map(String::as_str)).unwrap();
    let arguments: Vec<_> = answer
        .blocks
        .iter()
        .map(|piece| match piece {
            Piece::ToolCall(call) => (call.id.to_string(), call.arguments.to_string()),
            _ => panic!("no call"),
        })
        .collect();
    let expected = [("call_r_0", r#"{"a":"xy"}"#), ("call_r_1", r#"{"b":0.5}"#)];
    assert_eq!(arguments, expected.map(|(id, it)| (id.to_owned(), it.to_owned())));
    assert_eq!(answer.finish.unwrap().reason, Reason::ToolCalls);
}

#[test]
fn candidates_that_pass_through_are_counted() {
    let mut decoder = Gemini.decoder();
    let bytes = b"data: {\"candidates\":[{\"index\":1,\"content\":{\"parts\":[{\"text\":\"a\"}]},\"finishReason\":\"STOP\"},{\"index\":0,\"finishReason\":\"STOP\"}]}\n\n";
    let event = sse::events(bytes).next().unwrap();
    let frame = Gemini.frame(&mut *decoder, &event).unwrap();
    assert_eq!((frame.choices, frame.finished, frame.content), (3, 3, true));
}

fn written(events: &[Event<'_>]) -> Vec<String> {
    let mut encoder = Gemini.encoder(&asked());
    events
        .iter()
        .map(|event| {
            let mut out = Vec::new();
            encoder.event(event, &mut out);
            String::from_utf8(out).unwrap()
        })
        .collect()
}

fn finished(reason: Reason) -> Event<'static> {
    Event::Finish(Finish {
        reason,
        ..Finish::default()
    })
}

fn start(index: u32, id: &'static str) -> Event<'static> {
    Event::ToolStart {
        index,
        id: id.into(),
        name: "f".into(),
        signature: None,
    }
}

fn more(index: u32, fragment: &'static str) -> Event<'static> {
    Event::ToolArguments {
        index,
        fragment: fragment.into(),
    }
}

/// A chunk with one part.
fn chunk_of(part: &str) -> String {
    format!(
        "data: {{\"candidates\":[{{\"content\":{{\"role\":\"model\",\"parts\":[{part}]}},\"index\":0}}],\"modelVersion\":\"gpt\",\"responseId\":\"a1\"}}\r\n\r\n"
    )
}

#[test]
fn writes_a_stream() {
    let events = [
        Event::Start {
            id: Some("a1".into()),
            model: Some("gpt".into()),
        },
        Event::Reasoning("hm".into()),
        Event::Signature(marked("s", Format::Messages).into()),
        Event::BlockEnd,
        Event::Text("Hi\n".into()),
        start(0, "x"),
        more(0, "{\n"),
        more(0, "\"a\": 1.50}"),
        Event::ToolEnd { index: 0 },
        finished(Reason::ToolCalls),
        Event::Usage(Usage {
            input_tokens: 9,
            cached_tokens: 4,
            cache_write_tokens: 0,
            output_tokens: 5,
            reasoning_tokens: 2,
        }),
        Event::End,
    ];
    let signature = proof::write(&marked("s", Format::Messages)).into_owned();
    let expected = [
        String::new(),
        chunk_of(r#"{"text":"hm","thought":true}"#),
        chunk_of(&format!(
            r#"{{"text":"","thought":true,"thoughtSignature":"{signature}"}}"#
        )),
        String::new(),
        chunk_of(r#"{"text":"Hi\n"}"#),
        String::new(),
        String::new(),
        String::new(),
        chunk_of(r#"{"functionCall":{"id":"x","name":"f","args":{"a":1.50}}}"#),
        String::new(),
        String::new(),
        "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"\"}]},\"finishReason\":\"STOP\",\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":9,\"cachedContentTokenCount\":4,\"candidatesTokenCount\":3,\"thoughtsTokenCount\":2,\"totalTokenCount\":14},\"modelVersion\":\"gpt\",\"responseId\":\"a1\"}\r\n\r\n".to_owned(),
    ];
    assert_eq!(written(&events), expected);
}

#[test]
fn interleaved_calls_come_out_whole_and_in_order() {
    let events = [
        start(0, "x"),
        more(0, "{\"a\""),
        start(1, "y"),
        more(1, "{}"),
        Event::Text("b".into()),
        Event::ToolEnd { index: 1 },
        more(0, ":1}"),
        start(2, "z"),
        finished(Reason::ToolCalls),
        Event::End,
    ];
    let out = written(&events);
    let calls = |text: &str| text.matches("functionCall").count();
    assert_eq!(
        out.iter().map(|it| calls(it)).collect::<Vec<_>>(),
        [0, 0, 0, 0, 0, 0, 0, 2, 1, 0]
    );
    assert!(out[4].contains(r#""text":"b""#));
    assert!(out[7].find(r#""id":"x""#) < out[7].find(r#""id":"y""#));
}

#[test]
fn a_call_that_is_no_object_is_left_out_and_told() {
    for (reason, word) in [
        (Reason::ToolCalls, "MALFORMED_FUNCTION_CALL"),
        (Reason::Length, "MAX_TOKENS"),
    ] {
        let events = [start(0, "x"), more(0, "{\"a\":"), finished(reason), Event::End];
        let out = written(&events).concat();
        assert!(out.contains(&format!(r#""finishReason":"{word}""#)), "{out}");
        assert!(!out.contains("functionCall\""));
        let mut answer = Answer::default();
        events.iter().for_each(|event| answer.add(event));
        let whole = String::from_utf8(Gemini.encode_answer(&answer, &asked())).unwrap();
        assert_eq!(format!("data: {whole}\r\n\r\n"), out);
    }
}

#[test]
fn writes_arrays_for_clients_without_sse() {
    let mut encoder = Gemini::array_encoder(&asked());
    let mut out = Vec::new();
    for event in [
        Event::Text("a".into()),
        Event::Text("b".into()),
        finished(Reason::Stop),
        Event::End,
    ] {
        encoder.event(&event, &mut out);
    }
    let out = String::from_utf8(out).unwrap();
    assert!(out.starts_with("[{\"candidates\"") && out.ends_with("}]"), "{out}");
    assert_eq!(out.matches(",\r\n{").count(), 2);
    assert_eq!(decoded(&out).unwrap().text(), "ab");
    let mut broken = Gemini::array_encoder(&asked());
    let mut out = Vec::new();
    broken.event(&Event::Text("a".into()), &mut out);
    broken.error(&error_body(503), &mut out);
    let items: Vec<Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!(items[1]["error"]["status"], "UNAVAILABLE");
}

fn error_body(status: u16) -> ErrorBody<'static> {
    ErrorBody {
        status,
        kind: "server_error",
        code: "all_targets_failed",
        param: Some("contents"),
        message: "no \"luck\"".into(),
    }
}

#[test]
fn writes_errors_as_google_does() {
    let expected = r#"{"error":{"code":503,"message":"no \"luck\"","status":"UNAVAILABLE","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"all_targets_failed","domain":"pointsman","metadata":{"field":"contents"}}]}}"#;
    assert_eq!(Gemini.error(&error_body(503)), expected);
    assert_eq!(
        Gemini.error_event(&error_body(503)),
        format!("data: {expected}\r\n\r\n")
    );
    let mut out = Vec::new();
    Gemini.encoder(&asked()).error(&error_body(503), &mut out);
    assert_eq!(out, format!("data: {expected}\r\n\r\n").as_bytes());
    assert!(Gemini.is_error_answer(&Gemini.error(&error_body(400))));
    let status = |status| {
        let body: Value = serde_json::from_slice(&Gemini.error(&error_body(status))).unwrap();
        body["error"]["status"].as_str().unwrap().to_owned()
    };
    let names = [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (413, "INVALID_ARGUMENT"),
        (429, "RESOURCE_EXHAUSTED"),
        (499, "CANCELLED"),
        (500, "INTERNAL"),
        (502, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
        (529, "UNAVAILABLE"),
    ];
    for (code, name) in names {
        assert_eq!(status(code), name, "{code}");
    }
}

#[test]
fn reads_errors_of_google_and_of_others() {
    let read = |body: &str| {
        let error = Gemini.vendor_error(body.as_bytes());
        (error.code, error.status, error.message)
    };
    let limited = r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.4s"}]}}"#;
    assert_eq!(read(limited), ("RESOURCE_EXHAUSTED".into(), Some(429), "m".into()));
    assert_eq!(read(&limited.replace("PerMinute", "PerDay")).0, DAILY_QUOTA);
    assert_eq!(read(&format!("[{limited}]")).0, "RESOURCE_EXHAUSTED");
    let stated = Gemini.vendor_error(limited.as_bytes()).retry_after;
    assert_eq!(stated, Some(std::time::Duration::from_millis(34_400)));
    let key = r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#;
    assert_eq!(read(key).0, "API_KEY_INVALID");
    assert_eq!(
        read(r#"{"error":{"message":"m","type":"t","code":"c"}}"#),
        ("c".into(), None, "m".into())
    );
    assert_eq!(read("<html>").2, "<html>");
    assert!(Gemini.is_error_answer(limited.as_bytes()));
    assert!(!Gemini.is_error_answer(br#"{"error":"gone"}"#));
    let events = events_of(&[r#"{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}"#]);
    assert_eq!(events.len(), 1);
    assert!(
        events[0].contains("UNAVAILABLE") && events[0].contains("503"),
        "{events:?}"
    );
}

fn corpus() -> Option<PathBuf> {
    match std::env::var_os("POINTSMAN_CORPUS") {
        Some(folder) => Some(folder.into()),
        None => {
            println!("skipped: POINTSMAN_CORPUS is not set");
            None
        }
    }
}

fn files(folders: &[&str], ending: &str) -> Vec<(String, String)> {
    let Some(corpus) = corpus() else { return Vec::new() };
    let mut found = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(corpus.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.to_string_lossy().into_owned();
            if name.ends_with(ending) {
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

const GOOGLE: &str = "vercel-ai/packages/google/src/__fixtures__";

/// The same answer, written and read again as a whole and as a stream.
fn assert_survives(answer: &Answer, name: &str) {
    let whole = Gemini.encode_answer(answer, &asked());
    let again = decoded(std::str::from_utf8(&whole).unwrap()).unwrap();
    assert_eq!(&again, answer, "{name}");
}

#[test]
fn recorded_answers_survive_a_round_trip() {
    let folders = [GOOGLE, "agentgateway/crates/llm/src/tests/response/vertex-gemini"];
    for (name, text) in files(&folders, ".json") {
        if name.contains("429") {
            assert_eq!(Gemini.vendor_error(text.as_bytes()).status, Some(429));
            continue;
        }
        let text = text.trim().trim_start_matches("data: ");
        let mut answer = decoded(text).unwrap();
        assert!(answer.finish.is_some(), "{name}");
        answer.id.get_or_insert("id".into());
        assert_survives(&answer, &name);
    }
}

#[test]
fn recorded_streams_survive_a_round_trip() {
    for (name, text) in files(&[GOOGLE], ".chunks.txt") {
        let mut whole = Answer::default();
        let mut decoder = Gemini.decoder();
        let mut encoder = Gemini.encoder(&asked());
        let mut out = Vec::new();
        for line in text.lines() {
            let bytes = format!("data: {line}\r\n\r\n");
            let event = sse::events(bytes.as_bytes()).next().unwrap();
            decoder
                .event(&event, &mut |event| {
                    whole.add(&event);
                    encoder.event(&event, &mut out);
                })
                .unwrap();
        }
        encoder.event(&Event::End, &mut out);
        assert!(whole.finish.is_some() && whole.usage.is_some(), "{name}");
        assert_survives(&whole, &name);
        let out = String::from_utf8(out).unwrap();
        let chunks: Vec<_> = out
            .split("\r\n\r\n")
            .filter_map(|it| it.strip_prefix("data: "))
            .collect();
        assert_eq!(folded(chunks).unwrap(), whole, "{name}");
    }
}

#[test]
fn recorded_requests_survive_a_round_trip() {
    for (name, text) in files(&["agentgateway/crates/llm/src/tests/requests/gemini"], ".json") {
        let first = Gemini.decode_request(text.as_bytes()).unwrap();
        let sent = encode(&first, Format::Gemini);
        let second = Gemini.decode_request(sent.as_bytes()).unwrap();
        assert_eq!(encode(&second, Format::Gemini), sent, "{name}");
        assert_eq!(
            (&second.system, second.tools.len()),
            (&first.system, first.tools.len()),
            "{name}"
        );
    }
}

fn any_block() -> impl Strategy<Value = Block<'static>> {
    let text = "[a-z\"\\\\\n é😀]{1,8}";
    prop_oneof![
        text.prop_map(|text| Block::Text(text.into())),
        (text, "[A-Za-z0-9]{4}").prop_map(|(text, proof)| Block::Reasoning {
            text: text.into(),
            signature: Some(proof.into()),
        }),
        ("[a-z]{1,5}", "[a-z_]{1,8}", 0u32..1000).prop_map(|(id, name, number)| Block::ToolCall(ToolCall {
            id: id.into(),
            name: name.into(),
            arguments: format!("{{\"n\":{number}}}").into(),
            signature: Some("c2ln".into()),
        })),
        "[A-Za-z0-9]{4}".prop_map(|data| Block::Image(Source::Inline {
            media_type: "image/png".into(),
            data: data.into(),
        })),
    ]
}

fn any_event() -> impl Strategy<Value = Vec<Event<'static>>> {
    prop_oneof![
        "[a-z \n]{0,6}".prop_map(|text| vec![Event::Text(text.into())]),
        ("[a-z]{1,6}", "[a-z]{4}").prop_map(|(text, proof)| vec![
            Event::Reasoning(text.into()),
            Event::Signature(proof.into()),
            Event::BlockEnd
        ]),
        "[a-z]{1,6}".prop_map(|data| vec![Event::BlockEnd, Event::Redacted(data.into()), Event::BlockEnd]),
        (0u32..5, "[{}\":a1]{0,8}").prop_map(|(index, odd)| vec![
            Event::ToolStart {
                index,
                id: "x".into(),
                name: "f".into(),
                signature: None
            },
            Event::ToolArguments {
                index,
                fragment: odd.into()
            },
            Event::ToolEnd { index }
        ]),
    ]
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check_all(&bytes);
    }

    /// The same, from bytes that are JSON of about the right shape.
    #[test]
    fn no_json_panics(pieces in proptest::collection::vec(0usize..24, 0..40)) {
        const PIECES: [&str; 24] = ["{", "}", "[", "]", ",", ":", "\"contents\"", "\"parts\"", "\"text\"", "\"a\"", "\"candidates\"", "\"content\"",
            "\"functionCall\"", "\"name\"", "\"partialArgs\"", "\"jsonPath\"", "\"$.a[0]\"", "\"finishReason\"", "null", "-1e9", "true", "\"thoughtSignature\"", "\"usageMetadata\"", "\"error\""];
        let text: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        check_all(text.as_bytes());
        check_all(format!(r#"{{"contents":[{{"parts":[{{{text}}}]}}],"candidates":[{{"content":{{"parts":[{{{text}}}]}}}}]}}"#).as_bytes());
    }

    #[test]
    fn conversations_survive_a_round_trip(turns in proptest::collection::vec(proptest::collection::vec(any_block(), 1..5), 1..5)) {
        let turns = turns.into_iter().enumerate().map(|(at, mut blocks)| {
            let role = if at % 2 == 0 { Role::User } else { Role::Assistant };
            if role == Role::Assistant {
                blocks.dedup_by(|a, b| matches!((a, b), (Block::Text(_), Block::Text(_))));
            }
            Turn { role, blocks }
        });
        let conversation = Conversation { turns: turns.collect(), ..Conversation::default() };
        let sent = encode(&conversation, Format::Gemini);
        let read = Gemini.decode_request(sent.as_bytes()).unwrap();
        prop_assert_eq!(&read.turns, &conversation.turns);
    }

    /// What a client reads in a stream is what it reads in a whole answer.
    #[test]
    fn streams_say_what_whole_answers_say(events in proptest::collection::vec(any_event(), 0..8)) {
        let mut events = events.concat();
        events.extend([finished(Reason::Stop), Event::End]);
        let mut answer = Answer::default();
        events.iter().for_each(|event| answer.add(event));
        let out = written(&events).concat();
        let streamed = folded(out.split("\r\n\r\n").filter_map(|it| it.strip_prefix("data: "))).unwrap();
        let whole = decoded(std::str::from_utf8(&Gemini.encode_answer(&answer, &asked())).unwrap()).unwrap();
        prop_assert_eq!(streamed, whole);
    }
}

fn check_all(bytes: &[u8]) {
    let _ = Gemini.read(Bytes::copy_from_slice(bytes));
    if let Ok(conversation) = Gemini.decode_request(bytes) {
        let _ = Gemini.encode_request(&conversation, &call(Format::Gemini));
        let _ = Gemini.encode_request(&conversation, &call(Format::Messages));
    }
    let _ = decode_count_request(bytes);
    let _ = read_count(bytes);
    let mut answer = Answer::default();
    let mut encoder = Gemini.encoder(&asked());
    let mut out = Vec::new();
    let _ = Gemini.decode_answer(bytes, &mut |event| {
        answer.add(&event);
        encoder.event(&event, &mut out);
    });
    let _ = Gemini.encode_answer(&answer, &asked());
    let _ = Gemini.vendor_error(bytes);
    let _ = Gemini.is_error_answer(bytes);
    let mut decoder = Gemini.decoder();
    let event = sse::Event {
        name: b"",
        data: Some(bytes.into()),
    };
    let _ = Gemini.frame(&mut *decoder, &event);
}
