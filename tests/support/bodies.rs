//! Bodies that take as much of whoever reads them as they can: requests and answers in every format, of so many bytes.

use pointsman::wire::Format;
use pointsman::wire::shape::Limits;

/// The formats of clients and vendors.
pub const FORMATS: [Format; 5] = [
    Format::OpenAiChat,
    Format::Responses,
    Format::Messages,
    Format::Gemini,
    Format::Converse,
];

/// A body and what it is.
pub struct Body {
    /// What is peculiar about it.
    pub name: &'static str,
    /// JSON.
    pub json: String,
}

/// Requests of about so many bytes.
pub fn requests(format: Format, bytes: usize) -> Vec<Body> {
    let write = Writer(format);
    let most = Limits::default().items_of(bytes) - 8;
    let long = |beside: usize| "x".repeat(bytes.saturating_sub(beside));
    let many = |one: &str| repeated(one, bytes);
    let say = |parts: &str| write.request(&write.message("user", parts), "");
    // As many items as may be there, and a text that makes up for the rest of the bytes they need.
    let dense = |one: &str, count: usize| vec![one; count].join(",");
    let parts = dense(&write.text("a"), most);
    let messages = dense(&write.message("user", &write.text("a")), most / 2);
    let turns = dense(
        &[
            write.message("user", &write.text("a")),
            write.message("assistant", &write.text("b")),
        ]
        .join(","),
        most / 4,
    );
    let calls = write.calls(most / 4);
    let tools = dense(&write.tool("{}"), most);
    let with_text = |messages: &str, more: &str| {
        let text = write.message("user", &write.text(&long(messages.len() + more.len())));
        write.request(&format!("{messages},{text}"), more)
    };
    let hello = write.message("user", &write.text("hello"));
    let numbers = |open: &str, close: &str| format!("{open}{}{close}", many("1"));
    let body = |name, json| Body { name, json };
    vec![
        body("parts that are numbers", say(&many("1"))),
        body("parts that are empty", say(&many("{}"))),
        body("messages that are empty", write.request(&many("{}"), "")),
        body("too many short parts", say(&many(&write.text("a")))),
        body(
            "as many parts as there may be",
            with_text(&write.message("user", &parts), ""),
        ),
        body("as many messages as there may be", with_text(&messages, "")),
        body("as many turns as there may be", with_text(&turns, "")),
        body("as many calls and results as there may be", with_text(&calls, "")),
        body("as many tools as there may be", with_text(&hello, &write.tools(&tools))),
        body(
            "too many stop texts",
            write.request(&hello, &write.stops(&many("\"a\""))),
        ),
        body(
            "as many stop texts as there may be",
            with_text(&hello, &write.stops(&dense("\"a\"", most))),
        ),
        body(
            "metadata of many members",
            write.request(&hello, &write.metadata(&members("\"\"", bytes))),
        ),
        body(
            "metadata of long members",
            write.request(&hello, &write.metadata(&format!("\"a\":\"{}\"", long(0)))),
        ),
        body(
            "fields that nobody knows",
            write.request(&hello, &format!(",{}", members("1", bytes))),
        ),
        body(
            "a field with a long name",
            write.request(&hello, &format!(",\"{}\":1", long(0))),
        ),
        body(
            "a deep field",
            write.request(
                &hello,
                &numbers(",\"deep\":", "")
                    .replace(",1", "[")
                    .replacen("1", &"[".repeat(9), 1),
            ),
        ),
        body(
            "a list that nobody knows",
            write.request(&hello, &numbers(",\"list\":[", "]")),
        ),
        body("a long text", say(&write.text(&long(0)))),
        body("a text in escapes", say(&write.text(&"\\u0061".repeat(bytes / 6)))),
        body("a text of quotes", say(&write.text(&"\\\"".repeat(bytes / 2)))),
        body("a picture", say(&write.picture(&long(0)))),
        body(
            "a schema of numbers",
            write.request(
                &hello,
                &write.tools(&write.tool(&numbers("{\"type\":\"OBJECT\",\"enum\":[", "]}"))),
            ),
        ),
        body(
            "a schema without a type",
            write.request(&hello, &write.tools(&write.tool(&numbers("{\"enum\":[", "]}")))),
        ),
        body(
            "arguments of numbers",
            write.request(&write.call(&numbers("{\"a\":[", "]}")), ""),
        ),
        body(
            "arguments of texts",
            write.request(&write.call(&format!("{{\"a\":[{}]}}", many("\"\""))), ""),
        ),
        body(
            "a result of numbers",
            write.request(&write.result(&numbers("[", "]")), ""),
        ),
    ]
}

