//! What a vendor refuses although its format can say it is put in another way before it goes there: requests of clients of every format go
//! to vendors that refuse as the real ones do.

use serde_json::{Value, json};

use super::client::Answer;
use super::heard::Format;
use super::running::Gateway;
use super::setup::Setup;
use super::strict::Strict;
use super::vendor::Vendor;

/// A gateway whose one target is such a vendor.
fn gateway(strict: Strict) -> (Vendor, Gateway) {
    gateway_of(strict, "claude-haiku-4-5", "")
}

/// The same, for a model.
fn gateway_of(strict: Strict, model: &'static str, more: &str) -> (Vendor, Gateway) {
    let vendor = Vendor::start(strict.vendor(), [strict.script()]);
    let setup = Setup::new([&vendor])
        .model(vendor.name, model)
        .target(vendor.name, more)
        .vendor(vendor.name, strict.vendor())
        .target(vendor.name, "api_key = { env = \"STRICT_KEY\" }")
        .env("STRICT_KEY", "key-of-a-vendor");
    let gateway = setup.start();
    (vendor, gateway)
}

fn ask(gateway: &Gateway, client: Format, mut body: Value) -> Answer {
    if !matches!(client, Format::Gemini | Format::Converse) {
        body["model"] = json!("smart");
    }
    if client == Format::Messages {
        body["max_tokens"] = json!(1000);
    }
    gateway.ask(&client.line("smart", false), &[], &body.to_string())
}

/// Asks every vendor, and returns what each was sent.
fn every_vendor(client: Format, body: &Value) -> Vec<(Strict, Value)> {
    let ask_one = |strict: Strict| {
        let (vendor, gateway) = gateway(strict);
        let answer = ask(&gateway, client, body.clone());
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            answer.status == 200 && said.contains("understood"),
            "{client:?} to {strict:?}: {said}"
        );
        (strict, serde_json::from_slice(&vendor.only().body).unwrap())
    };
    Strict::ALL.into_iter().map(ask_one).collect()
}

/// Two rounds of tools whose calls have the same id, with words of the user behind the results of each.
fn repeated_ids(client: Format) -> Value {
    match client {
        Format::Chat => json!({"messages": [{"role": "user", "content": "weather and time"},
            {"role": "assistant", "content": null, "tool_calls": [chat_call("get_weather")]},
            {"role": "tool", "tool_call_id": "call_0", "content": "sunny"},
            {"role": "user", "content": "and now the time"},
            {"role": "assistant", "content": null, "tool_calls": [chat_call("get_time")]},
            {"role": "tool", "tool_call_id": "call_0", "content": "12:00"},
            {"role": "user", "content": "thanks"}],
            "tools": [chat_tool("get_weather"), chat_tool("get_time")]}),
        Format::Messages => {
            let call = |name: &str| json!({"role": "assistant", "content": [{"type": "tool_use", "id": "call_0", "name": name, "input": {}}]});
            let result = |says: &str, then: &str| {
                json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_0", "content": says}, {"type": "text", "text": then}]})
            };
            let tool = |name: &str| json!({"name": name, "input_schema": {"type": "object", "properties": {}}});
            json!({"messages": [{"role": "user", "content": "weather and time"}, call("get_weather"), result("sunny", "and now the time"),
                call("get_time"), result("12:00", "thanks")], "tools": [tool("get_weather"), tool("get_time")]})
        }
        Format::Converse => {
            let call = |name: &str| json!({"role": "assistant", "content": [{"toolUse": {"toolUseId": "call_0", "name": name, "input": {}}}]});
            let result = |says: &str, then: &str| {
                json!({"role": "user", "content": [
                {"toolResult": {"toolUseId": "call_0", "content": [{"text": says}]}}, {"text": then}]})
            };
            let tool = |name: &str| json!({"toolSpec": {"name": name, "description": "d", "inputSchema": {"json": {"type": "object"}}}});
            json!({"messages": [{"role": "user", "content": [{"text": "weather and time"}]}, call("get_weather"),
                result("sunny", "and now the time"), call("get_time"), result("12:00", "thanks")],
                "toolConfig": {"tools": [tool("get_weather"), tool("get_time")]}})
        }
        Format::Responses => {
            let call =
                |name: &str| json!({"type": "function_call", "call_id": "call_0", "name": name, "arguments": "{}"});
            let result = |says: &str| json!({"type": "function_call_output", "call_id": "call_0", "output": says});
            let tool = |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}});
            json!({"input": [{"role": "user", "content": "weather and time"}, call("get_weather"), result("sunny"),
                {"role": "user", "content": "and now the time"}, call("get_time"), result("12:00"), {"role": "user", "content": "thanks"}],
                "tools": [tool("get_weather"), tool("get_time")]})
        }
        Format::Gemini | Format::GeminiArray => {
            let call = |name: &str| json!({"role": "model", "parts": [{"functionCall": {"id": "call_0", "name": name, "args": {}}}]});
            let result = |name: &str, says: &str, then: &str| {
                json!({"role": "user", "parts": [
                {"functionResponse": {"id": "call_0", "name": name, "response": {"output": says}}}, {"text": then}]})
            };
            let tool = |name: &str| json!({"name": name, "parametersJsonSchema": {"type": "object", "properties": {}}});
            json!({"contents": [{"role": "user", "parts": [{"text": "weather and time"}]}, call("get_weather"),
                result("get_weather", "sunny", "and now the time"), call("get_time"), result("get_time", "12:00", "thanks")],
                "tools": [{"functionDeclarations": [tool("get_weather"), tool("get_time")]}]})
        }
    }
}

