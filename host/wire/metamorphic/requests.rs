//! Requests.

use super::super::loss::{Lossy, losses};
use super::*;

/// What is said in a conversation, in order, in terms that all formats have.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Text(Role, String),
    Image(Source<'static>),
    Call { id: String, name: String, arguments: Value },
    Result { id: String, text: String, is_error: bool },
}

/// What the blocks of a role say: neighbouring texts are one, since a format may join them.
fn said(conversation: &Conversation<'_>, original: impl Fn(&str) -> String) -> Vec<Said> {
    let mut all = Vec::new();
    let system = Turn {
        role: Role::System,
        blocks: conversation.system.clone(),
    };
    for turn in std::iter::once(&system).chain(&conversation.turns) {
        for block in &turn.blocks {
            add(&mut all, turn.role, block, &original);
        }
    }
    all
}

fn add(all: &mut Vec<Said>, role: Role, block: &Block<'_>, original: &impl Fn(&str) -> String) {
    match block {
        Block::Text(text) => match all.last_mut() {
            Some(Said::Text(last, before)) if *last == role => before.push_str(text),
            _ => all.push(Said::Text(role, text.to_string())),
        },
        Block::Image(Source::Inline { media_type, data }) => all.push(Said::Image(Source::Inline {
            media_type: media_type.to_string().into(),
            data: data.to_string().into(),
        })),
        Block::ToolCall(call) => all.push(Said::Call {
            id: call.id.to_string(),
            name: original(&call.name),
            arguments: serde_json::from_str(&call.arguments).expect("arguments are JSON"),
        }),
        Block::ToolResult {
            id, content, is_error, ..
        } => all.push(Said::Result {
            id: id.to_string(),
            text: texts(content),
            is_error: *is_error,
        }),
        other => panic!("nobody said {other:?}"),
    }
}

fn texts(blocks: &[Block<'_>]) -> String {
    let text = |block: &Block<'_>| match block {
        Block::Text(text) => text.to_string(),
        other => panic!("nobody said {other:?}"),
    };
    blocks.iter().map(text).collect()
}

/// Without line breaks, which formats put between texts that they join, and with ids by their order.
fn plain(mut said: Vec<Said>) -> Vec<Said> {
    let mut ids: Vec<String> = Vec::new();
    let mut order = |id: &mut String| {
        let known = ids.iter().position(|known| known == id).unwrap_or_else(|| {
            ids.push(id.clone());
            ids.len() - 1
        });
        *id = known.to_string();
    };
    for said in &mut said {
        match said {
            Said::Text(_, text) => text.retain(|c| c != '\n'),
            Said::Call { id, .. } => order(id),
            Said::Result { id, text, is_error } => {
                order(id);
                text.retain(|c| c != '\n');
                if *is_error && !text.starts_with("Error: ") {
                    text.insert_str(0, "Error: ");
                }
                *is_error = text.starts_with("Error: ");
            }
            Said::Image(_) => {}
        }
    }
    said
}

/// A conversation on its way to a vendor, and what the vendor reads.
fn sent(conversation: &Conversation<'_>, client: Format, vendor: Format) -> (Vec<u8>, Vec<(String, String)>) {
    let encoded = vendor
        .encode_request(conversation, &call(client))
        .expect("arguments are objects");
    (encoded.body, encoded.renamed)
}

/// A tool's name before it was sent.
fn original(renamed: &[(String, String)]) -> impl Fn(&str) -> String {
    move |name| {
        let known = renamed.iter().find(|(there, _)| there == name);
        known.map_or(name, |(_, here)| here).to_owned()
    }
}

