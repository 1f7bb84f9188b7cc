use super::*;
use proptest::prelude::*;

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":2,"cache_read_input_tokens":3,"output_tokens":1}}}"#;

/// The events of a stream, each on a line of its own.
fn events(lines: &str) -> Vec<Event<'static>> {
    let mut decoder = Messages.decoder();
    let mut events = Vec::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let bytes = format!("data: {line}\n\n");
        for event in sse::events(bytes.as_bytes()) {
            decoder.event(&event, &mut |event| events.push(owned(&event))).unwrap();
        }
    }
    events
}

fn owned(event: &Event<'_>) -> Event<'static> {
    let text = |text: &Cow<'_, str>| Cow::Owned(text.to_string());
    match event {
        Event::Start { id, model } => Event::Start {
            id: id.as_ref().map(text),
            model: model.as_ref().map(text),
        },
        Event::Text(it) => Event::Text(text(it)),
        Event::Refusal(it) => Event::Refusal(text(it)),
        Event::Reasoning(it) => Event::Reasoning(text(it)),
        Event::Signature(it) => Event::Signature(text(it)),
        Event::Redacted(it) => Event::Redacted(text(it)),
        Event::ToolStart {
            index,
            id,
            name,
            signature,
        } => Event::ToolStart {
            index: *index,
            id: text(id),
            name: text(name),
            signature: signature.as_ref().map(text),
        },
        Event::ToolArguments { index, fragment } => Event::ToolArguments {
            index: *index,
            fragment: text(fragment),
        },
        Event::ToolEnd { index } => Event::ToolEnd { index: *index },
        Event::BlockEnd => Event::BlockEnd,
        Event::Opaque { what, json } => Event::Opaque {
            what: text(what),
            json: text(json),
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

fn whole(body: &str) -> Vec<Event<'static>> {
    let mut events = Vec::new();
    Messages
        .decode_answer(body.as_bytes(), &mut |event| events.push(owned(&event)))
        .unwrap();
    events
}

fn written(events: &[Event<'_>]) -> String {
    let mut encoder = Messages.encoder(&asked());
    let mut out = Vec::new();
    events.iter().for_each(|event| encoder.event(event, &mut out));
    String::from_utf8(out).unwrap()
}

/// The data of a written stream, each on a line of its own; the names of the events are checked on the way.
fn lines(stream: &str) -> String {
    let mut lines = String::new();
    for event in sse::events(stream.as_bytes()) {
        let data = String::from_utf8(event.data.unwrap().into_owned()).unwrap();
        let kind: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(kind["type"].as_str().unwrap().as_bytes(), event.name);
        lines.push_str(&data);
        lines.push('\n');
    }
    lines
}

fn start() -> Event<'static> {
    Event::Start {
        id: Some("msg_1".into()),
        model: Some("m".into()),
    }
}

fn call(index: u32) -> Event<'static> {
    Event::ToolStart {
        index,
        id: format!("t{index}").into(),
        name: format!("f{index}").into(),
        signature: None,
    }
}

fn arguments(index: u32, fragment: &str) -> Event<'_> {
    Event::ToolArguments {
        index,
        fragment: fragment.into(),
    }
}

fn finish(reason: Reason) -> Event<'static> {
    Event::Finish(Finish {
        reason,
        raw: "x".into(),
        stop_sequence: None,
    })
}

const USAGE: Usage = Usage {
    input_tokens: 15,
    cached_tokens: 3,
    cache_write_tokens: 2,
    output_tokens: 7,
    reasoning_tokens: 4,
};

