//! OpenAI's chat completions and responses, as far as schemas go.

use serde_json::{Value, json};

use super::{Refusal, Verdict, list, text};

pub fn check(line: &str, body: &Value) -> Verdict {
    model(line.contains("/chat/completions"), body)?;
    let chat = list(&body["tools"]).iter().filter_map(|tool| tool.get("function"));
    let flat = list(&body["tools"])
        .iter()
        .filter(|tool| tool.get("parameters").is_some());
    for function in chat.chain(flat) {
        let (name, parameters) = (text(&function["name"]), &function["parameters"]);
        if !parameters.is_null() && parameters.get("properties").is_none() {
            return refused(
                "tools[0].function.parameters",
                "invalid_function_parameters",
                format!("Invalid schema for function '{name}': In context=(), object schema missing properties."),
            );
        }
        if function["strict"] == true {
            strict(parameters, &format!("function '{name}'"))?;
        }
    }
    let format = &body["response_format"]["json_schema"];
    match format["strict"] == true {
        true => strict(
            &format["schema"],
            &format!("response_format '{}'", text(&format["name"])),
        ),
        false => Ok(()),
    }
}

fn refused(param: &str, code: &str, message: String) -> Verdict {
    Err(Refusal {
        status: 400,
        body: json!({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}),
    })
}

/// Strict mode wants every object closed and every member required.
fn strict(schema: &Value, place: &str) -> Verdict {
    let wrong = |what: &str| {
        refused(
            "response_format",
            "invalid_json_schema",
            format!("Invalid schema for {place}: In context=(), {what}"),
        )
    };
    if schema["type"] == "object" {
        if schema["additionalProperties"] != false {
            return wrong("'additionalProperties' is required to be supplied and to be false.");
        }
        let required = list(&schema["required"]);
        let missing = schema["properties"]
            .as_object()
            .into_iter()
            .flat_map(|all| all.keys())
            .find(|name| !required.contains(&json!(name)));
        if let Some(name) = missing {
            return wrong(&format!(
                "'required' is required to be supplied and to be an array including every key in properties. Missing '{name}'."
            ));
        }
    }
    let members = schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(|members| members.values());
    let parts = members.chain(schema.get("items")).chain(list(&schema["anyOf"]));
    parts.into_iter().try_for_each(|part| strict(part, place))
}

/// What the model itself refuses.
fn model(is_chat: bool, body: &Value) -> Verdict {
    let name = text(&body["model"]);
    let effort = body["reasoning_effort"]
        .as_str()
        .or(body["reasoning"]["effort"].as_str());
    let unsupported = |param: &str| {
        refused(
            param,
            "unsupported_parameter",
            format!("Unsupported parameter: '{param}' is not supported with this model."),
        )
    };
    if name.starts_with("gpt-4") {
        return if effort.is_some() {
            unsupported("reasoning_effort")
        } else {
            Ok(())
        };
    }
    if ["o3", "gpt-5-mini"].contains(&name) && effort == Some("none") {
        return refused(
            "reasoning_effort",
            "unsupported_value",
            "Unsupported value: 'reasoning_effort' does not support 'none' with this model.".to_owned(),
        );
    }
    if let Some(param) = ["temperature", "top_p"]
        .into_iter()
        .find(|param| !body[*param].is_null())
    {
        return unsupported(param);
    }
    let has_tools = !list(&body["tools"]).is_empty();
    if is_chat
        && has_tools
        && (name.starts_with("gpt-5.6")
            || (name.starts_with("gpt-5.4") && effort.is_some_and(|effort| effort != "none")))
    {
        let message = format!(
            "Function tools with reasoning_effort are not supported for {name} in /v1/chat/completions. Please use /v1/responses instead."
        );
        return refused("reasoning_effort", "unsupported_parameter", message);
    }
    Ok(())
}
