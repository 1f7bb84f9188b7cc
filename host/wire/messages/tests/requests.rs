use super::*;
use proptest::prelude::*;

fn decoded(body: &str) -> Conversation<'_> {
    Messages.decode_request(body.as_bytes()).unwrap()
}

fn call(client: Format, dialect: &Dialect) -> Call<'_> {
    Call {
        client,
        model: "claude",
        streaming: false,
        default_max_tokens: 4096,
        dialect,
    }
}

fn encoded(conversation: &Conversation<'_>, client: Format) -> Value {
    let encoded = Messages.encode_request(conversation, &call(client, &PLAIN)).unwrap();
    serde_json::from_slice(&encoded.body).unwrap()
}

fn text(text: &str) -> Block<'_> {
    Block::Text(text.into())
}

fn turn<'a>(role: Role, blocks: impl Into<Vec<Block<'a>>>) -> Turn<'a> {
    Turn {
        role,
        blocks: blocks.into(),
    }
}

fn tool_call<'a>(id: &'a str, arguments: &'a str) -> Block<'a> {
    Block::ToolCall(ToolCall {
        id: id.into(),
        name: "f".into(),
        arguments: arguments.into(),
        signature: None,
    })
}

fn result<'a>(id: &'a str, content: impl Into<Vec<Block<'a>>>) -> Block<'a> {
    Block::ToolResult {
        id: id.into(),
        name: None,
        content: content.into(),
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

fn hello() -> Conversation<'static> {
    Conversation {
        turns: vec![turn(Role::User, [text("Hello")])],
        ..Conversation::default()
    }
}

#[test]
fn reads_everything_that_a_request_says() {
    let body = r#"{"model":"m","max_tokens":7,"stream":true,"temperature":0.50,"top_p":0.9,"top_k":5,"stop_sequences":["a","b\n"],
        "system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}},{"type":"text","text":"Be kind."}],
        "cache_control":{"type":"ephemeral"},"service_tier":"auto","speed":"standard",
        "thinking":{"type":"enabled","budget_tokens":2048},"metadata":{"user_id":"u1"},
        "tools":[{"name":"f","description":"d","input_schema":{"type":"object"},"strict":true,"cache_control":{"type":"ephemeral"}},
            {"type":"custom","name":"g","input_schema":{"type":"object"},"input_examples":[{"a":1}],"allowed_callers":["direct"]},
            {"type":"web_search_20260318","name":"web_search"}],
        "tool_choice":{"type":"any","disable_parallel_tool_use":true},
        "output_config":{"effort":"max","format":{"type":"json_schema","schema":{"type":"object"}},"task_budget":{"total":9}},
        "container":"c1","diagnostics":null,
        "messages":[{"role":"user","content":"Hi"},
            {"role":"assistant","content":[{"type":"thinking","thinking":"Hm","signature":"s1"},{"type":"redacted_thinking","data":"d1"},
                {"type":"text","text":"Well","citations":[]},{"type":"tool_use","id":"t1","name":"f","input":{"a": 1.0}},
                {"type":"server_tool_use","id":"x","name":"web_search","input":{}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","is_error":true,"content":[{"type":"text","text":"no"},
                {"type":"image","source":{"type":"url","url":"https://e.com/a.png"}},{"type":"tool_reference","tool_name":"f"}]},
                {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}},
                {"type":"document","title":"T","context":"about","source":{"type":"text","media_type":"text/plain","data":"doc"}},
                {"type":"document","source":{"type":"file","file_id":"f1"},"citations":{"enabled":true}}]},
            {"role":"system","content":"Now hurry."}]}"#;
    let it = decoded(body);
    assert_eq!((&*it.model, it.streaming, it.max_tokens), ("m", true, Some(7)));
    assert_eq!(it.temperature.as_ref().unwrap().as_str(), "0.50");
    assert_eq!(it.stop, ["a", "b\n"]);
    assert_eq!(it.system, [text("Be brief."), text("Be kind.")]);
    assert_eq!(it.user.as_deref(), Some("u1"));
    assert_eq!((it.effort, it.thinking_budget), (Some(Effort::Max), Some(2048)));
    assert_eq!(it.show_reasoning, Some(true));
    assert_eq!(it.tool_choice, Some(ToolChoice::Required));
    assert_eq!(it.parallel_tools, Some(false));
    assert!(matches!(&it.output, Output::Schema { schema, .. } if schema.get() == r#"{"type":"object"}"#));
    assert!(matches!(&it.tools[0], Tool::Function(f) if f.name == "f" && f.strict == Some(true)));
    assert!(matches!(&it.tools[2], Tool::Opaque { what, .. } if what == "web_search_20260318"));
    let others = [
        "tools.input_examples",
        "output_config.task_budget",
        "container",
        "citations",
    ];
    assert_eq!(it.others, others);
    let roles: Vec<Role> = it.turns.iter().map(|turn| turn.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::System]);
    let said = &it.turns[1].blocks;
    assert!(
        matches!(&said[0], Block::Reasoning { text, signature } if text == "Hm" && signature.as_deref() == Some("s1"))
    );
    assert!(matches!(&said[1], Block::Redacted(data) if data == "d1"));
    assert_eq!(said[2..4], [text("Well"), tool_call("t1", r#"{"a": 1.0}"#)]);
    assert!(matches!(&said[4], Block::Opaque { what, .. } if what == "server_tool_use"));
    let given = &it.turns[2].blocks;
    let Block::ToolResult { content, is_error, .. } = &given[0] else {
        panic!("{given:?}");
    };
    assert!(*is_error && content[0] == text("no"));
    assert_eq!(content[1], Block::Image(Source::Url("https://e.com/a.png".into())));
    assert!(matches!(&content[2], Block::Opaque { what, .. } if what == "tool_reference"));
    assert_eq!(given[2], text("about"));
    let name = Some("T".into());
    let source = Source::Text("doc".into());
    assert_eq!(given[3], Block::Document { name, source });
    assert_eq!(it.turns[3].blocks, [text("Now hurry.")]);
}

#[test]
fn large_data_is_borrowed() {
    let it = decoded(
        r#"{"model":"m","messages":[{"role":"user","content":[
            {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}},{"type":"text","text":"plain"}]}]}"#,
    );
    let blocks = &it.turns[0].blocks;
    let Block::Image(Source::Inline { data, .. }) = &blocks[0] else {
        panic!("{blocks:?}");
    };
    assert!(matches!(data, Cow::Borrowed(_)));
    assert!(matches!(&blocks[1], Block::Text(Cow::Borrowed(_))));
}