fn chat_call(name: &str) -> Value {
    json!({"id": "call_0", "type": "function", "function": {"name": name, "arguments": "{}"}})
}

fn chat_tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}})
}

#[test]
fn calls_whose_ids_repeat_are_taken_by_every_vendor() {
    for client in [
        Format::Chat,
        Format::Messages,
        Format::Converse,
        Format::Responses,
        Format::Gemini,
    ] {
        let own = |strict: Strict| {
            let own = [
                (Strict::Anthropic, Format::Messages),
                (Strict::Bedrock, Format::Converse),
                (Strict::Gemini, Format::Gemini),
                (Strict::OpenAi, Format::Responses),
            ];
            own.contains(&(strict, client))
        };
        for strict in Strict::ALL.into_iter().filter(|strict| !own(*strict)) {
            let (vendor, gateway) = gateway(strict);
            let answer = ask(&gateway, client, repeated_ids(client));
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(
                answer.status == 200 && said.contains("understood"),
                "{client:?} to {strict:?}: {said}"
            );
            let sent = vendor.only().body();
            for word in ["sunny", "and now the time", "12:00", "thanks"] {
                assert!(sent.contains(word), "{client:?} to {strict:?}: {word} in {sent}");
            }
        }
    }
}

#[test]
fn each_result_has_the_name_of_its_own_tool() {
    let (vendor, gateway) = gateway(Strict::Gemini);
    assert_eq!(ask(&gateway, Format::Chat, repeated_ids(Format::Chat)).status, 200);
    let sent: Value = serde_json::from_slice(&vendor.only().body).unwrap();
    let parts = sent["contents"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|content| content["parts"].as_array().unwrap());
    let results: Vec<_> = parts.filter_map(|part| part.get("functionResponse")).collect();
    let pairs: Vec<_> = results
        .iter()
        .map(|result| (&result["name"], &result["response"]["output"]))
        .collect();
    assert_eq!(
        pairs,
        [
            (&json!("get_weather"), &json!("sunny")),
            (&json!("get_time"), &json!("12:00"))
        ]
    );
}

