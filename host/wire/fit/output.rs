//! The form that an answer is to have.

use super::schema::{self, Unsupported};
use super::{Change, Rules, Schemas};
use crate::conversation::{Block, Conversation, Output};
use crate::wire::loss::Feature;

const LOOSER: &str = "keywords that the vendor's schemas do not have went into descriptions";
const INSTRUCTED: &str = "the vendor takes no schema of this kind; it became an instruction";
const NOT_STRICT: &str = "the vendor's strict mode does not take this schema; the vendor does not promise to follow it";

/// What a model is told where there is no other way to ask it for JSON.
const ONLY_JSON: &str = "Answer with one JSON object and nothing else: no Markdown, no explanation.";

/// Asks for the form of the answer in the way that the vendor takes.
pub(super) fn fit(conversation: &mut Conversation<'_>, rules: &Rules, changes: &mut Vec<Change>) {
    match std::mem::take(&mut conversation.output) {
        Output::Json if !rules.json_mode => instruct(conversation, ONLY_JSON.to_owned()),
        output @ Output::Schema { .. } => match rules.schemas {
            Schemas::All => conversation.output = output,
            Schemas::StrictOrLoose => conversation.output = strict_or_loose(output, changes),
            Schemas::Compiled => compiled(conversation, output, changes),
        },
        output => conversation.output = output,
    }
}

fn instruct(conversation: &mut Conversation<'_>, instruction: String) {
    conversation.system.push(Block::Text(instruction.into()));
}

fn strict_or_loose<'a>(mut output: Output<'a>, changes: &mut Vec<Change>) -> Output<'a> {
    let Output::Schema { schema, strict, .. } = &mut output else {
        return output;
    };
    if *strict == Some(false) {
        return output;
    }
    match schema::for_strict_openai(schema) {
        Some(closed) => {
            *schema = std::borrow::Cow::Owned(closed);
            *strict = Some(true);
        }
        None => {
            *strict = Some(false);
            changes.push(lost(NOT_STRICT));
        }
    }
    output
}

fn compiled<'a>(conversation: &mut Conversation<'a>, mut output: Output<'a>, changes: &mut Vec<Change>) {
    let Output::Schema { schema, .. } = &mut output else {
        return;
    };
    match schema::for_anthropic(schema) {
        Ok(None) => conversation.output = output,
        Ok(Some(narrowed)) => {
            *schema = std::borrow::Cow::Owned(narrowed.schema);
            if narrowed.is_looser {
                changes.push(lost(LOOSER));
            }
            conversation.output = output;
        }
        Err(Unsupported::Reference | Unsupported::TooComplex) => {
            let instruction = format!("{ONLY_JSON} It must follow this JSON schema:\n{}", schema.get());
            instruct(conversation, instruction);
            changes.push(lost(INSTRUCTED));
        }
    }
}

fn lost(how: &'static str) -> Change {
    Change {
        feature: Feature::JsonSchema,
        how,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::super::NO_RULES;
    use super::*;

    fn fitted(output: Output<'static>, rules: Rules) -> (Conversation<'static>, Vec<Change>) {
        let mut conversation = Conversation {
            output,
            ..Conversation::default()
        };
        let mut changes = Vec::new();
        fit(&mut conversation, &rules, &mut changes);
        (conversation, changes)
    }

    fn schema(text: &str, strict: Option<bool>) -> Output<'static> {
        Output::Schema {
            name: None,
            description: None,
            schema: std::borrow::Cow::Owned(RawValue::from_string(text.to_owned()).unwrap()),
            strict,
        }
    }

    const COMPILED: Rules = Rules {
        schemas: Schemas::Compiled,
        json_mode: false,
        ..NO_RULES
    };

    #[test]
    fn json_of_any_form_is_an_instruction_where_there_is_no_mode_for_it() {
        let (conversation, changes) = fitted(Output::Json, COMPILED);
        assert!(matches!(conversation.output, Output::Text) && changes.is_empty());
        assert_eq!(conversation.system, [Block::Text(ONLY_JSON.into())]);
        let (conversation, _) = fitted(Output::Json, NO_RULES);
        assert!(matches!(conversation.output, Output::Json) && conversation.system.is_empty());
    }

    #[test]
    fn a_schema_that_cannot_be_compiled_is_an_instruction() {
        let (conversation, changes) = fitted(schema(r##"{"$ref":"#"}"##, None), COMPILED);
        assert!(matches!(conversation.output, Output::Text));
        assert!(matches!(&conversation.system[..], [Block::Text(text)] if text.ends_with(r##"{"$ref":"#"}"##)));
        assert_eq!(changes, [lost(INSTRUCTED)]);
    }

    #[test]
    fn strict_mode_is_asked_for_what_it_takes() {
        let rules = Rules {
            schemas: Schemas::StrictOrLoose,
            ..NO_RULES
        };
        let closed = r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}"#;
        let open = r#"{"type":"object","properties":{"a":{"type":"string"}}}"#;
        for (text, strict, expected, how) in [
            (closed, None, Some(true), None),
            (open, None, Some(false), Some(NOT_STRICT)),
            (open, Some(true), Some(false), Some(NOT_STRICT)),
            (closed, Some(false), Some(false), None),
        ] {
            let (conversation, changes) = fitted(schema(text, strict), rules);
            assert!(
                matches!(conversation.output, Output::Schema { strict, .. } if strict == expected),
                "{text}"
            );
            assert_eq!(changes, how.map(lost).into_iter().collect::<Vec<_>>());
        }
    }
}
