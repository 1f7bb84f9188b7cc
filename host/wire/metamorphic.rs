//! What holds over all formats at once: what is written in one and read again says the same, whatever the order of the formats,
//! the cuts of the network and the bytes that come. What may be lost on the way is what [`super::loss`] tells of, and no more.

use std::borrow::Cow;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Number, Value, json};

use super::{Asked, Call, Format, PLAIN, eventstream, sse};
use crate::answer::{Answer, Event, Finish, Piece, Reason};
use crate::chat::Usage;
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};

mod answers;
mod bytes_of_others;
mod requests;

/// Formats that a client and a vendor may both speak.
const FORMATS: [Format; 5] = [
    Format::OpenAiChat,
    Format::Responses,
    Format::Messages,
    Format::Gemini,
    Format::Converse,
];

fn call(client: Format) -> Call<'static> {
    Call {
        client,
        model: "model-1",
        streaming: true,
        default_max_tokens: 1000,
        dialect: &PLAIN,
    }
}

fn asked() -> Asked {
    Asked {
        id: "0123456789abcdef".into(),
        created: 1_700_000_000,
        model: "model-1".into(),
        body: Bytes::from_static(br#"{"stream_options":{"include_usage":true}}"#),
    }
}

/// Text that JSON must escape, and some that it need not.
fn any_text() -> impl Strategy<Value = String> {
    let hard = select(vec![
        "\"quoted\" \\ back / slash",
        "line\nbreak\r\nand\ttab",
        "\u{0}\u{1}\u{1f}\u{7f}",
        "\u{2028}\u{2029}\u{feff}",
        "😀 é ß 漢字 \u{10ffff}",
        "data: [DONE]\n\nevent: error\n\n",
        "{\"type\":\"text\",\"text\":\"x\"}",
        "<think>no</think>",
    ]);
    prop_oneof![
        4 => "[a-zA-Z][a-zA-Z0-9 .,]{0,20}[a-z]",
        2 => hard.prop_map(str::to_owned),
        1 => "[a-z]\\PC{0,20}[a-z]",
    ]
}

/// A JSON value of some depth.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1_000_000i32..1_000_000).prop_map(|number| json!(f64::from(number) / 64.0)),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((any_key(), inner), 0..4)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z_]{1,8}", 1 => any_text()]
}

/// The arguments of a tool call: an object, as text.
fn any_arguments() -> impl Strategy<Value = String> {
    let members = vec((any_key(), any_json()), 0..4);
    members.prop_map(|members| Value::from(members.into_iter().collect::<serde_json::Map<_, _>>()).to_string())
}

/// Names of tools, some of which no vendor takes.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z_]{1,20}",
        1 => "[a-z]{3}[.:/ é-]{1,3}[a-z]{1,80}",
        1 => "[0-9][a-z]{0,10}",
    ]
}

/// Ids of tool calls.
fn any_id() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "call_[a-zA-Z0-9]{8}",
        1 => "[a-zA-Z0-9_-]{50,60}",
        1 => "functions\\.[a-z]{1,8}:[0-9]{1,3}",
    ]
}

fn any_image() -> impl Strategy<Value = Block<'static>> {
    let types = select(vec!["image/png", "image/jpeg", "image/webp", "image/gif"]);
    let data = select(vec!["iVBORw0KGgo=", "AAAA", "/9j/4AAQ", "R0lGODdh"]);
    (types, data).prop_map(|(media_type, data)| {
        Block::Image(Source::Inline {
            media_type: media_type.into(),
            data: data.into(),
        })
    })
}

fn raw(value: &Value) -> Cow<'static, RawValue> {
    Cow::Owned(to_raw_value(value).unwrap())
}

/// A schema as vendors want them: all members are required, and there are no others.
fn any_schema() -> impl Strategy<Value = Value> {
    let kinds = select(vec!["string", "integer", "boolean", "number"]);
    vec(("[a-z]{1,8}", kinds), 1..4).prop_map(|members| {
        let names: Vec<&String> = members.iter().map(|(name, _)| name).collect();
        let mut required = names.clone();
        required.sort();
        required.dedup();
        let properties: serde_json::Map<_, _> = members
            .iter()
            .map(|(name, kind)| (name.clone(), json!({"type": kind})))
            .collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    })
}