#[test]
fn reads_a_stream_with_everything() {
    let read = events(&[START, r#"
        {"type":"ping"}
        {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}
        {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}
        {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}}
        {"type":"content_block_stop","index":0}
        {"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"blob"}}
        {"type":"content_block_stop","index":1}
        {"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}
        {"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"Hi \ud83d\ude00"}}
        {"type":"content_block_stop","index":2}
        {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_1","name":"f","input":{}}}
        {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":""}}
        {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}
        {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":" 1}"}}
        {"type":"content_block_stop","index":3}
        {"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"toolu_2","name":"g","input":{}}}
        {"type":"content_block_stop","index":4}
        {"type":"brand_new"}
        {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":61,"output_tokens":9,"output_tokens_details":{"thinking_tokens":4}}}
        {"type":"message_stop"}"#].join("\n"));
    let usage = |input_tokens, output_tokens, reasoning_tokens| {
        Event::Usage(Usage {
            input_tokens,
            cached_tokens: 3,
            cache_write_tokens: 2,
            output_tokens,
            reasoning_tokens,
        })
    };
    let tool = |index, id: &'static str, name: &'static str| Event::ToolStart {
        index,
        id: id.into(),
        name: name.into(),
        signature: None,
    };
    let expected = [
        usage(15, 1, 0),
        Event::Start {
            id: Some("msg_1".into()),
            model: Some("claude-x".into()),
        },
        Event::Reasoning("Hm.".into()),
        Event::Signature("EqQB".into()),
        Event::BlockEnd,
        Event::Redacted("blob".into()),
        Event::BlockEnd,
        Event::Text("Hi 😀".into()),
        Event::BlockEnd,
        tool(0, "toolu_1", "f"),
        arguments(0, "{\"a\":"),
        arguments(0, " 1}"),
        Event::ToolEnd { index: 0 },
        tool(1, "toolu_2", "g"),
        arguments(1, "{}"),
        Event::ToolEnd { index: 1 },
        usage(66, 9, 4),
        Event::Finish(Finish {
            reason: Reason::ToolCalls,
            raw: "tool_use".into(),
            stop_sequence: None,
        }),
        Event::End,
    ];
    assert_eq!(read, expected);
    let body = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-x","content":[
        {"type":"thinking","thinking":"Hm.","signature":"EqQB"},{"type":"redacted_thinking","data":"blob"},{"type":"text","text":"Hi 😀"},
        {"type":"tool_use","id":"toolu_1","name":"f","input":{"a": 1}},{"type":"tool_use","id":"toolu_2","name":"g","input":{}}],
        "stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":61,"cache_creation_input_tokens":2,
        "cache_read_input_tokens":3,"output_tokens":9,"output_tokens_details":{"thinking_tokens":4}}}"#;
    assert_eq!(fold(&whole(body)), fold(&expected));
}

#[test]
fn every_stop_reason_has_its_meaning() {
    for (raw, reason) in [
        ("end_turn", Reason::Stop),
        ("pause_turn", Reason::Stop),
        ("stop_sequence", Reason::StopSequence),
        ("max_tokens", Reason::Length),
        ("model_context_window_exceeded", Reason::ContextWindow),
        ("tool_use", Reason::ToolCalls),
        ("refusal", Reason::Refused),
        ("new", Reason::Stop),
    ] {
        let delta = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"{raw}","stop_sequence":"E"}}}}"#);
        let stop_sequence = Some("E".into());
        let raw = raw.into();
        assert_eq!(
            events(&delta),
            [Event::Finish(Finish {
                reason,
                raw,
                stop_sequence
            })]
        );
    }
}

#[test]
fn every_reason_has_a_stop_reason() {
    let stop = |events: &[Event<'_>]| {
        let mut events = events.to_vec();
        events.push(Event::End);
        let lines = lines(&written(&events));
        let delta: Value = serde_json::from_str(lines.lines().rev().nth(1).unwrap()).unwrap();
        let body: Value = serde_json::from_slice(&Messages.encode_answer(&fold(&events), &asked())).unwrap();
        for field in ["stop_reason", "stop_sequence", "stop_details"] {
            assert_eq!(delta["delta"][field], body[field]);
        }
        let text = |field: &str| delta["delta"][field].as_str().unwrap_or_default().to_owned();
        (text("stop_reason"), text("stop_sequence"))
    };
    for (reason, word) in [
        (Reason::Stop, "end_turn"),
        (Reason::StopSequence, "end_turn"),
        (Reason::Length, "max_tokens"),
        (Reason::ContextWindow, "model_context_window_exceeded"),
        (Reason::ToolCalls, "tool_use"),
        (Reason::Refused, "refusal"),
        (Reason::Malformed, "end_turn"),
    ] {
        assert_eq!(stop(&[finish(reason)]).0, word);
    }
    let raw = |reason, raw: &'static str, stop_sequence: Option<&'static str>| {
        Event::Finish(Finish {
            reason,
            raw: raw.into(),
            stop_sequence: stop_sequence.map(Into::into),
        })
    };
    assert_eq!(stop(&[raw(Reason::Stop, "pause_turn", None)]).0, "pause_turn");
    let met = stop(&[raw(Reason::StopSequence, "stop", Some("END"))]);
    assert_eq!(met, ("stop_sequence".into(), "END".into()));
    assert_eq!(
        stop(&[raw(Reason::Stop, "stop", Some("END"))]),
        ("end_turn".into(), String::new())
    );
    assert_eq!(stop(&[call(0), finish(Reason::Stop)]).0, "tool_use");
    assert_eq!(stop(&[Event::Refusal("no".into()), finish(Reason::Stop)]).0, "refusal");
    assert_eq!(stop(&[Event::Text("x".into())]).0, "end_turn");
}

#[test]
fn a_refusal_needs_no_blocks() {
    let lines_in = format!(
        "{START}\n{}\n{}",
        r#"{"type":"message_delta","delta":{"stop_reason":"refusal","stop_sequence":null,"stop_details":{"type":"refusal","category":"cyber","explanation":"Blocked."}},"usage":{"output_tokens":5}}"#,
        r#"{"type":"message_stop"}"#
    );
    let read = events(&lines_in);
    let answer = fold(&read);
    assert_eq!(answer.blocks, [Piece::Refusal("Blocked.".into())]);
    assert_eq!(answer.finish.as_ref().unwrap().reason, Reason::Refused);
    let body: Value = serde_json::from_slice(&Messages.encode_answer(&answer, &asked())).unwrap();
    assert_eq!(body["content"], json!([]));
    let details = json!({"type":"refusal","category":null,"explanation":"Blocked."});
    assert_eq!(body["stop_details"], details);
    assert_eq!(fold(&events(&lines(&written(&read)))), answer);
}

#[test]
fn writes_a_stream_as_anthropic_does() {
    let stream = written(&[
        Event::Usage(USAGE),
        start(),
        Event::Reasoning("Hm".into()),
        Event::Signature("si".into()),
        Event::Signature("g".into()),
        Event::Text("".into()),
        Event::Text("Hi".into()),
        Event::Text(" \"you\"\n".into()),
        Event::Redacted("blob".into()),
        call(0),
        arguments(0, "{\"a\":"),
        arguments(0, "1}"),
        call(1),
        finish(Reason::ToolCalls),
        Event::Usage(Usage {
            output_tokens: 9,
            ..USAGE
        }),
        Event::End,
    ]);
    let expected = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":2,"cache_read_input_tokens":3,"output_tokens":7,"output_tokens_details":{"thinking_tokens":4}}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hi"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":" \"you\"\n"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"redacted_thinking","data":"blob"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: content_block_start
data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"t0","name":"f0","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":3}

event: content_block_start
data: {"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"t1","name":"f1","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":4,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_stop
data: {"type":"content_block_stop","index":4}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":10,"cache_creation_input_tokens":2,"cache_read_input_tokens":3,"output_tokens":9,"output_tokens_details":{"thinking_tokens":4}}}

event: message_stop
data: {"type":"message_stop"}

"#;
    assert_eq!(stream, expected);
}

#[test]
fn an_answer_that_nobody_named_is_named_after_the_request() {
    let stream = written(&[Event::Text("a".into()), finish(Reason::Stop), Event::End]);
    let first: Value = serde_json::from_str(lines(&stream).lines().next().unwrap()).unwrap();
    assert_eq!(first["message"]["id"], "msg_r1");
    assert_eq!(first["message"]["model"], "smart");
    assert_eq!(first["message"]["usage"]["input_tokens"], 0);
    assert!(stream.contains(r#""stop_sequence":null},"usage":{"output_tokens":0}}"#));
    let body: Value = serde_json::from_slice(&Messages.encode_answer(&Answer::default(), &asked())).unwrap();
    assert_eq!((&body["id"], &body["model"]), (&json!("msg_r1"), &json!("smart")));
}

#[test]
fn calls_that_are_interleaved_are_written_one_after_the_other() {
    let mut encoder = Messages.encoder(&asked());
    let mut step = |event: Event<'_>| {
        let mut out = Vec::new();
        encoder.event(&event, &mut out);
        let lines = lines(&String::from_utf8(out).unwrap());
        let short = lines.lines().map(|line| {
            let it: Value = serde_json::from_str(line).unwrap();
            let index = &it["index"];
            match it["type"].as_str().unwrap() {
                "content_block_start" => format!("+{index}"),
                "content_block_stop" => format!("-{index}"),
                "content_block_delta" => {
                    let delta = &it["delta"];
                    let text = delta["partial_json"].as_str().or(delta["text"].as_str()).unwrap();
                    format!("{index}:{text}")
                }
                other => other.to_owned(),
            }
        });
        short.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(step(start()), "message_start");
    assert_eq!(step(call(0)), "+0");
    assert_eq!(step(arguments(0, "{\"a\":\"}")), "0:{\"a\":\"}");
    assert_eq!(step(call(1)), "", "the first is incomplete");
    assert_eq!(step(arguments(1, "{\"b\"")), "");
    assert_eq!(step(Event::Text("between".into())), "");
    assert_eq!(step(call(2)), "");
    assert_eq!(step(arguments(2, "{}")), "");
    assert_eq!(step(arguments(0, "\"}")), "0:\"} -0 +1 1:{\"b\"");
    assert_eq!(step(arguments(1, ":1}")), "1::1} -1 +2 2:between -2 +3 3:{}");
    assert_eq!(step(call(3)), "-3 +4", "a complete one is in nobody's way");
    assert_eq!(step(call(4)), "");
    assert_eq!(step(finish(Reason::ToolCalls)), "4: -4 +5 5: -5");
    assert_eq!(step(Event::End), "message_delta message_stop");
}

#[test]
fn streams_that_leave_things_out_are_understood() {
    let read = events(
        r#"{"type":"message_start","message":{}}
        {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}
        {"type":"content_block_start","content_block":{"type":"text","text":"b"}}
        {"type":"content_block_start","content_block":{"type":"tool_use","name":"f","input":{"x":1}}}
        {"type":"content_block_start","content_block":{"type":"tool_use","id":null,"name":"g"}}
        {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"y\":2}"}}
        {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":null}}
        [DONE]"#,
    );
    let answer = fold(&read);
    assert_eq!((&answer.id, &answer.model), (&None, &None));
    let call = |id: &'static str, name: &'static str, arguments: &'static str| {
        Piece::ToolCall(ToolCall {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
            signature: None,
        })
    };
    let expected = [
        Piece::Text("ab".into()),
        call("call__0", "f", r#"{"y":2}"#),
        call("call__1", "g", "{}"),
    ];
    assert_eq!(answer.blocks, expected);
    assert_eq!(answer.finish.unwrap().reason, Reason::ToolCalls);
    assert!(!read.contains(&Event::End), "there was no end");
}

#[test]
fn names_of_events_stand_in_for_types() {
    let mut decoder = Messages.decoder();
    let bytes = b"event: content_block_delta\ndata: {\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n: ping\n\nevent: ping\ndata:\n\n";
    let mut read = Vec::new();
    for event in sse::events(bytes) {
        decoder.event(&event, &mut |event| read.push(owned(&event))).unwrap();
    }
    assert_eq!(read, [Event::Text("a".into())]);
}

#[test]
fn an_answer_that_begins_anew_has_failed() {
    let again = START.replace("msg_1", "msg_2");
    let text = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}"#;
    let failed = |lines: &str| events(lines).iter().any(|event| matches!(event, Event::Error(_)));
    assert!(!failed(&format!("{START}\n{START}\n{text}")));
    assert!(!failed(&format!("{START}\n{again}\n{text}")));
    assert!(failed(&format!("{START}\n{text}\n{again}")));
}

#[test]
fn what_only_this_format_knows_is_kept() {
    let read = events(
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"s1","name":"web_search","input":{}}}
        {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"query\":"}}
        {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"\"x\"}"}}
        {"type":"content_block_stop","index":0}
        {"type":"content_block_start","index":1,"content_block":{"type":"compaction","content":null}}
        {"type":"content_block_delta","index":1,"delta":{"type":"compaction_delta","content":"ab"}}
        {"type":"content_block_delta","index":1,"delta":{"type":"compaction_delta","content":"c"}}
        {"type":"content_block_stop","index":1}
        {"type":"content_block_start","index":2,"content_block":{"citations":[],"type":"text","text":""}}
        {"type":"content_block_delta","index":2,"delta":{"type":"citations_delta","citation":{"type":"char_location","cited_text":"q"}}}
        {"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"t"}}
        {"type":"content_block_stop","index":2}"#,
    );
    let answer = fold(&read);
    let opaque = |what: &str, json: &str| Piece::Opaque {
        what: what.into(),
        json: json.into(),
    };
    let expected = [
        opaque(
            "server_tool_use",
            r#"{"type":"server_tool_use","id":"s1","name":"web_search","input":{"query":"x"}}"#,
        ),
        opaque("compaction", r#"{"type":"compaction","content":"abc"}"#),
        opaque("citation", r#"{"type":"char_location","cited_text":"q"}"#),
        Piece::Text("t".into()),
    ];
    assert_eq!(answer.blocks, expected);
    let body: Value = serde_json::from_slice(&Messages.encode_answer(&answer, &asked())).unwrap();
    let cited = json!({"type":"text","text":"t","citations":[{"type":"char_location","cited_text":"q"}]});
    assert_eq!(body["content"][2], cited);
    assert_eq!(fold(&events(&lines(&written(&read)))).blocks, answer.blocks);
}

#[test]
fn errors_have_anthropics_shape() {
    let body = |status| {
        Messages.error(&ErrorBody {
            status,
            kind: "server_error",
            code: "all_down",
            param: None,
            message: "no".into(),
        })
    };
    assert_eq!(
        body(503),
        r#"{"type":"error","error":{"type":"overloaded_error","message":"no","details":{"error_code":"all_down"}}}"#
    );
    for (status, kind) in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "timeout_error"),
        (409, "conflict_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ] {
        let body = body(status);
        assert!(Messages.is_error_answer(&body));
        let read: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["error"]["type"], kind, "{status}");
    }
    let event = Messages.error_event(&ErrorBody {
        status: 500,
        kind: "",
        code: "",
        param: None,
        message: "a\nb".into(),
    });
    let expected =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"a\\nb\"}}\n\n";
    assert_eq!(event, expected);
}