#[test]
fn a_document_alone_is_taken() {
    let document = json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="}});
    let (_, gateway) = gateway(Strict::Bedrock);
    let body = json!({"messages": [{"role": "user", "content": [document]}]});
    let answer = ask(&gateway, Format::Messages, body);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

#[test]
fn instructions_alone_are_a_request() {
    let body = json!({"messages": [{"role": "system", "content": "Say hello."}]});
    for (strict, sent) in every_vendor(
        Format::Converse,
        &json!({"system": [{"text": "Say hello."}], "messages": []}),
    ) {
        assert!(sent.to_string().contains("Say hello."), "{strict:?}: {sent}");
    }
    let (vendor, gateway) = gateway(Strict::Gemini);
    assert_eq!(ask(&gateway, Format::Chat, body).status, 200);
    assert!(vendor.only().body().contains("Say hello."));
}

#[test]
fn a_user_that_is_a_person_is_not_named() {
    let body = json!({"user": "alice@example.com", "messages": [{"role": "user", "content": "hi"}]});
    let (vendor, gateway) = gateway(Strict::Anthropic);
    assert_eq!(ask(&gateway, Format::Chat, body).status, 200);
    let sent: Value = serde_json::from_slice(&vendor.only().body).unwrap();
    assert!(
        sent["metadata"]["user_id"].as_str().unwrap().starts_with("user_"),
        "{sent}"
    );
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.head.headers.iter();
    all.filter(|(name, _)| name == "x-pointsman-warnings")
        .map(|(_, value)| value.clone())
        .collect()
}

/// A schema with limits and an open object, as applications write them.
fn limited() -> Value {
    json!({"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2}}, "required": ["age", "tags"]})
}

#[test]
fn schemas_are_narrowed_to_what_each_vendor_takes() {
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": limited()}});
    let chat = json!({"messages": [{"role": "user", "content": "who?"}], "response_format": format});
    for strict in [Strict::Anthropic, Strict::Bedrock, Strict::Gemini, Strict::Mistral] {
        let (vendor, gateway) = gateway(strict);
        let answer = ask(&gateway, Format::Chat, chat.clone());
        assert_eq!(
            answer.status,
            200,
            "{strict:?}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        let is_compiled = matches!(strict, Strict::Anthropic | Strict::Bedrock);
        assert_eq!(
            warnings(&answer)
                .iter()
                .any(|warning| warning.starts_with("response_format: ")),
            is_compiled,
            "{strict:?}"
        );
        // Where it is not a keyword any more, the model still reads it.
        assert!(vendor.only().body().contains("maximum"), "{strict:?}");
    }
    // Anthropic's clients always mean schemas to be followed: OpenAI is asked for that where it can.
    let counted =
        json!({"type": "object", "properties": {"age": {"type": "integer", "maximum": 120}}, "required": ["age"]});
    let messages = json!({"messages": [{"role": "user", "content": "who?"}],
        "output_config": {"format": {"type": "json_schema", "schema": counted}}});
    let (vendor, gateway) = gateway(Strict::OpenAi);
    assert_eq!(ask(&gateway, Format::Messages, messages).status, 200);
    assert!(vendor.only().body().contains("\"strict\":true"));
}

#[test]
fn a_strict_schema_that_a_vendor_cannot_follow_is_asked_for_loosely() {
    let open = json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false});
    let messages = json!({"messages": [{"role": "user", "content": "who?"}],
        "tools": [{"name": "f", "strict": true, "input_schema": open}],
        "output_config": {"format": {"type": "json_schema", "schema": open}}});
    let (_, gateway) = gateway(Strict::OpenAi);
    let answer = ask(&gateway, Format::Messages, messages);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let warnings = warnings(&answer).join("; ");
    assert!(
        warnings.contains("output_config.format: ") && warnings.contains("tools: "),
        "{warnings}"
    );
}

#[test]
fn json_of_any_form_is_asked_for_in_words_where_there_is_no_other_way() {
    let body =
        json!({"messages": [{"role": "user", "content": "as JSON"}], "response_format": {"type": "json_object"}});
    for strict in [Strict::Anthropic, Strict::Bedrock] {
        let (vendor, gateway) = gateway(strict);
        assert_eq!(ask(&gateway, Format::Chat, body.clone()).status, 200);
        assert!(vendor.only().body().contains("one JSON object"), "{strict:?}");
    }
}

#[test]
fn tools_without_arguments_are_taken_by_every_vendor() {
    let body = json!({"messages": [{"role": "user", "content": "list"}], "tools": [{"name": "list", "input_schema": {"type": "object"}}]});
    for strict in [Strict::Bedrock, Strict::Gemini, Strict::Mistral, Strict::OpenAi] {
        let (_, gateway) = gateway(strict);
        let answer = ask(&gateway, Format::Messages, body.clone());
        assert_eq!(
            answer.status,
            200,
            "{strict:?}: {}",
            String::from_utf8_lossy(&answer.body)
        );
    }
    let untyped = json!({"messages": [{"role": "user", "content": "list"}],
        "tools": [{"type": "function", "function": {"name": "list", "parameters": {}}}]});
    for strict in [Strict::Anthropic, Strict::Bedrock] {
        let (_, gateway) = gateway(strict);
        let answer = ask(&gateway, Format::Chat, untyped.clone());
        assert_eq!(
            answer.status,
            200,
            "{strict:?}: {}",
            String::from_utf8_lossy(&answer.body)
        );
    }
}

#[test]
fn models_are_asked_to_think_as_they_can() {
    let effort = json!({"messages": [{"role": "user", "content": "hi"}], "reasoning_effort": "high", "max_completion_tokens": 4000});
    for (model, thinking, warns) in [
        ("claude-haiku-4-5", "enabled", false),
        ("claude-opus-4-8", "adaptive", false),
        ("claude-3-5-haiku", "", true),
        ("claude-next", "adaptive", false),
    ] {
        let (vendor, gateway) = gateway_of(Strict::Anthropic, model, "");
        let answer = ask(&gateway, Format::Chat, effort.clone());
        assert_eq!(answer.status, 200, "{model}: {}", String::from_utf8_lossy(&answer.body));
        let sent: Value = serde_json::from_slice(&vendor.only().body).unwrap();
        assert_eq!(
            sent["thinking"]["type"].as_str().unwrap_or_default(),
            thinking,
            "{model}"
        );
        assert_eq!(!warnings(&answer).is_empty(), warns, "{model}: {:?}", warnings(&answer));
    }
    let disabled = json!({"messages": [{"role": "user", "content": "hi"}], "thinking": {"type": "disabled"}});
    for model in ["gpt-4o", "o3", "gpt-5-mini", "gpt-5.4"] {
        let (_, gateway) = gateway_of(Strict::OpenAi, model, "");
        let answer = ask(&gateway, Format::Messages, disabled.clone());
        assert_eq!(answer.status, 200, "{model}: {}", String::from_utf8_lossy(&answer.body));
    }
}

#[test]
fn sampling_is_left_out_where_the_model_takes_none() {
    let sampled = json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "top_p": 0.9});
    for (strict, model, warned) in [
        (Strict::Anthropic, "claude-opus-4-8", "temperature: "),
        (Strict::Anthropic, "claude-sonnet-4-5", "top_p: "),
    ] {
        let (_, gateway) = gateway_of(strict, model, "");
        let answer = ask(&gateway, Format::Chat, sampled.clone());
        assert_eq!(answer.status, 200, "{model}: {}", String::from_utf8_lossy(&answer.body));
        assert!(
            warnings(&answer).iter().any(|warning| warning.starts_with(warned)),
            "{:?}",
            warnings(&answer)
        );
    }
    let (_, gateway) = gateway_of(Strict::OpenAi, "gpt-5", "");
    let messages = json!({"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5});
    assert_eq!(ask(&gateway, Format::Messages, messages).status, 200);
}

#[test]
fn tools_go_to_the_api_that_takes_them() {
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "f", "input_schema": {"type": "object"}}]});
    for (model, path) in [
        ("gpt-5.6", "/responses"),
        ("gpt-5.4", "/responses"),
        ("gpt-4o", "/chat/completions"),
    ] {
        let (vendor, gateway) = gateway_of(Strict::OpenAi, model, "");
        let answer = ask(&gateway, Format::Messages, body.clone());
        assert_eq!(answer.status, 200, "{model}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.json()["content"][0]["text"], "understood");
        assert!(
            vendor.only().head.line.contains(path),
            "{model}: {}",
            vendor.only().head.line
        );
    }
}

#[test]
fn a_target_may_say_what_its_model_can_do() {
    let can = "can = { thinking = \"effort\", sampling = \"none\" }";
    let (vendor, gateway) = gateway_of(Strict::OpenAi, "my-deployment", can);
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "output_config": {"effort": "high"}, "temperature": 0.5});
    let answer = ask(&gateway, Format::Messages, body);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let sent: Value = serde_json::from_slice(&vendor.only().body).unwrap();
    assert_eq!(
        (&sent["reasoning_effort"], sent.get("temperature")),
        (&json!("high"), None)
    );
}
