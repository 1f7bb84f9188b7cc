//! Simulated vendors are enough to try an application on: tools, schemas, several answers and embeddings, for clients of every format.

use serde_json::{Value, json};

use super::client::Answer;
use super::running::Gateway;
use super::setup::Setup;

fn gateway() -> Gateway {
    let sim = "[[target]]\nname = \"demo\"\nvendor = \"sim\"\nmodel = \"demo\"\n\
               sim = { latency_ms = 0, first_token_ms = 0, tokens_per_second = 100000, tokens = 8 }\n\
               [[route]]\nmodel = \"demo\"\ntargets = [\"demo\"]\n";
    Setup::new([&super::vendor::Vendor::start("unused", [])])
        .after(sim)
        .start()
}

fn post(gateway: &Gateway, path: &str, body: &Value) -> Answer {
    let answer = gateway.ask(&format!("POST {path}"), &[], &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    answer
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false})
}

#[test]
fn a_tool_that_must_be_called_is_called_in_every_format() {
    let gateway = gateway();
    let said = "What is the weather?";
    let chat = json!({"model": "demo", "messages": [{"role": "user", "content": said}], "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": schema()}}]});
    let answer = post(&gateway, "/v1/chat/completions", &chat).json();
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(
        *call,
        json!({"name": "weather", "arguments": r#"{"city":"sample city"}"#})
    );

    let messages = json!({"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": said}],
        "tool_choice": {"type": "any"}, "tools": [{"name": "weather", "input_schema": schema()}]});
    let answer = post(&gateway, "/v1/messages", &messages).json();
    assert_eq!(answer["stop_reason"], "tool_use");
    assert_eq!(answer["content"][0]["input"], json!({"city": "sample city"}));

    let responses = json!({"model": "demo", "input": said, "tool_choice": "required",
        "tools": [{"type": "function", "name": "weather", "parameters": schema(), "strict": false}]});
    let answer = post(&gateway, "/v1/responses", &responses).json();
    let output = answer["output"].as_array().unwrap();
    let call = output.iter().find(|item| item["type"] == "function_call").unwrap();
    assert_eq!(call["arguments"], r#"{"city":"sample city"}"#);

    let gemini = json!({"contents": [{"role": "user", "parts": [{"text": said}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "tools": [{"functionDeclarations": [{"name": "weather", "parametersJsonSchema": schema()}]}]});
    let answer = post(&gateway, "/v1beta/models/demo:generateContent", &gemini).json();
    let call = &answer["candidates"][0]["content"]["parts"][0]["functionCall"];
    assert_eq!(call["args"], json!({"city": "sample city"}));

    let converse = json!({"messages": [{"role": "user", "content": [{"text": said}]}],
        "toolConfig": {"toolChoice": {"any": {}}, "tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": schema()}}}]}});
    let answer = post(&gateway, "/model/demo/converse", &converse).json();
    let call = &answer["output"]["message"]["content"][0]["toolUse"];
    assert_eq!(call["input"], json!({"city": "sample city"}));
}

#[test]
fn a_schema_is_answered_with_an_instance_of_it() {
    let gateway = gateway();
    let format = json!({"type": "json_schema", "json_schema": {"name": "place", "strict": true, "schema": schema()}});
    let chat = json!({"model": "demo", "messages": [{"role": "user", "content": "Where?"}], "response_format": format});
    assert_eq!(
        post(&gateway, "/v1/chat/completions", &chat).says(),
        r#"{"city":"sample city"}"#
    );
    let messages = json!({"model": "demo", "max_tokens": 100, "messages": [{"role": "user", "content": "Where?"}],
        "output_config": {"format": {"type": "json_schema", "schema": schema()}}});
    let answer = post(&gateway, "/v1/messages", &messages).json();
    assert_eq!(answer["content"][0]["text"], r#"{"city":"sample city"}"#);
}

#[test]
fn embeddings_and_several_answers_are_there() {
    let gateway = gateway();
    let ask = json!({"model": "demo", "input": ["one", "two", "one"], "dimensions": 16});
    let answer = post(&gateway, "/v1/embeddings", &ask).json();
    let vector = |index: usize| &answer["data"][index]["embedding"];
    assert_eq!(vector(0).as_array().unwrap().len(), 16);
    assert_eq!(vector(0), vector(2));
    assert_ne!(vector(0), vector(1));
    let chat = json!({"model": "demo", "n": 2, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = post(&gateway, "/v1/chat/completions", &chat).json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
}