/// What the user says in one turn, and calls that the model answers with: each has a result in the next turn.
type Exchange = (
    Vec<Block<'static>>,
    Vec<String>,
    Vec<(String, String, String, Vec<Block<'static>>, bool)>,
);

fn any_exchange() -> impl Strategy<Value = Exchange> {
    let said = prop_oneof![4 => any_text().prop_map(|text| Block::Text(text.into())), 1 => any_image()];
    let result = vec(any_text().prop_map(|text| Block::Text(text.into())), 1..3);
    let called = (
        any_id(),
        "[a-z_]{1,20}",
        any_arguments(),
        result,
        prop::bool::weighted(0.1),
    );
    (vec(said, 1..4), vec(any_text(), 0..3), vec(called, 0..3))
}

/// Turns as every client sends them: results before what else the user says, calls behind what else the model says.
fn turns_of(exchanges: Vec<Exchange>) -> Vec<Turn<'static>> {
    let mut turns = Vec::new();
    let mut results: Vec<Block<'static>> = Vec::new();
    for (place, (said, answered, called)) in exchanges.into_iter().enumerate() {
        let mut blocks = std::mem::take(&mut results);
        blocks.extend(said);
        turns.push(Turn {
            role: Role::User,
            blocks,
        });
        let mut blocks: Vec<Block<'static>> = answered.into_iter().map(|text| Block::Text(text.into())).collect();
        for (order, (id, name, arguments, content, is_error)) in called.into_iter().enumerate() {
            let id = format!("{id}_{place}_{order}");
            blocks.push(Block::ToolCall(ToolCall {
                id: id.clone().into(),
                name: name.clone().into(),
                arguments: arguments.into(),
                signature: None,
            }));
            results.push(Block::ToolResult {
                id: id.into(),
                name: Some(name.into()),
                content,
                is_error,
            });
        }
        if !blocks.is_empty() {
            turns.push(Turn {
                role: Role::Assistant,
                blocks,
            });
        }
    }
    if !results.is_empty() {
        let blocks = results;
        turns.push(Turn {
            role: Role::User,
            blocks,
        });
    }
    turns
}

/// The turns with calls of the tools that there are.
fn called_by_name(mut turns: Vec<Turn<'static>>, tools: &[Tool<'static>]) -> Vec<Turn<'static>> {
    let names = tools.iter().filter_map(|tool| match tool {
        Tool::Function(function) => Some(&function.name),
        Tool::Opaque { .. } => None,
    });
    let mut names = names.cycle();
    for block in turns.iter_mut().flat_map(|turn| &mut turn.blocks) {
        if let Block::ToolCall(ToolCall { name, .. }) | Block::ToolResult { name: Some(name), .. } = block {
            *name = names.next().unwrap_or(name).clone();
        }
    }
    turns
}

fn any_number() -> impl Strategy<Value = Option<Number>> {
    option::weighted(
        0.3,
        (0u8..=8).prop_map(|eighths| Number::from_f64(f64::from(eighths) / 8.0).unwrap()),
    )
}

fn any_output() -> impl Strategy<Value = Output<'static>> {
    let schema = (any_schema(), option::of("[a-z]{1,10}")).prop_map(|(schema, name)| Output::Schema {
        name: name.map(Into::into),
        description: None,
        schema: raw(&schema),
        strict: Some(true),
    });
    prop_oneof![4 => Just(Output::Text), 1 => Just(Output::Json), 1 => schema]
}

/// Which of some tools must be called.
fn any_choice() -> impl Strategy<Value = Option<usize>> {
    option::weighted(0.5, 0usize..5)
}

