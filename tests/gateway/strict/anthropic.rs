//! Anthropic's messages.

use serde_json::{Value, json};

use super::{Refusal, Verdict, is_word, list, repeated, text};

pub fn check(body: &Value) -> Verdict {
    let messages = list(&body["messages"]);
    if messages.is_empty() {
        return refused("messages: at least one message is required");
    }
    if !body["max_tokens"].is_u64() {
        return refused("max_tokens: Field required");
    }
    user(text(&body["metadata"]["user_id"]))?;
    model(body)?;
    let format = &body["output_config"]["format"];
    if format["type"] == "json_schema" {
        schema(&format["schema"]).or_else(|why| refused(&format!("output_config.format.schema: {why}")))?;
    }
    for tool in list(&body["tools"]) {
        if tool["input_schema"]["type"] != "object" {
            return refused("tools.0.custom.input_schema.type: Field required");
        }
        if tool["strict"] == true {
            schema(&tool["input_schema"]).or_else(|why| refused(&format!("tools.0.custom: {why}")))?;
        }
    }
    let calls = || messages.iter().flat_map(|message| of_type(message, "tool_use"));
    if let Some(id) = calls().map(|call| text(&call["id"])).find(|id| !is_word(id, "_-", 64)) {
        return refused(&format!(
            "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$' ({id})"
        ));
    }
    if repeated(calls().map(|call| text(&call["id"]))).is_some() {
        return refused("messages.3.content.0: `tool_use` ids must be unique");
    }
    for (at, message) in messages.iter().enumerate() {
        results(at, message, messages.get(at.wrapping_sub(1)), messages.get(at + 1))?;
    }
    Ok(())
}

fn refused(message: &str) -> Verdict {
    Err(Refusal {
        status: 400,
        body: json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}, "request_id": "req_1"}),
    })
}

fn of_type<'m>(message: &'m Value, kind: &'static str) -> impl Iterator<Item = &'m Value> {
    list(&message["content"])
        .iter()
        .filter(move |block| block["type"] == kind)
}

fn user(id: &str) -> Verdict {
    match id.contains('@') {
        true => refused("metadata.user_id: user_id appears to contain an email address"),
        false => Ok(()),
    }
}

/// Every call has its result in the next message, and every result its call in the one before.
fn results(at: usize, message: &Value, before: Option<&Value>, after: Option<&Value>) -> Verdict {
    let ids = |message: Option<&Value>, kind: &'static str, field: &str| -> Vec<String> {
        let blocks = message.into_iter().flat_map(|message| of_type(message, kind));
        blocks.map(|block| text(&block[field]).to_owned()).collect()
    };
    let answered = ids(after, "tool_result", "tool_use_id");
    if let Some(id) = ids(Some(message), "tool_use", "id")
        .iter()
        .find(|id| !answered.contains(id))
    {
        return refused(&format!(
            "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {id}. Each `tool_use` block must have a corresponding `tool_result` block in the next message."
        ));
    }
    let called = ids(before, "tool_use", "id");
    if let Some(id) = ids(Some(message), "tool_result", "tool_use_id")
        .iter()
        .find(|id| !called.contains(id))
    {
        return refused(&format!(
            "messages.{at}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
        ));
    }
    Ok(())
}

/// Keywords that are refused by type.
const REFUSED: [(&str, &[&str]); 4] = [
    (
        "integer",
        &[
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ],
    ),
    (
        "number",
        &[
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ],
    ),
    ("string", &["minLength", "maxLength"]),
    ("array", &["maxItems", "uniqueItems"]),
];

fn schema(schema_of: &Value) -> Result<(), String> {
    let kind = text(&schema_of["type"]);
    if kind == "object" && schema_of["additionalProperties"] != false {
        return Err("For 'object' type, 'additionalProperties' must be explicitly set to false".to_owned());
    }
    if schema_of.get("oneOf").is_some() {
        return Err("Schema type 'oneOf' is not supported".to_owned());
    }
    let refused = REFUSED
        .iter()
        .filter(|(known, _)| *known == kind)
        .flat_map(|(_, keywords)| *keywords);
    let found: Vec<&str> = refused
        .filter(|keyword| schema_of.get(**keyword).is_some())
        .copied()
        .collect();
    if !found.is_empty() {
        return Err(format!(
            "For '{kind}' type, properties {} are not supported",
            found.join(", ")
        ));
    }
    if schema_of["minItems"].as_u64().is_some_and(|least| least > 1) {
        return Err("For 'array' type, 'minItems' values other than 0 or 1 are not supported".to_owned());
    }
    let members = schema_of["properties"]
        .as_object()
        .into_iter()
        .flat_map(|members| members.values());
    let parts = members.chain(schema_of.get("items")).chain(list(&schema_of["anyOf"]));
    parts.into_iter().try_for_each(schema)
}

/// What the model itself refuses.
fn model(body: &Value) -> Verdict {
    let name = text(&body["model"]);
    let (thinking, effort) = (text(&body["thinking"]["type"]), &body["output_config"]["effort"]);
    let is_old = ["claude-3-5", "claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-1"]
        .iter()
        .any(|old| name.starts_with(old));
    let samples = |field: &str| !body[field].is_null();
    if is_old && thinking == "adaptive" {
        return refused("adaptive thinking is not supported on this model");
    }
    if is_old && !effort.is_null() {
        return refused("This model does not support the effort parameter.");
    }
    if name.starts_with("claude-3-5") && thinking == "enabled" {
        return refused("thinking is not supported on this model");
    }
    if !is_old && thinking == "enabled" {
        return refused(
            "thinking.type.enabled is not supported for this model. Use thinking.type.adaptive and output_config.effort to control thinking behavior.",
        );
    }
    if thinking == "enabled" && body["thinking"]["budget_tokens"].as_u64() >= body["max_tokens"].as_u64() {
        return refused("`max_tokens` must be greater than `thinking.budget_tokens`.");
    }
    if !is_old && ["temperature", "top_p", "top_k"].into_iter().any(samples) {
        return refused("`temperature` is deprecated for this model.");
    }
    if is_old && name.contains("4-") && samples("temperature") && samples("top_p") {
        return refused("`temperature` and `top_p` cannot both be specified for this model. Please use only one.");
    }
    Ok(())
}
