//! Gemini's `generateContent`.

use serde_json::{Value, json};

use super::{Refusal, Verdict, list, text};

pub fn check(body: &Value) -> Verdict {
    let contents = list(&body["contents"]);
    if contents.is_empty() {
        return refused("* GenerateContentRequest.contents: contents is not specified\n");
    }
    for (at, content) in contents.iter().enumerate() {
        if !["user", "model"].contains(&text(&content["role"])) {
            return refused("Please use a valid role: user, model.");
        }
        if list(&content["parts"]).is_empty() {
            return refused(&format!(
                "* GenerateContentRequest.contents[{at}].parts: contents.parts must not be empty.\n"
            ));
        }
    }
    contents.windows(2).try_for_each(|pair| round(&pair[0], &pair[1]))
}

fn refused(message: &str) -> Verdict {
    Err(Refusal {
        status: 400,
        body: json!({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}),
    })
}

/// Every call of a turn has its response in the next one, under its tool's name.
fn round(calls: &Value, responses: &Value) -> Verdict {
    let names = |content: &Value, kind: &str| -> Vec<String> {
        let parts = list(&content["parts"]).iter().filter_map(|part| part.get(kind));
        parts.map(|call| text(&call["name"]).to_owned()).collect()
    };
    let (called, answered) = (names(calls, "functionCall"), names(responses, "functionResponse"));
    if called.len() != answered.len() {
        return refused(
            "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn.",
        );
    }
    let (mut called, mut answered) = (called, answered);
    called.sort();
    answered.sort();
    // Google itself does not look at the names; its model does.
    match called == answered {
        true => Ok(()),
        false => refused(&format!("responses of {answered:?} to calls of {called:?}")),
    }
}