/// Whether a loss of a field is told of whose name has one of these words.
fn is_told(losses: &[super::super::loss::Loss<'_>], words: &[&str]) -> bool {
    losses.iter().any(|loss| {
        let field = loss.field.to_ascii_lowercase();
        words.iter().any(|word| field.contains(word))
    })
}

/// What is asked for beside the words, and the words with which a loss of it is told.
fn asked_for(
    conversation: &Conversation<'_>,
    original: impl Fn(&str) -> String,
) -> Vec<(&'static [&'static str], String)> {
    // One, of temperature and `top_p`, is what no number is as well.
    let number = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
    let sampling = |it: &Option<Number>| format!("{:?}", number(it).filter(|it| *it != 1.0));
    let number = |it: &Option<Number>| format!("{:?}", number(it));
    let json = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).expect("raw JSON");
    let tools = conversation.functions().map(|function| {
        let parameters = function.parameters.as_deref().map(json);
        let description = function.description.as_deref().unwrap_or_default();
        format!("{} {description} {parameters:?}", original(&function.name))
    });
    let choice = conversation.tool_choice.clone().map(|choice| match choice {
        ToolChoice::Named(name) => format!("{:?}", (vec![original(&name)], true)),
        ToolChoice::Allowed { names, required } => {
            let names: Vec<String> = names.iter().map(|name| original(name)).collect();
            format!("{:?}", (names, required))
        }
        // Nothing said is the same.
        ToolChoice::Auto => String::new(),
        other => format!("{other:?}"),
    });
    // Where none may be called it does not matter how many.
    let one_at_a_time =
        conversation.parallel_tools == Some(false) && conversation.tool_choice != Some(ToolChoice::None);
    let output = match &conversation.output {
        Output::Text => "text".to_owned(),
        Output::Json => "json".to_owned(),
        Output::Schema { schema, .. } => json(schema).to_string(),
    };
    vec![
        (&["tool"], tools.collect::<Vec<_>>().join(" ")),
        (&["tool"], choice.unwrap_or_default()),
        (&["tool", "parallel"], one_at_a_time.to_string()),
        (&["max_tokens"], format!("{:?}", conversation.max_tokens)),
        (
            &["temperature", "generationconfig", "inferenceconfig"],
            sampling(&conversation.temperature),
        ),
        (
            &["top_p", "topp", "generationconfig", "inferenceconfig"],
            sampling(&conversation.top_p),
        ),
        (
            &["top_k", "topk", "generationconfig", "inferenceconfig"],
            number(&conversation.top_k),
        ),
        (&["seed"], number(&conversation.seed)),
        (&["stop"], format!("{:?}", conversation.stop)),
        (&["format", "response"], output),
        (
            &["effort", "thinking", "tool"],
            format!("{:?}", conversation.effort.filter(|effort| *effort != Effort::None)),
        ),
    ]
}

fn same_request(conversation: &Conversation<'_>, client: Format, vendor: Format) -> Result<(), TestCaseError> {
    let (body, renamed) = sent(conversation, client, vendor);
    let read = vendor.decode_request(&body).expect("a request of our own");
    let text = String::from_utf8_lossy(&body);
    let identity = |name: &str| name.to_owned();
    prop_assert_eq!(
        plain(said(&read, original(&renamed))),
        plain(said(conversation, identity)),
        "{:?} to {:?}: {}",
        client,
        vendor,
        text
    );
    let lost = losses(conversation, client, vendor, Lossy::Table);
    let before = asked_for(conversation, identity);
    let after = asked_for(&read, original(&renamed));
    for ((words, before), (_, after)) in before.into_iter().zip(after) {
        // Some formats want a limit even if the client has none, and tools where there were calls.
        let is_default = words == ["max_tokens"] && before == "None"
            || words[0] == "tool" && conversation.tools.is_empty() && conversation.has_tool_history();
        if !is_told(&lost, words) && !is_default {
            prop_assert_eq!(before, after, "{:?} from {:?} to {:?}: {}", words, client, vendor, text);
        }
    }
    prop_assert!(read.others.is_empty(), "{:?}: {}", read.others, text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What a client of each format can say arrives at a vendor of each format, but for what is told of.
    #[test]
    fn every_format_can_be_sent_as_every_other(conversation in any_conversation()) {
        for client in FORMATS {
            let (body, _) = sent(&conversation, client, client);
            let read = client.decode_request(&body).expect("a request of our own");
            for vendor in FORMATS {
                same_request(&read, client, vendor)?;
            }
        }
    }

    /// What went to another format and came back is what it was.
    #[test]
    fn there_and_back_again(conversation in any_conversation()) {
        for (here, there) in [(Format::OpenAiChat, Format::Messages), (Format::Responses, Format::OpenAiChat), (Format::Messages, Format::Converse)] {
            let (first, at_home) = sent(&conversation, here, here);
            let first_read = here.decode_request(&first).expect("a request of our own");
            let (abroad, renamed) = sent(&first_read, here, there);
            let abroad_read = there.decode_request(&abroad).expect("a request of our own");
            let (back, _) = sent(&abroad_read, there, here);
            let back_read = here.decode_request(&back).expect("a request of our own");
            let home = original(&at_home);
            let away = original(&renamed);
            prop_assert_eq!(
                plain(said(&back_read, |name| home(&away(name)))),
                plain(said(&first_read, &home)),
                "{:?} and {:?}", here, there
            );
        }
    }
}
