//! Bedrock's Converse, for Claude.

use serde_json::{Value, json};

use super::{Refusal, Verdict, is_word, list, repeated, text};

pub fn check(body: &Value) -> Verdict {
    let messages = list(&body["messages"]);
    if messages.first().is_some_and(|first| first["role"] != "user") {
        return refused(
            "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
        );
    }
    if messages.windows(2).any(|pair| pair[0]["role"] == pair[1]["role"]) {
        return refused(
            "A conversation must alternate between user and assistant roles. Make sure the conversation alternates between user and assistant roles and try again.",
        );
    }
    for (at, message) in messages.iter().enumerate() {
        blocks(at, list(&message["content"]))?;
    }
    tools(messages, body)
}

fn refused(message: &str) -> Verdict {
    Err(Refusal {
        status: 400,
        body: json!({"message": message, "__type": "ValidationException"}),
    })
}

fn blocks(at: usize, blocks: &[Value]) -> Verdict {
    let blank = blocks
        .iter()
        .position(|block| block["text"].as_str().is_some_and(|text| text.trim().is_empty()));
    if let Some(block) = blank {
        return refused(&format!(
            "The text field in the ContentBlock object at messages.{at}.content.{block} is blank. Add text to the text field, and try again."
        ));
    }
    let has_document = blocks.iter().any(|block| block.get("document").is_some());
    if has_document && !blocks.iter().any(|block| block.get("text").is_some()) {
        return refused("A text block must be included when using documents. Add a text block and retry your request.");
    }
    Ok(())
}

fn tools(messages: &[Value], body: &Value) -> Verdict {
    let all = || messages.iter().flat_map(|message| list(&message["content"]));
    let calls = || all().filter_map(|block| block.get("toolUse"));
    let results = || all().filter_map(|block| block.get("toolResult"));
    if (calls().next().is_some() || results().next().is_some()) && list(&body["toolConfig"]["tools"]).is_empty() {
        return refused("The toolConfig field must be defined when using toolUse and toolResult content blocks.");
    }
    for tool in list(&body["toolConfig"]["tools"]) {
        if tool["toolSpec"]["inputSchema"]["json"]["type"] != "object" {
            return refused(
                "The value at toolConfig.tools.0.toolSpec.inputSchema.json.type must be one of the following: object.",
            );
        }
    }
    for id in calls().chain(results()).map(|block| text(&block["toolUseId"])) {
        if !is_word(id, "_-.:", 64) {
            return refused(&format!(
                "Value '{id}' at 'toolUseId' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.:-]+"
            ));
        }
    }
    if repeated(calls().map(|call| text(&call["toolUseId"]))).is_some() {
        return refused("messages: `tool_use` ids must be unique");
    }
    for (at, pair) in messages.windows(2).enumerate() {
        let ids = |message: &Value, kind: &str| -> Vec<String> {
            let blocks = list(&message["content"]).iter().filter_map(|block| block.get(kind));
            blocks.map(|block| text(&block["toolUseId"]).to_owned()).collect()
        };
        let (called, answered) = (ids(&pair[0], "toolUse"), ids(&pair[1], "toolResult"));
        if let Some(missing) = called.iter().find(|id| !answered.contains(id)) {
            return refused(&format!(
                "Expected toolResult blocks at messages.{}.content for the following Ids: {missing}",
                at + 1
            ));
        }
        if answered.len() > called.len() {
            return refused(&format!(
                "The number of toolResult blocks at messages.{}.content exceeds the number of toolUse blocks of previous turn.",
                at + 1
            ));
        }
    }
    Ok(())
}