#[test]
fn every_way_of_thinking_has_an_effort() {
    let of = |fields: &str| {
        let body = format!(r#"{{"model":"m","messages":[],{fields}}}"#);
        let it = decoded(&body);
        assert!(it.others.is_empty(), "{:?}", it.others);
        (it.effort, it.thinking_budget, it.show_reasoning)
    };
    use Effort::{High, Low, Medium, None as Not, XHigh};
    assert_eq!(of(r#""thinking":null"#), (None, None, None));
    assert_eq!(of(r#""thinking":{"type":"disabled"}"#), (Some(Not), None, None));
    assert_eq!(of(r#""thinking":{"type":"adaptive"}"#), (Some(High), None, None));
    assert_eq!(of(r#""thinking":{"type":"between_tools"}"#), (Some(Low), None, None));
    let shown = r#""thinking":{"type":"adaptive","display":"summarized"},"output_config":{"effort":"xhigh"}"#;
    assert_eq!(of(shown), (Some(XHigh), None, Some(true)));
    let hidden = r#""thinking":{"type":"enabled","budget_tokens":5000,"display":"omitted"}"#;
    assert_eq!(of(hidden), (Some(Medium), Some(5000), Some(false)));
    assert_eq!(of(r#""output_config":{"effort":"low"}"#), (Some(Low), None, None));
}

#[test]
fn says_what_is_wrong_with_a_request() {
    let wrong = |body: &'static str| {
        let error = Messages.read(Bytes::from_static(body.as_bytes())).unwrap_err();
        (error.param.map(Cow::into_owned).unwrap_or_default(), error.message)
    };
    assert_eq!(wrong("{}"), ("model".into(), "you must provide a `model`".into()));
    assert_eq!(wrong(r#"{"model":7,"messages":[]}"#).1, "`model` must be a string");
    assert_eq!(
        wrong(r#"{"model":"m"}"#),
        ("messages".into(), "you must provide `messages`".into())
    );
    assert_eq!(wrong(r#"{"model":"m","messages":"x"}"#).1, "`messages` must be a list");
    for body in [
        r#"{"model":"m","messages":["x"]}"#,
        r#"{"model":"m","messages":[{"content":"x"}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":7}]}"#,
        r#"{"model":"m","messages":[{"role":7,"content":"x"}]}"#,
    ] {
        assert_eq!(wrong(body).0, "messages", "{body}");
    }
    assert_eq!(wrong(r#"{"model":"m","messages":[],"system":7}"#).0, "system");
    assert!(wrong("[]").1.starts_with("the body is not the JSON"));
    let long = format!(r#"{{"model":"{}","messages":[]}}"#, "m".repeat(257));
    assert!(Messages.read(long.into()).unwrap_err().message.contains("longer"));
}

#[test]
fn what_nobody_knows_is_kept_or_named() {
    let it = decoded(
        r#"{"model":"m","temperature":"hot","max_tokens":"many","tool_choice":{"type":"x"},"new":1,"off":false,
        "messages":[{"role":"user","content":[7,{"type":"text"},{"type":"image","source":{"type":"new"}}]},{"role":"judge","content":"x"}],
        "tools":[7,{"name":7}]}"#,
    );
    assert_eq!(it.others, ["temperature", "max_tokens", "tool_choice", "new"]);
    assert!(
        it.turns[0]
            .blocks
            .iter()
            .all(|block| matches!(block, Block::Opaque { .. }))
    );
    assert!(matches!(&it.turns[1].blocks[1], Block::Opaque { what, .. } if what.contains("judge")));
    assert!(it.tools.iter().all(|tool| matches!(tool, Tool::Opaque { .. })));
}

#[test]
fn only_the_model_changes_where_a_request_passes_through() {
    let body = r#"{"model":"a" ,"messages":[ ],"x":1.50,"model":"b"}"#;
    let asked = Messages.read(Bytes::from_static(body.as_bytes())).unwrap();
    assert_eq!(asked.request.model, "b");
    let sent = Format::Messages.pass_through(&asked, "c", None).unwrap();
    assert_eq!(sent, r#"{"model":"c" ,"messages":[ ],"x":1.50,"model":"c"}"#);
}

#[test]
fn writes_what_an_sdk_would() {
    let schema = r#"{"type":"object","properties":{"n":{"type":"number","minimum":1.0}}}"#;
    let conversation = Conversation {
        system: vec![text("Be brief.")],
        turns: vec![
            turn(
                Role::User,
                [text("Hi"), Block::Image(Source::Url("https://e.com/a.png".into()))],
            ),
            turn(
                Role::Assistant,
                [text("Well"), tool_call("t1", r#"{"n": 1.0}"#), tool_call("t2", "")],
            ),
            turn(Role::User, [result("t1", [text("one")])]),
            turn(Role::User, [text("and?")]),
            turn(Role::User, [result("t2", [])]),
        ],
        tools: vec![Tool::Function(Function {
            name: "f".into(),
            description: Some("d".into()),
            parameters: Some(Cow::Owned(RawValue::from_string(schema.into()).unwrap())),
            strict: Some(true),
        })],
        tool_choice: Some(ToolChoice::Named("f".into())),
        parallel_tools: Some(false),
        stop: vec!["END".into()],
        temperature: Some(serde_json::Number::from_f64(0.5).unwrap()),
        user: Some("u".into()),
        ..Conversation::default()
    };
    let call = Call {
        streaming: true,
        ..call(Format::OpenAiChat, &PLAIN)
    };
    let encoded = Messages.encode_request(&conversation, &call).unwrap();
    assert!(encoded.renamed.is_empty());
    let expected = [
        r#"{"model":"claude","max_tokens":4096,"stream":true,"system":"Be brief.","messages":["#,
        r#"{"role":"user","content":[{"type":"text","text":"Hi"},{"type":"image","source":{"type":"url","url":"https://e.com/a.png"}}]},"#,
        r#"{"role":"assistant","content":[{"type":"text","text":"Well"},{"type":"tool_use","id":"t1","name":"f","input":{"n": 1.0}},"#,
        r#"{"type":"tool_use","id":"t2","name":"f","input":{}}]},"#,
        r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"one"},"#,
        r#"{"type":"tool_result","tool_use_id":"t2"},{"type":"text","text":"and?"}]}],"#,
        r#""tools":[{"name":"f","description":"d","input_schema":{"type":"object","properties":{"n":{"type":"number","minimum":1.0}}},"strict":true}],"#,
        r#""tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},"temperature":0.5,"#,
        r#""stop_sequences":["END"],"metadata":{"user_id":"u"}}"#,
    ];
    assert_eq!(String::from_utf8(encoded.body).unwrap(), expected.concat());
}

#[test]
fn vendors_that_name_the_version_get_neither_model_nor_stream() {
    let dialect = Dialect {
        body_version: Some("vertex-2023-10-16"),
        ..PLAIN
    };
    let call = Call {
        streaming: true,
        ..call(Format::OpenAiChat, &dialect)
    };
    let body = Messages.encode_request(&hello(), &call).unwrap().body;
    let expected =
        r#"{"anthropic_version":"vertex-2023-10-16","max_tokens":4096,"messages":[{"role":"user","content":"Hello"}]}"#;
    assert_eq!(String::from_utf8(body).unwrap(), expected);
}

#[test]
fn instructions_are_hoisted_and_empty_texts_left_out() {
    let conversation = Conversation {
        turns: vec![
            turn(Role::System, [text("a")]),
            turn(Role::User, [text("hi"), text(" \n")]),
            turn(Role::System, [text("b")]),
            turn(Role::User, [text("there")]),
            turn(Role::Assistant, [text("So: ")]),
        ],
        ..Conversation::default()
    };
    let sent = encoded(&conversation, Format::OpenAiChat);
    assert_eq!(
        sent["system"],
        json!([{"type":"text","text":"a"},{"type":"text","text":"b"}])
    );
    let said = json!([
        {"role":"user","content":[{"type":"text","text":"hi"},{"type":"text","text":"there"}]},
        {"role":"assistant","content":"So:"}
    ]);
    assert_eq!(sent["messages"], said);
    let only_system = Conversation {
        system: vec![text("a")],
        ..Conversation::default()
    };
    let sent = encoded(&only_system, Format::OpenAiChat);
    assert_eq!(sent["messages"], json!([{"role":"user","content":"a"}]));
    assert!(sent.get("system").is_none());
}

#[test]
fn effort_is_adaptive_thinking_or_a_budget() {
    let budgets = Dialect {
        thinking_budget: true,
        ..PLAIN
    };
    let sent = |conversation: &Conversation<'_>, dialect: &Dialect| -> Value {
        let call = call(Format::OpenAiChat, dialect);
        serde_json::from_slice(&Messages.encode_request(conversation, &call).unwrap().body).unwrap()
    };
    let of = |effort, max_tokens| Conversation {
        effort: Some(effort),
        max_tokens,
        temperature: Some(serde_json::Number::from_f64(0.2).unwrap()),
        top_k: Some(5.into()),
        top_p: Some(serde_json::Number::from_f64(0.9).unwrap()),
        show_reasoning: Some(true),
        ..hello()
    };
    let high = sent(&of(Effort::High, None), &PLAIN);
    assert_eq!(high["thinking"], json!({"type":"adaptive","display":"summarized"}));
    assert_eq!(high["output_config"], json!({"effort":"high"}));
    for field in ["temperature", "top_p", "top_k"] {
        assert!(high.get(field).is_none(), "{field}");
    }
    assert_eq!(
        sent(&of(Effort::Minimal, None), &PLAIN)["output_config"],
        json!({"effort":"low"})
    );
    let off = sent(&of(Effort::None, None), &budgets);
    assert_eq!(off["thinking"], json!({"type":"disabled"}));
    assert!(off.get("output_config").is_none() && off.get("temperature").is_some());
    let budget = |effort, max_tokens| {
        let sent = sent(&of(effort, max_tokens), &budgets);
        assert!(sent.get("output_config").is_none() && sent.get("temperature").is_none());
        let budget = sent["thinking"]["budget_tokens"].as_u64().unwrap();
        (budget, sent["max_tokens"].as_u64().unwrap())
    };
    assert_eq!(budget(Effort::Low, Some(100_000)), (4096, 100_000));
    assert_eq!(budget(Effort::High, Some(8000)), (6000, 8000));
    assert_eq!(budget(Effort::High, None), (3072, 4096));
    assert_eq!(budget(Effort::Minimal, Some(100)), (1024, 1124));
    let own = Conversation {
        thinking_budget: Some(7999),
        ..of(Effort::High, Some(8000))
    };
    assert_eq!(sent(&own, &budgets)["thinking"]["budget_tokens"], 7999);
}

#[test]
fn a_model_does_not_think_in_a_turn_that_lacks_its_thoughts() {
    let turns = |thought: Option<Block<'static>>, client: Format| {
        let mut said: Vec<Block<'_>> = thought.into_iter().collect();
        said.push(tool_call("t1", "{}"));
        let conversation = Conversation {
            turns: vec![
                turn(Role::User, [text("Hi")]),
                turn(Role::Assistant, said),
                turn(Role::User, [result("t1", [text("r")])]),
                turn(Role::Assistant, [tool_call("t2", "{}")]),
                turn(Role::User, [result("t2", [text("r")])]),
                turn(Role::User, [text("go on")]),
            ],
            tools: vec![function("f")],
            effort: Some(Effort::High),
            ..Conversation::default()
        };
        encoded(&conversation, client)
    };
    let thought = |signature: Option<String>| Block::Reasoning {
        text: "hm".into(),
        signature: signature.map(Into::into),
    };
    let disabled = json!({"type":"disabled"});
    let adaptive = json!({"type":"adaptive"});
    assert_eq!(turns(None, Format::OpenAiChat)["thinking"], disabled);
    assert_eq!(turns(Some(thought(None)), Format::Messages)["thinking"], disabled);
    assert_eq!(
        turns(Some(thought(Some("own".into()))), Format::OpenAiChat)["thinking"],
        disabled
    );
    let marked = signature::marked("sig", Format::Messages);
    let back = turns(Some(thought(Some(marked))), Format::OpenAiChat);
    assert_eq!(back["thinking"], adaptive);
    assert_eq!(
        back["messages"][1]["content"][0],
        json!({"type":"thinking","thinking":"hm","signature":"sig"})
    );
    let foreign = turns(
        Some(thought(Some(signature::marked("sig", Format::Gemini)))),
        Format::Messages,
    );
    assert_eq!(foreign["messages"][1]["content"][0]["type"], "tool_use");
    assert_eq!(foreign["thinking"], disabled);
    let own = turns(Some(Block::Redacted("d".into())), Format::Messages);
    assert_eq!(
        (&own["thinking"], &own["messages"][1]["content"][0]["data"]),
        (&adaptive, &json!("d"))
    );
}

#[test]
fn a_model_that_must_call_a_tool_does_not_think() {
    let conversation = Conversation {
        tools: vec![function("f")],
        tool_choice: Some(ToolChoice::Required),
        effort: Some(Effort::Max),
        ..hello()
    };
    let sent = encoded(&conversation, Format::OpenAiChat);
    assert_eq!(sent["thinking"], json!({"type":"disabled"}));
    assert_eq!(sent["output_config"], json!({"effort":"high"}));
    assert_eq!(sent["tool_choice"], json!({"type":"any"}));
}

#[test]
fn every_tool_choice_has_its_words() {
    let choice = |choice: Option<ToolChoice<'static>>, parallel_tools| {
        let conversation = Conversation {
            tools: vec![function("f"), function("g")],
            tool_choice: choice,
            parallel_tools,
            ..hello()
        };
        let sent = encoded(&conversation, Format::OpenAiChat);
        (sent["tool_choice"].clone(), sent["tools"].as_array().unwrap().len())
    };
    let allowed = |names: &[&'static str], required| ToolChoice::Allowed {
        names: names.iter().map(|name| Cow::Borrowed(*name)).collect(),
        required,
    };
    assert_eq!(choice(None, None), (Value::Null, 2));
    assert_eq!(choice(None, Some(true)), (Value::Null, 2));
    let alone = json!({"type":"auto","disable_parallel_tool_use":true});
    assert_eq!(choice(None, Some(false)), (alone, 2));
    assert_eq!(choice(Some(ToolChoice::Auto), None), (json!({"type":"auto"}), 2));
    assert_eq!(choice(Some(ToolChoice::None), Some(false)), (json!({"type":"none"}), 2));
    assert_eq!(choice(Some(ToolChoice::Required), None), (json!({"type":"any"}), 2));
    let named = json!({"type":"tool","name":"g"});
    assert_eq!(choice(Some(ToolChoice::Named("g".into())), None), (named.clone(), 2));
    assert_eq!(choice(Some(allowed(&["g"], true)), None), (named, 1));
    assert_eq!(
        choice(Some(allowed(&["f", "g"], true)), None),
        (json!({"type":"any"}), 2)
    );
    assert_eq!(choice(Some(allowed(&["f"], false)), None), (json!({"type":"auto"}), 1));
}

#[test]
fn calls_without_tools_get_the_tools_they_called() {
    let conversation = Conversation {
        turns: vec![
            turn(Role::User, [text("Hi")]),
            turn(Role::Assistant, [tool_call("t1", "{}")]),
            turn(Role::User, [result("t1", [text("r")])]),
        ],
        ..Conversation::default()
    };
    let sent = encoded(&conversation, Format::OpenAiChat);
    let tools = json!([{"name":"f","input_schema":{"type":"object","properties":{}}}]);
    assert_eq!(
        (&sent["tools"], &sent["tool_choice"]),
        (&tools, &json!({"type":"none"}))
    );
    assert!(encoded(&conversation, Format::Messages).get("tools").is_none());
}

#[test]
fn names_and_ids_that_do_not_fit_are_changed_everywhere_alike() {
    let name = "files.read/all";
    let conversation = Conversation {
        turns: vec![
            turn(Role::User, [text("Hi")]),
            turn(
                Role::Assistant,
                [Block::ToolCall(ToolCall {
                    id: "call:1".into(),
                    name: name.into(),
                    arguments: "{}".into(),
                    signature: None,
                })],
            ),
            turn(Role::User, [result("call:1", [text("r")])]),
        ],
        tools: vec![function(name)],
        tool_choice: Some(ToolChoice::Named(name.into())),
        ..Conversation::default()
    };
    let encoded = Messages
        .encode_request(&conversation, &call(Format::OpenAiChat, &PLAIN))
        .unwrap();
    let sent: Value = serde_json::from_slice(&encoded.body).unwrap();
    let there = sent["tools"][0]["name"].as_str().unwrap();
    assert_eq!(encoded.renamed, [(there.to_owned(), name.to_owned())]);
    assert_eq!(sent["tool_choice"]["name"], there);
    let called = &sent["messages"][1]["content"][0];
    assert_eq!(called["name"], there);
    assert_eq!(called["id"], sent["messages"][2]["content"][0]["tool_use_id"]);
    assert!(!called["id"].as_str().unwrap().contains(':'));
}

#[test]
fn schemas_are_of_objects() {
    let schema = |text: &str| Some(Cow::Owned(RawValue::from_string(text.into()).unwrap()));
    let tool = |parameters| {
        let conversation = Conversation {
            tools: vec![Tool::Function(Function {
                name: "f".into(),
                description: Some("".into()),
                parameters,
                strict: Some(false),
            })],
            output: Output::Json,
            ..hello()
        };
        let sent = encoded(&conversation, Format::OpenAiChat);
        assert_eq!(sent.get("output_config"), None);
        sent["tools"][0].to_string()
    };
    let empty = r#"{"name":"f","input_schema":{"type":"object","properties":{}}}"#;
    assert_eq!(tool(None), empty);
    assert_eq!(tool(schema("null")), empty);
    let untyped = r#"{"properties":{"a":{"const":1.0}},"type":null}"#;
    let typed = r#"{"name":"f","input_schema":{"type":"object","properties":{"a":{"const":1.0}}}}"#;
    assert_eq!(tool(schema(untyped)), typed);
}

#[test]
fn media_have_the_sources_that_anthropic_takes() {
    let inline = |media_type: &'static str, data: &'static str| Source::Inline {
        media_type: media_type.into(),
        data: data.into(),
    };
    let document = |source| Block::Document {
        name: Some("T".into()),
        source,
    };
    let blocks = || {
        vec![
            Block::Image(inline("image/webp", "AAAA")),
            Block::Image(inline("image/tiff", "AAAA")),
            Block::Image(Source::Stored("f1".into())),
            Block::Audio(inline("audio/wav", "AAAA")),
            document(inline("application/pdf", "AAAA")),
            document(inline("text/markdown", "IyBIw6k=")),
            document(Source::Text("t".into())),
            document(Source::Url("https://e.com/a.pdf".into())),
            document(Source::Stored("f2".into())),
        ]
    };
    let of = |client| {
        let conversation = Conversation {
            turns: vec![turn(Role::User, blocks())],
            ..Conversation::default()
        };
        encoded(&conversation, client)["messages"][0]["content"].clone()
    };
    let text = |data: &str| json!({"type":"document","source":{"type":"text","media_type":"text/plain","data":data},"title":"T"});
    let foreign = json!([
        {"type":"image","source":{"type":"base64","media_type":"image/webp","data":"AAAA"}},
        {"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"},"title":"T"},
        text("# Hé"),
        text("t"),
        {"type":"document","source":{"type":"url","url":"https://e.com/a.pdf"},"title":"T"},
    ]);
    assert_eq!(of(Format::OpenAiChat), foreign);
    let own = of(Format::Messages);
    assert_eq!(own[1], json!({"type":"image","source":{"type":"file","file_id":"f1"}}));
    assert_eq!(own.as_array().unwrap().len(), 7);
}

#[test]
fn sampling_stays_within_limits() {
    let of = |temperature: f64, top_p: Option<f64>| {
        let conversation = Conversation {
            temperature: serde_json::Number::from_f64(temperature),
            top_p: top_p.and_then(serde_json::Number::from_f64),
            stop: vec!["\n".into()],
            ..hello()
        };
        let sent = encoded(&conversation, Format::OpenAiChat);
        assert!(sent.get("stop_sequences").is_none());
        (sent["temperature"].clone(), sent["top_p"].clone())
    };
    assert_eq!(of(1.5, None), (json!(1), Value::Null));
    assert_eq!(of(0.7, Some(1.0)), (json!(0.7), Value::Null));
    assert_eq!(of(0.7, Some(0.9)), (json!(0.7), json!(0.9)));
}

#[test]
fn arguments_that_are_no_object_are_the_clients_mistake() {
    let conversation = Conversation {
        turns: vec![turn(Role::Assistant, [tool_call("t1", "[1]")])],
        ..Conversation::default()
    };
    let error = Messages
        .encode_request(&conversation, &call(Format::OpenAiChat, &PLAIN))
        .unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages"));
    assert_eq!(error.message, "the arguments of tool call `t1` are not a JSON object");
}

#[test]
fn what_only_this_format_knows_stays_in_it() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"search_result","source":"s","title":"t","content":[]},{"type":"text","text":"x"}]}],"tools":[{"type":"web_search_20260318","name":"web_search"}]}"#;
    let conversation = decoded(body);
    let own = encoded(&conversation, Format::Messages);
    assert_eq!(own["messages"][0]["content"][0]["type"], "search_result");
    assert_eq!(own["tools"][0]["type"], "web_search_20260318");
    let foreign = encoded(&conversation, Format::OpenAiChat);
    assert_eq!(foreign["messages"][0]["content"], "x");
    assert!(foreign.get("tools").is_none());
}

#[test]
fn recorded_requests_survive_a_round_trip() {
    let Some(files) = recorded("requests/messages/", ".json") else {
        return;
    };
    for file in files {
        let body = std::fs::read(&file).unwrap();
        let first = Messages.decode_request(&body).unwrap();
        let encoded = Messages
            .encode_request(&first, &call(Format::Messages, &PLAIN))
            .unwrap();
        let second = Messages.decode_request(&encoded.body).unwrap();
        let blocks = |it: &Conversation<'_>| -> Vec<String> {
            let spoken = it.turns.iter().filter(|turn| turn.role != Role::System);
            let blocks = spoken.flat_map(|turn| &turn.blocks);
            blocks.map(|block| format!("{block:?}")).collect()
        };
        assert_eq!(blocks(&first), blocks(&second), "{file:?}");
        assert_eq!(first.tools.len(), second.tools.len(), "{file:?}");
        assert_eq!(first.tool_choice, second.tool_choice, "{file:?}");
        if !cannot_think(&first, Format::Messages) {
            assert_eq!(first.effort, second.effort, "{file:?}");
        }
    }
}

fn any_block() -> impl Strategy<Value = Block<'static>> {
    let string = "\\PC{1,20}".prop_filter("blank", |text: &String| !text.trim().is_empty());
    prop_oneof![
        string.clone().prop_map(|text| Block::Text(text.into())),
        string
            .clone()
            .prop_map(|text| Block::Image(Source::Url(format!("https://{text}").into()))),
        (string.clone(), string.clone()).prop_map(|(text, proof)| Block::Reasoning {
            text: text.into(),
            signature: Some(proof.into()),
        }),
        ("[a-z]{1,9}", "[a-zA-Z0-9_-]{1,60}", "[a-z]{0,9}").prop_map(|(id, name, value)| {
            Block::ToolCall(ToolCall {
                id: id.into(),
                name: name.into(),
                arguments: json!({ "a": value }).to_string().into(),
                signature: None,
            })
        }),
        ("[a-z]{1,9}", string, any::<bool>()).prop_map(|(id, text, is_error)| Block::ToolResult {
            id: id.into(),
            name: None,
            content: vec![Block::Text(text.into())],
            is_error,
        }),
    ]
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Messages.read(Bytes::copy_from_slice(&bytes));
        let _ = Messages.decode_request(&bytes);
    }

    /// Any JSON where a request is expected.
    #[test]
    fn no_json_panics(
        key in prop_oneof![Just("system"), Just("tools"), Just("tool_choice"), Just("thinking"), Just("output_config"), Just("metadata")],
        kind in prop_oneof![Just("text"), Just("image"), Just("document"), Just("tool_use"), Just("tool_result"), Just("thinking")],
        value in prop_oneof![Just("null"), Just("7"), Just("\"x\""), Just("[]"), Just("[7]"), Just("{}"), Just("[{\"type\":\"text\"}]"), Just("{\"type\":7}")],
    ) {
        let body = format!(
            r#"{{"model":"m","{key}":{value},"messages":[{{"role":"user","content":[{{"type":"{kind}","text":{value},"source":{value},"content":{value},"input":{value},"thinking":{value}}}]}}]}}"#,
        );
        if let Ok(conversation) = Messages.decode_request(body.as_bytes()) {
            for client in [Format::Messages, Format::OpenAiChat] {
                let _ = Messages.encode_request(&conversation, &call(client, &PLAIN));
            }
        }
    }

    /// What was said, called and given stays, in its order.
    #[test]
    fn a_conversation_survives_a_round_trip(blocks in proptest::collection::vec((any::<bool>(), any_block()), 1..12)) {
        let turns: Vec<Turn<'_>> = blocks
            .into_iter()
            .map(|(is_user, block)| turn(if is_user { Role::User } else { Role::Assistant }, [block]))
            .collect();
        let conversation = Conversation { turns, tools: vec![function("f")], ..Conversation::default() };
        let body = Messages.encode_request(&conversation, &call(Format::Messages, &PLAIN)).unwrap().body;
        let back = Messages.decode_request(&body).unwrap();
        let mut expected: Vec<(Role, Vec<Block<'_>>)> = Vec::new();
        for turn in &conversation.turns {
            match expected.last_mut() {
                Some((role, blocks)) if *role == turn.role => blocks.extend(turn.blocks.clone()),
                _ => expected.push((turn.role, turn.blocks.clone())),
            }
        }
        for (_, blocks) in expected.iter_mut().filter(|(role, _)| *role == Role::User) {
            blocks.sort_by_key(|block| !matches!(block, Block::ToolResult { .. }));
        }
        if let Some((Role::Assistant, blocks)) = expected.last_mut()
            && let Some(Block::Text(text)) = blocks.last_mut()
        {
            *text = text.trim_end().to_owned().into();
        }
        let got: Vec<_> = back.turns.into_iter().map(|turn| (turn.role, turn.blocks)).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(back.tools.len(), 1);
    }
}
