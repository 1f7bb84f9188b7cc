//! Fits a conversation to the vendor and the model that it goes to: what a format can say, one vendor or model may still refuse. The rules
//! are data of the vendor's row, each with its source, and what models can do is data of the catalog. Pure.
//!
//! It runs after [`super::loss`] and before the encoder, so that encoders know their format only.

mod abilities;
mod call_ids;
mod output;
mod own;
mod schema;
mod tools;
mod turns;

use super::loss::Feature;
use crate::conversation::Conversation;

pub use abilities::{Abilities, Sampling, Thinking};
pub use own::fit_chat;

/// What a vendor refuses although its format can say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What ids of tool calls look like.
    pub call_ids: CallIds,
    /// A message of the user may follow the results of tools.
    pub user_after_result: bool,
    /// A message with a document needs a text as well.
    pub text_beside_document: bool,
    /// Instructions alone are no conversation: at least one turn is needed.
    pub turn_required: bool,
    /// The id of the client's user must not be an email address or a telephone number.
    pub anonymous_user: bool,
    /// Which JSON schemas it takes where an answer or arguments must follow them.
    pub schemas: Schemas,
    /// It can be told to answer with JSON of any form.
    pub json_mode: bool,
}

/// Which JSON schemas a vendor takes where an answer or arguments must follow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schemas {
    /// All of them, or nobody knows.
    All,
    /// Those of OpenAI's strict mode; others it takes without promising to follow them.
    StrictOrLoose,
    /// Those that Anthropic compiles.
    Compiled,
}

/// Something that is said in another way, with some loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What of the request.
    pub feature: Feature,
    /// How it is said.
    pub how: &'static str,
}

/// What ids of tool calls look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallIds {
    /// What the format allows.
    AnyOfFormat,
    /// Nine letters and digits.
    NineAlphanumerics,
}

/// The rules that the others differ from: none beyond the format's.
pub const NO_RULES: Rules = Rules {
    call_ids: CallIds::AnyOfFormat,
    user_after_result: true,
    text_beside_document: false,
    turn_required: false,
    anonymous_user: false,
    schemas: Schemas::All,
    json_mode: true,
};

/// Says in another way what the vendor would refuse, and returns what is lost by that.
pub fn fit(conversation: &mut Conversation<'_>, rules: &Rules, abilities: &Abilities) -> Vec<Change> {
    let mut changes = Vec::new();
    abilities::fit(conversation, abilities, &mut changes);
    output::fit(conversation, rules, &mut changes);
    tools::fit(conversation, rules, &mut changes);
    if conversation.has_tool_history() {
        call_ids::rewrite(conversation, rules.call_ids);
    }
    if !rules.user_after_result {
        turns::part_users_from_results(conversation);
    }
    if rules.text_beside_document {
        turns::put_texts_beside_documents(conversation);
    }
    if rules.turn_required {
        turns::begin_with_instructions(conversation);
    }
    if rules.anonymous_user {
        anonymize_user(conversation);
    }
    changes
}

/// Replaces an id that names a person by one that does not: always the same for the same id, so that it still tells users apart.
fn anonymize_user(conversation: &mut Conversation<'_>) {
    if let Some(user) = conversation.user.as_mut().filter(|user| names_a_person(user)) {
        *user = format!("user_{:016x}", super::codec::hash(user.as_bytes())).into();
    }
}

/// Whether a user's id looks like an email address or a telephone number.
fn names_a_person(user: &str) -> bool {
    let is_email = user
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
    let is_mark = |char: char| "+-() ./".contains(char);
    let digits = user.chars().filter(char::is_ascii_digit).count();
    let is_phone = (7..=15).contains(&digits)
        && user.starts_with(|char: char| char.is_ascii_digit() || char == '+' || char == '(')
        && user.chars().all(|char| char.is_ascii_digit() || is_mark(char));
    is_email || is_phone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_name_a_person_are_replaced() {
        for user in ["alice@example.com", "+49 30 1234567", "(555) 123-4567", "5551234567"] {
            let mut conversation = Conversation {
                user: Some(user.into()),
                ..Conversation::default()
            };
            fit(
                &mut conversation,
                &Rules {
                    anonymous_user: true,
                    ..NO_RULES
                },
                &Abilities::PLAIN,
            );
            let fitted = conversation.user.unwrap();
            assert!(
                fitted.starts_with("user_") && !names_a_person(&fitted),
                "{user}: {fitted}"
            );
        }
        for user in [
            "user-123",
            "550e8400-e29b-41d4-a716-446655440000",
            "42",
            "a@b",
            "2026-11-28T10:00",
        ] {
            assert!(!names_a_person(user), "{user}");
        }
    }
}
