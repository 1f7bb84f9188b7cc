//! Mistral's chat completions, as `mistral-common` validates them and the API's errors tell.

use serde_json::{Value, json};

use super::{Refusal, Verdict, is_word, list, text};

pub fn check(body: &Value) -> Verdict {
    unknown_fields(body)?;
    let messages = list(&body["messages"]);
    order(messages)?;
    calls(messages)?;
    for tool in list(&body["tools"]) {
        name(text(&tool["function"]["name"]))?;
    }
    Ok(())
}

/// What the API takes, and nothing else.
const FIELDS: &[&str] = &[
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "stream",
    "stop",
    "random_seed",
    "metadata",
    "messages",
    "response_format",
    "tools",
    "tool_choice",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "prediction",
    "parallel_tool_calls",
    "prompt_mode",
    "reasoning_effort",
    "safe_prompt",
    "guardrails",
];

fn unknown_fields(body: &Value) -> Verdict {
    let names = body.as_object().into_iter().flat_map(|body| body.keys());
    match names.into_iter().find(|name| !FIELDS.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Refusal {
            status: 422,
            body: json!({"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]}),
        }),
    }
}

fn refused(kind: &str, code: &str, message: String) -> Verdict {
    Err(Refusal {
        status: 400,
        body: json!({"object": "error", "message": message, "type": kind, "param": null, "code": code}),
    })
}

fn order(messages: &[Value]) -> Verdict {
    for pair in messages.windows(2) {
        let [before, role] = [&pair[0], &pair[1]].map(|message| text(&message["role"]));
        let is_expected = match before {
            "tool" => matches!(role, "assistant" | "tool"),
            "assistant" => matches!(role, "assistant" | "user" | "tool"),
            _ => matches!(role, "user" | "assistant" | "system"),
        };
        if !is_expected {
            let message = format!("Unexpected role '{role}' after role '{before}'");
            return refused("invalid_request_message_order", "3230", message);
        }
    }
    match messages.last().map(|last| text(&last["role"])) {
        Some("user" | "tool") => Ok(()),
        last => {
            let message =
                format!("Expected last role User or Tool (or Assistant with prefix True) for serving but got {last:?}");
            refused("invalid_request_message_order", "3230", message)
        }
    }
}

fn calls(messages: &[Value]) -> Verdict {
    let mut open = 0;
    for message in messages {
        for call in list(&message["tool_calls"]) {
            id(text(&call["id"]))?;
            name(text(&call["function"]["name"]))?;
            open += 1;
        }
        if message["role"] == "tool" {
            id(text(&message["tool_call_id"]))?;
            open -= 1;
        } else if message["role"] != "assistant" && open != 0 {
            return refused(
                "invalid_request_message_order",
                "3230",
                "Not the same number of function calls and responses".to_owned(),
            );
        }
    }
    Ok(())
}

fn id(id: &str) -> Verdict {
    if is_word(id, "", 9) && id.len() == 9 {
        return Ok(());
    }
    let message = format!("Tool call id was {id} but must be a-z, A-Z, 0-9, with a length of 9.");
    refused("invalid_function_call", "3280", message)
}

fn name(name: &str) -> Verdict {
    if is_word(name, "_-", 64) {
        return Ok(());
    }
    let message = format!(
        "Function name was {name} but must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64."
    );
    refused("invalid_function_call", "3270", message)
}
