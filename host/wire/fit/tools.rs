//! Schemas of tools.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::schema;
use super::{Change, Rules, Schemas};
use crate::conversation::{Conversation, Function, Tool};
use crate::wire::loss::Feature;

const NOT_STRICT: &str = "the vendor does not take the schema of a strict tool; it does not promise to follow it";
const LOOSER: &str = "keywords that the vendor's schemas do not have went into descriptions";

/// Strict tools that Anthropic compiles.
const MAX_COMPILED: usize = 20;

/// Gives tools schemas that the vendor takes.
pub(super) fn fit(conversation: &mut Conversation<'_>, rules: &Rules, changes: &mut Vec<Change>) {
    let mut compiled = 0;
    let functions = conversation.tools.iter_mut().filter_map(|tool| match tool {
        Tool::Function(function) => Some(function),
        Tool::Opaque { .. } => None,
    });
    for function in functions {
        if let Some(typed) = function.parameters.as_deref().and_then(schema::of_arguments) {
            function.parameters = Some(Cow::Owned(typed));
        }
        if function.strict != Some(true) {
            continue;
        }
        let how = match rules.schemas {
            Schemas::All => None,
            Schemas::StrictOrLoose => strict_or_loose(function),
            Schemas::Compiled if compiled == MAX_COMPILED => loosen(function),
            Schemas::Compiled => compile(function),
        };
        compiled += usize::from(function.strict == Some(true));
        let change = how.map(|how| Change {
            feature: Feature::StrictTools,
            how,
        });
        changes.extend(change.filter(|change| !changes.contains(change)));
    }
}

fn loosen(function: &mut Function<'_>) -> Option<&'static str> {
    function.strict = Some(false);
    Some(NOT_STRICT)
}

fn strict_or_loose(function: &mut Function<'_>) -> Option<&'static str> {
    let parameters: &RawValue = function.parameters.as_deref()?;
    match schema::for_strict_openai(parameters) {
        Some(closed) => {
            function.parameters = Some(Cow::Owned(closed));
            None
        }
        None => loosen(function),
    }
}

fn compile(function: &mut Function<'_>) -> Option<&'static str> {
    let parameters: &RawValue = function.parameters.as_deref()?;
    match schema::for_anthropic(parameters) {
        Ok(None) => None,
        Ok(Some(narrowed)) => {
            function.parameters = Some(Cow::Owned(narrowed.schema));
            narrowed.is_looser.then_some(LOOSER)
        }
        Err(_) => loosen(function),
    }
}

#[cfg(test)]
mod tests {
    use super::super::NO_RULES;
    use super::*;

    fn fitted(parameters: &str, strict: Option<bool>, schemas: Schemas) -> (String, Option<bool>, usize) {
        let function = Function {
            name: "f".into(),
            description: None,
            parameters: Some(Cow::Owned(RawValue::from_string(parameters.to_owned()).unwrap())),
            strict,
        };
        let mut conversation = Conversation {
            tools: vec![Tool::Function(function)],
            ..Conversation::default()
        };
        let mut changes = Vec::new();
        fit(&mut conversation, &Rules { schemas, ..NO_RULES }, &mut changes);
        let function = conversation.functions().next().unwrap();
        (
            function.parameters.as_ref().unwrap().get().to_owned(),
            function.strict,
            changes.len(),
        )
    }

    #[test]
    fn arguments_are_objects_at_every_vendor() {
        let object = r#"{"type":"object","properties":{}}"#.to_owned();
        for parameters in [r#"{"type":"object"}"#, "{}"] {
            assert_eq!(fitted(parameters, None, Schemas::All), (object.clone(), None, 0));
        }
    }

    #[test]
    fn strict_tools_are_narrowed_or_no_longer_strict() {
        let open = r#"{"type":"object","properties":{"a":{"type":"string"}}}"#;
        assert_eq!(
            fitted(open, Some(true), Schemas::StrictOrLoose),
            (open.to_owned(), Some(false), 1)
        );
        let (parameters, strict, changes) = fitted(open, Some(true), Schemas::Compiled);
        assert!(parameters.ends_with(r#""additionalProperties":false}"#), "{parameters}");
        assert_eq!((strict, changes), (Some(true), 0));
        assert_eq!(fitted(open, None, Schemas::Compiled), (open.to_owned(), None, 0));
    }
}