/// Answers of about so many bytes.
pub fn answers(format: Format, bytes: usize) -> Vec<Body> {
    let write = Writer(format);
    let most = Limits::default().items_of(bytes) - 8;
    let long = |beside: usize| "x".repeat(bytes.saturating_sub(beside));
    let many = |one: &str| repeated(one, bytes);
    let dense = |one: &str| {
        let parts = vec![one; most / 2].join(",");
        let text = write.said(&long(parts.len()));
        write.answer(&format!("{parts},{text}"))
    };
    let numbers = |open: &str, close: &str| format!("{open}{}{close}", many("1"));
    let body = |name, json| Body { name, json };
    vec![
        body("parts that are numbers", write.answer(&many("1"))),
        body("parts that are empty", write.answer(&many("{}"))),
        body("as many texts as there may be", dense(&write.said("a"))),
        body("as many calls as there may be", dense(&write.called("{}"))),
        body("a long text", write.answer(&write.said(&long(0)))),
        body("a text of quotes", write.answer(&write.said(&"\\\"".repeat(bytes / 2)))),
        body(
            "arguments of numbers",
            write.answer(&write.called(&numbers("{\"a\":[", "]}"))),
        ),
        body(
            "arguments of lines",
            write.answer(&write.called(&numbers("{\"a\":[", "\n]}"))),
        ),
        body(
            "a part that nobody knows",
            write.answer(&numbers("{\"type\":\"new\",\"new\":[", "]}")),
        ),
        body("answers side by side", write.choices(&many("{}"))),
        body("fields that nobody knows", format!("{{{}}}", members("1", bytes))),
    ]
}

fn repeated(one: &str, bytes: usize) -> String {
    vec![one; (bytes / (one.len() + 1)).max(1)].join(",")
}

fn members(value: &str, bytes: usize) -> String {
    let mut members = String::with_capacity(bytes + 32);
    let mut at = 0;
    while members.len() < bytes {
        let comma = if at == 0 { "" } else { "," };
        members.push_str(&format!("{comma}\"{at}\":{value}"));
        at += 1;
    }
    members
}

/// The words of a format.
struct Writer(Format);