#[test]
fn reads_errors_of_every_shape() {
    let read = |body: &str| {
        let error = Messages.vendor_error(body.as_bytes());
        (error.code, error.status, error.message)
    };
    let of = |code: &str, status, message: &str| (code.to_owned(), status, message.to_owned());
    assert_eq!(
        read(r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"},"request_id":"req_1"}"#),
        of("rate_limit_error", Some(429), "slow")
    );
    let spent = r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
    assert_eq!(read(spent), of("enforced_spend_limit_reached", Some(429), "m"));
    assert_eq!(
        read(r#"{"error":{"message":"m","type":"BadRequestError","code":400}}"#),
        of("BadRequestError", Some(400), "m")
    );
    assert_eq!(read(r#"{"error":"gone"}"#), of("", None, "gone"));
    assert_eq!(read("<html>"), of("", None, "<html>"));
    assert!(!Messages.is_error_answer(br#"{"error":{"message":"m"}}"#));
    assert!(!Messages.is_error_answer(b"{}"));
    let told = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let overloaded = Event::Error(VendorError {
        retry_after: None,
        code: "overloaded_error".into(),
        status: Some(529),
        message: "Overloaded".into(),
    });
    assert_eq!(events(told), std::slice::from_ref(&overloaded));
    assert_eq!(whole(told), [overloaded]);
    assert!(Messages.answer(told.as_bytes()).unwrap().error.is_some());
}

#[test]
fn what_is_no_answer_is_malformed() {
    for body in ["", "<html>", "{}", r#"{"content":7}"#, "[]"] {
        assert!(Messages.answer(body.as_bytes()).is_err(), "{body}");
    }
    let mut decoder = Messages.decoder();
    let event = sse::events(b"data: {\"type\":\n\n").next().unwrap();
    assert!(decoder.event(&event, &mut |_| {}).is_err());
    assert!(
        Messages
            .answer(br#"{"type":"message","content":[],"stop_reason":"end_turn"}"#)
            .unwrap()
            .commits()
    );
}

#[test]
fn frames_that_pass_through_are_understood() {
    let mut decoder = Messages.decoder();
    let mut frame = |line: &str| {
        let bytes = format!("data: {line}\n\n");
        let event = sse::events(bytes.as_bytes()).next().unwrap();
        Messages.frame(&mut *decoder, &event).unwrap()
    };
    let started = frame(START);
    assert!(!started.content && started.usage.unwrap().input_tokens == 15);
    assert!(!frame(r#"{"type":"ping"}"#).content);
    assert!(!frame(r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#).content);
    assert!(frame(r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#).content);
    let finished = frame(r#"{"type":"message_delta","delta":{"stop_reason":"refusal"},"usage":{"output_tokens":5}}"#);
    assert!(finished.refused && finished.finished == 1 && finished.usage.unwrap().output_tokens == 5);
    assert!(frame(r#"{"type":"message_stop"}"#).end);
}

#[test]
fn tokens_are_counted_in_one_field() {
    assert_eq!(count_answer(42), br#"{"input_tokens":42}"#);
    assert_eq!(read_count(b"{\"input_tokens\": 42}"), Some(42));
    assert_eq!(read_count(b"{}"), None);
}

/// Answers, with the ids that an encoder gives to those without.
fn named(mut answer: Answer) -> Answer {
    answer.id.get_or_insert("msg_r1".into());
    answer.model.get_or_insert("smart".into());
    answer
}

fn same(first: Answer, second: Answer, file: &Path) {
    let json =
        |answer: &Answer| -> Value { serde_json::from_slice(&Messages.encode_answer(answer, &asked())).unwrap() };
    assert_eq!(json(&first), json(&second), "{file:?}");
    let (first, second) = (named(first), named(second));
    assert_eq!((&first.id, &first.model), (&second.id, &second.model), "{file:?}");
    assert_eq!(first.blocks, second.blocks, "{file:?}");
    assert_eq!(first.finish, second.finish, "{file:?}");
    assert_eq!(
        first.usage.unwrap_or_default(),
        second.usage.unwrap_or_default(),
        "{file:?}"
    );
}

#[test]
fn recorded_answers_survive_a_round_trip() {
    let Some(mut files) = recorded("anthropic/", ".json") else {
        return;
    };
    files.retain(|file| {
        let body: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap_or_default();
        body["type"] == "message"
    });
    assert!(files.len() > 20);
    for file in files {
        let body = std::fs::read_to_string(&file).unwrap();
        let first = fold(&whole(&body));
        let again = Messages.encode_answer(&first, &asked());
        let mut second = fold(&whole(std::str::from_utf8(&again).unwrap()));
        // A text is one piece where it stood between its citations.
        assert_eq!(first.text(), second.text(), "{file:?}");
        if second.usage == Some(Usage::default()) {
            second.usage = first.usage;
        }
        same(first, second, &file);
    }
}

#[test]
fn recorded_streams_survive_a_round_trip() {
    let Some(mut files) = recorded("anthropic/", ".chunks.txt") else {
        return;
    };
    files.extend(recorded("response/anthropic/stream_", ".json").unwrap());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = match text.starts_with("event:") {
            true => sse::events(text.as_bytes())
                .filter_map(|event| Some(String::from_utf8(event.data?.into_owned()).unwrap() + "\n"))
                .collect(),
            false => text,
        };
        // Some files have several answers.
        for stream in text.split_inclusive("{\"type\":\"message_stop\"}\n") {
            let read = events(stream);
            let has_failed = read.iter().any(|event| matches!(event, Event::Error(_)));
            assert_eq!(
                has_failed,
                file.ends_with("spliced-message-start.chunks.txt"),
                "{file:?}"
            );
            if has_failed || stream.trim().is_empty() {
                continue;
            }
            let again = events(&lines(&written(&read)));
            same(fold(&read), fold(&again), &file);
            let answer = fold(&read);
            let body = Messages.encode_answer(&answer, &asked());
            same(answer, fold(&whole(std::str::from_utf8(&body).unwrap())), &file);
        }
    }
}

fn any_event() -> impl Strategy<Value = Event<'static>> {
    prop_oneof![
        "\\PC{0,8}".prop_map(|text| Event::Text(text.into())),
        "\\PC{0,8}".prop_map(|text| Event::Reasoning(text.into())),
        "[a-z]{0,3}".prop_map(|text| Event::Signature(text.into())),
        (0u32..3).prop_map(call),
        (0u32..3, prop_oneof![Just("{"), Just("}"), Just("\"a\":1"), Just("")])
            .prop_map(|(index, text)| arguments(index, text)),
        (0u32..3).prop_map(|index| Event::ToolEnd { index }),
        Just(Event::BlockEnd),
        Just(Event::Opaque {
            what: "x".into(),
            json: "{\n\"type\":\"x\"}".into()
        }),
        Just(Event::Usage(USAGE)),
    ]
}

/// Pieces of an answer, as events.
fn any_piece() -> impl Strategy<Value = Vec<Event<'static>>> {
    let string = "\\PC{1,12}";
    prop_oneof![
        (string, string).prop_map(|(a, b)| vec![Event::Text(a.into()), Event::Text(b.into()), Event::BlockEnd]),
        (string, "[a-z]{1,9}").prop_map(|(text, proof)| vec![
            Event::Reasoning(text.into()),
            Event::Signature(proof.into()),
            Event::BlockEnd
        ]),
        string.prop_map(|data| vec![Event::Redacted(data.into()), Event::BlockEnd]),
        ("[a-z]{1,9}", "\\PC{0,9}", any::<proptest::sample::Index>()).prop_map(|(id, value, cut)| {
            let json = json!({ "a": value }).to_string();
            let cut = json.floor_char_boundary(cut.index(json.len()));
            [
                Event::ToolStart {
                    index: 0,
                    id: id.into(),
                    name: "f".into(),
                    signature: None,
                },
                arguments(0, &json[..cut]),
                arguments(0, &json[cut..]),
                Event::ToolEnd { index: 0 },
            ]
            .iter()
            .map(owned)
            .collect()
        }),
    ]
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Messages.decoder();
        for event in sse::events(&bytes) {
            let _ = decoder.event(&event, &mut |_| {});
        }
        let _ = Messages.decode_answer(&bytes, &mut |_| {});
        let _ = Messages.vendor_error(&bytes);
        let _ = Messages.is_error_answer(&bytes);
        let _ = read_count(&bytes);
    }

    /// Whatever an encoder is told, in whatever order, what it writes is a stream of blocks one after the other.
    #[test]
    fn any_events_make_a_stream(mut told in proptest::collection::vec(any_event(), 0..30)) {
        told.push(finish(Reason::Stop));
        told.push(Event::End);
        let mut open = None;
        let mut next = 0;
        for line in lines(&written(&told)).lines() {
            let it: Value = serde_json::from_str(line).unwrap();
            match it["type"].as_str().unwrap() {
                "content_block_start" => {
                    prop_assert_eq!(open, None);
                    prop_assert_eq!(it["index"].as_u64(), Some(next));
                    open = Some(next);
                    next += 1;
                }
                "content_block_delta" => prop_assert_eq!(it["index"].as_u64(), open),
                "content_block_stop" => {
                    prop_assert_eq!(it["index"].as_u64(), open);
                    open = None;
                }
                _ => prop_assert_eq!(open, None),
            }
        }
    }

    /// An answer stays the same through a stream, and through a whole answer.
    #[test]
    fn an_answer_survives_a_round_trip(pieces in proptest::collection::vec(any_piece(), 0..8)) {
        let mut told = vec![start()];
        for (at, piece) in pieces.into_iter().enumerate() {
            told.extend(piece.into_iter().map(|event| match event {
                Event::ToolStart { id, name, .. } => Event::ToolStart { index: at as u32, id, name, signature: None },
                Event::ToolArguments { fragment, .. } => Event::ToolArguments { index: at as u32, fragment },
                Event::ToolEnd { .. } => Event::ToolEnd { index: at as u32 },
                event => event,
            }));
        }
        told.extend([
            Event::Finish(Finish { reason: Reason::Length, raw: "max_tokens".into(), stop_sequence: None }),
            Event::Usage(USAGE),
            Event::End,
        ]);
        let answer = fold(&told);
        let streamed = fold(&events(&lines(&written(&told))));
        let body = Messages.encode_answer(&answer, &asked());
        let whole = fold(&whole(std::str::from_utf8(&body).unwrap()));
        prop_assert_eq!(&streamed.blocks, &answer.blocks);
        prop_assert_eq!(&streamed.finish, &answer.finish);
        prop_assert_eq!(&streamed.usage, &answer.usage);
        prop_assert_eq!(streamed, whole);
    }
}