fn choice_of(choice: Option<usize>, tools: &[Tool<'static>]) -> Option<ToolChoice<'static>> {
    let names = tools.iter().filter_map(|tool| match tool {
        Tool::Function(function) => Some(function.name.clone()),
        Tool::Opaque { .. } => None,
    });
    let names: Vec<Cow<'static, str>> = names.collect();
    let first = names.first()?.clone();
    Some(match choice? {
        0 => ToolChoice::Auto,
        1 => ToolChoice::None,
        2 => ToolChoice::Required,
        3 => ToolChoice::Named(first),
        _ => ToolChoice::Allowed { names, required: true },
    })
}

fn any_tools() -> impl Strategy<Value = Vec<Tool<'static>>> {
    let function = (any_name(), option::of(any_text()), any_schema());
    vec(function, 0..3).prop_map(|functions| {
        let mut known = Vec::new();
        let mut tools = Vec::new();
        for (name, description, schema) in functions {
            if known.contains(&name) {
                continue;
            }
            known.push(name.clone());
            tools.push(Tool::Function(Function {
                name: name.into(),
                description: description.map(Into::into),
                parameters: Some(raw(&schema)),
                strict: None,
            }));
        }
        tools
    })
}

/// A conversation that a client of any format could have.
fn any_conversation() -> impl Strategy<Value = Conversation<'static>> {
    let content = (
        vec(any_text(), 0..3),
        vec(any_exchange(), 1..4),
        any_tools(),
        any_choice(),
    );
    let sampling = (
        any_number(),
        any_number(),
        option::weighted(0.2, 1u64..64),
        option::weighted(0.2, any::<i32>()),
    );
    let limits = (
        option::weighted(0.5, 1u64..100_000),
        vec("[a-z]{1,8}", 0..3),
        any_output(),
        option::weighted(0.2, select(vec![Effort::Low, Effort::Medium, Effort::High])),
        option::weighted(0.2, any::<bool>()),
    );
    (content, sampling, limits).prop_map(|(content, sampling, limits)| {
        let (system, exchanges, tools, choice) = content;
        let (temperature, top_p, top_k, seed) = sampling;
        let (max_tokens, stop, output, effort, parallel_tools) = limits;
        Conversation {
            model: "model-1".into(),
            streaming: true,
            system: system.into_iter().map(|text| Block::Text(text.into())).collect(),
            turns: called_by_name(turns_of(exchanges), &tools),
            tool_choice: choice_of(choice, &tools),
            parallel_tools: parallel_tools.filter(|_| !tools.is_empty()),
            tools,
            max_tokens,
            temperature,
            top_p,
            top_k: top_k.map(Into::into),
            seed: seed.map(Into::into),
            stop: stop.into_iter().map(Into::into).collect(),
            output,
            effort,
            ..Conversation::default()
        }
    })
}

/// The events of a stream, from its bytes.
fn read_stream(format: Format, bytes: &[u8]) -> Vec<Event<'static>> {
    let mut decoder = format.decoder();
    let mut events = Vec::new();
    let mut sink = |event: Event<'_>| events.push(event.into_owned());
    if format == Format::Converse {
        let mut rest = bytes;
        while let Some((event, more)) = eventstream::split_first(rest).expect("whole messages") {
            decoder.event(&event, &mut sink).expect("events of our own");
            rest = more;
        }
    } else {
        for event in sse::events(bytes) {
            decoder.event(&event, &mut sink).expect("events of our own");
        }
    }
    events
}

fn write_stream(format: Format, events: &[Event<'_>]) -> Vec<u8> {
    let mut encoder = format.encoder(&asked());
    let mut out = Vec::new();
    events.iter().for_each(|event| encoder.event(event, &mut out));
    out
}

fn fold(events: &[Event<'_>]) -> Answer {
    let mut answer = Answer::default();
    events.iter().for_each(|event| answer.add(event));
    answer
}

fn read_answer(format: Format, body: &[u8]) -> Vec<Event<'static>> {
    let mut events = Vec::new();
    format
        .decode_answer(body, &mut |event| events.push(event.into_owned()))
        .expect("an answer of our own");
    events
}