impl Writer {
    fn request(&self, messages: &str, more: &str) -> String {
        match self.0 {
            Format::Responses => format!(r#"{{"model":"m","input":[{messages}]{more}}}"#),
            Format::Gemini => format!(r#"{{"contents":[{messages}]{more}}}"#),
            _ => format!(r#"{{"model":"m","messages":[{messages}]{more}}}"#),
        }
    }

    fn message(&self, role: &str, parts: &str) -> String {
        match (self.0, role) {
            (Format::Gemini, "assistant") => format!(r#"{{"role":"model","parts":[{parts}]}}"#),
            (Format::Gemini, _) => format!(r#"{{"role":"user","parts":[{parts}]}}"#),
            _ => format!(r#"{{"role":"{role}","content":[{parts}]}}"#),
        }
    }

    fn text(&self, text: &str) -> String {
        match self.0 {
            Format::Responses => format!(r#"{{"type":"input_text","text":"{text}"}}"#),
            Format::Gemini | Format::Converse => format!(r#"{{"text":"{text}"}}"#),
            _ => format!(r#"{{"type":"text","text":"{text}"}}"#),
        }
    }

    fn picture(&self, data: &str) -> String {
        match self.0 {
            Format::OpenAiChat => {
                format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#)
            }
            Format::Responses => format!(r#"{{"type":"input_image","image_url":"data:image/png;base64,{data}"}}"#),
            Format::Messages => {
                format!(r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}}"#)
            }
            Format::Gemini => format!(r#"{{"inlineData":{{"mimeType":"image/png","data":"{data}"}}}}"#),
            _ => format!(r#"{{"image":{{"format":"png","source":{{"bytes":"{data}"}}}}}}"#),
        }
    }

    /// So many calls, and the result of each.
    fn calls(&self, count: usize) -> String {
        let both = |call: String, result: String| {
            let calls = vec![call; count].join(",");
            let results = vec![result; count].join(",");
            (calls, results)
        };
        let (calls, results) = both(self.bare_call("{}"), self.bare_result("\"x\""));
        match self.0 {
            Format::OpenAiChat => format!(r#"{{"role":"assistant","tool_calls":[{calls}]}},{results}"#),
            Format::Responses => format!("{calls},{results}"),
            _ => [self.message("assistant", &calls), self.message("user", &results)].join(","),
        }
    }

    /// A message with one call.
    fn call(&self, arguments: &str) -> String {
        let call = self.bare_call(arguments);
        match self.0 {
            Format::OpenAiChat => format!(r#"{{"role":"assistant","tool_calls":[{call}]}}"#),
            Format::Responses => call,
            _ => self.message("assistant", &call),
        }
    }

    fn bare_call(&self, arguments: &str) -> String {
        let text = || serde_json::Value::from(arguments).to_string();
        match self.0 {
            Format::OpenAiChat => format!(r#"{{"id":"1","function":{{"name":"f","arguments":{}}}}}"#, text()),
            Format::Responses => {
                format!(
                    r#"{{"type":"function_call","call_id":"1","name":"f","arguments":{}}}"#,
                    text()
                )
            }
            Format::Messages => format!(r#"{{"type":"tool_use","id":"1","name":"f","input":{arguments}}}"#),
            Format::Gemini => format!(r#"{{"functionCall":{{"name":"f","args":{arguments}}}}}"#),
            _ => format!(r#"{{"toolUse":{{"toolUseId":"1","name":"f","input":{arguments}}}}}"#),
        }
    }

    /// A message with one result.
    fn result(&self, json: &str) -> String {
        let text = serde_json::Value::from(json).to_string();
        let result = match self.0 {
            Format::Gemini | Format::Converse => self.bare_result(json),
            _ => self.bare_result(&text),
        };
        match self.0 {
            Format::OpenAiChat | Format::Responses => result,
            _ => self.message("user", &result),
        }
    }

    fn bare_result(&self, json: &str) -> String {
        match self.0 {
            Format::OpenAiChat => format!(r#"{{"role":"tool","tool_call_id":"1","content":{json}}}"#),
            Format::Responses => format!(r#"{{"type":"function_call_output","call_id":"1","output":{json}}}"#),
            Format::Messages => format!(r#"{{"type":"tool_result","tool_use_id":"1","content":{json}}}"#),
            Format::Gemini => format!(r#"{{"functionResponse":{{"name":"f","response":{{"a":{json}}}}}}}"#),
            _ => format!(r#"{{"toolResult":{{"toolUseId":"1","content":[{{"json":{json}}}]}}}}"#),
        }
    }

    fn tool(&self, schema: &str) -> String {
        match self.0 {
            Format::OpenAiChat => format!(r#"{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}"#),
            Format::Responses => format!(r#"{{"type":"function","name":"f","parameters":{schema}}}"#),
            Format::Messages => format!(r#"{{"name":"f","input_schema":{schema}}}"#),
            Format::Gemini => format!(r#"{{"functionDeclarations":[{{"name":"f","parameters":{schema}}}]}}"#),
            _ => format!(r#"{{"toolSpec":{{"name":"f","inputSchema":{{"json":{schema}}}}}}}"#),
        }
    }

    fn tools(&self, tools: &str) -> String {
        match self.0 {
            Format::Converse => format!(r#","toolConfig":{{"tools":[{tools}]}}"#),
            _ => format!(r#","tools":[{tools}]"#),
        }
    }

    fn stops(&self, texts: &str) -> String {
        match self.0 {
            Format::OpenAiChat => format!(r#","stop":[{texts}]"#),
            Format::Responses => format!(r#","include":[{texts}]"#),
            Format::Messages => format!(r#","stop_sequences":[{texts}]"#),
            Format::Gemini => format!(r#","generationConfig":{{"stopSequences":[{texts}]}}"#),
            _ => format!(r#","inferenceConfig":{{"stopSequences":[{texts}]}}"#),
        }
    }

    fn metadata(&self, members: &str) -> String {
        match self.0 {
            Format::Gemini => format!(r#","labels":{{{members}}}"#),
            Format::Converse => format!(r#","requestMetadata":{{{members}}}"#),
            _ => format!(r#","metadata":{{{members}}}"#),
        }
    }

    fn answer(&self, parts: &str) -> String {
        match self.0 {
            Format::OpenAiChat => format!(
                r#"{{"id":"a","choices":[{{"index":0,"message":{{"role":"assistant","content":[{parts}],"tool_calls":[{parts}]}},"finish_reason":"stop"}}]}}"#
            ),
            Format::Responses => format!(
                r#"{{"id":"a","status":"completed","output":[{{"type":"message","content":[{parts}]}},{parts}]}}"#
            ),
            Format::Messages => {
                format!(r#"{{"id":"a","type":"message","content":[{parts}],"stop_reason":"end_turn"}}"#)
            }
            Format::Gemini => {
                format!(r#"{{"candidates":[{{"content":{{"parts":[{parts}]}},"finishReason":"STOP"}}]}}"#)
            }
            _ => format!(
                r#"{{"output":{{"message":{{"role":"assistant","content":[{parts}]}}}},"stopReason":"end_turn"}}"#
            ),
        }
    }

    fn said(&self, text: &str) -> String {
        match self.0 {
            Format::Responses => format!(r#"{{"type":"output_text","text":"{text}"}}"#),
            _ => self.text(text),
        }
    }

    fn called(&self, arguments: &str) -> String {
        self.bare_call(arguments)
    }

    fn choices(&self, choices: &str) -> String {
        let name = match self.0 {
            Format::Gemini => "candidates",
            Format::OpenAiChat => "choices",
            Format::Responses => "output",
            _ => "content",
        };
        format!(r#"{{"{name}":[{choices}]}}"#)
    }
}
