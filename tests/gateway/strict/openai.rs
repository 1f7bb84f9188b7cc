//! OpenAI's chat completions and responses, as far as schemas go.

use serde_json::{Value, json};

use super::{Refusal, Verdict, list, text};

pub fn check(body: &Value) -> Verdict {
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
