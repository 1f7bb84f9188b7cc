//! Judges what a policy answered: what the contract forbids is nonsense, what is only ugly is made presentable.
//!
//! Whether the picked targets exist is not judged here: the gateway knows its routes.

use serde_json::{Map, Value};

use super::contract::{Action, Decision, Pick, Rejection};
use crate::config::{Grant, PolicyRules};
use crate::failure::cut;
use crate::model_name;

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Nonsense {
    /// More picks than `max_picks`.
    #[error("{picks} picks, at most {limit} are allowed")]
    TooManyPicks {
        /// How many there were.
        picks: usize,
        /// `max_picks` of the policy.
        limit: usize,
    },
    /// A rejection with a status that is no error.
    #[error("a rejection with status {0}; it must be 400 to 599")]
    RejectionStatus(u16),
    /// A model that would leave its place in a vendor's path.
    #[error("the model of pick {pick} is no model's name: it is empty, `.` or `..`, or has a control character")]
    Model {
        /// Index of the pick, from 0.
        pick: usize,
    },
    /// A patch that is not a JSON object.
    #[error("the patch of pick {pick} is not a JSON object")]
    Patch {
        /// Index of the pick, from 0.
        pick: usize,
    },
    /// A patch that changes the prompt, of a policy that may not.
    #[error(
        "the patch of pick {pick} sets `{field}`, which is part of the prompt; write grants = [\"patch-prompt\"] under \
         [policy.{policy}] if it may"
    )]
    PatchesPrompt {
        /// Index of the pick, from 0.
        pick: usize,
        /// The field, as the policy wrote it.
        field: String,
        /// Name of the policy.
        policy: String,
    },
    /// A text that is far longer than it can have reason to be.
    #[error("the {what} of pick {pick} has {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// Which text: `target`, `model` or `patch`.
        what: &'static str,
        /// Index of the pick, from 0.
        pick: usize,
        /// Its length.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
}

/// Characters of a reason; it goes into a response header.
const REASON_CHARS: usize = 200;

/// Characters of a rejection's message; it goes to the client.
const MESSAGE_CHARS: usize = 1000;

/// Bytes of a target's or a model's name.
const NAME_BYTES: usize = 512;

/// Bytes of a patch: parameters and, where that is granted, a system prompt; not a conversation.
const PATCH_BYTES: usize = 64 << 10;

/// The decision with its texts cut to size and freed of control characters, if the contract allows it.
pub(super) fn judge(mut decision: Decision, policy: &str, rules: &PolicyRules) -> Result<Decision, Nonsense> {
    match &mut decision.action {
        Action::Route(picks) => {
            if picks.len() > rules.max_picks {
                return Err(Nonsense::TooManyPicks {
                    picks: picks.len(),
                    limit: rules.max_picks,
                });
            }
            for (index, pick) in picks.iter().enumerate() {
                judge_lengths(index, pick)?;
                judge_model(index, pick)?;
                judge_patch(index, pick, policy, rules)?;
            }
        }
        Action::Reject(Rejection { status, message, .. }) => {
            if !(400..=599).contains(status) {
                return Err(Nonsense::RejectionStatus(*status));
            }
            tidy(message, MESSAGE_CHARS);
        }
        Action::Pass => {}
    }
    tidy(&mut decision.reason, REASON_CHARS);
    Ok(decision)
}

fn judge_lengths(
    pick: usize,
    Pick {
        target, model, patch, ..
    }: &Pick,
) -> Result<(), Nonsense> {
    let texts = [
        ("target", Some(target), NAME_BYTES),
        ("model", model.as_ref(), NAME_BYTES),
        ("patch", patch.as_ref(), PATCH_BYTES),
    ];
    for (what, text, limit) in texts {
        let bytes = text.map_or(0, String::len);
        if bytes > limit {
            return Err(Nonsense::TooLong {
                what,
                pick,
                bytes,
                limit,
            });
        }
    }
    Ok(())
}

fn judge_model(pick: usize, Pick { model, .. }: &Pick) -> Result<(), Nonsense> {
    match model {
        Some(model) if !model_name::is_usable(model) => Err(Nonsense::Model { pick }),
        _ => Ok(()),
    }
}

fn judge_patch(pick: usize, Pick { patch, .. }: &Pick, policy: &str, rules: &PolicyRules) -> Result<(), Nonsense> {
    let Some(patch) = patch else { return Ok(()) };
    let fields: Map<String, Value> = serde_json::from_str(patch).map_err(|_| Nonsense::Patch { pick })?;
    if rules.grants.contains(&Grant::PatchPrompt) {
        return Ok(());
    }
    match fields.keys().find(|field| is_prompt(field)) {
        Some(field) => Err(Nonsense::PatchesPrompt {
            pick,
            field: cut(field, FIELD_CHARS),
            policy: policy.to_owned(),
        }),
        None => Ok(()),
    }
}

/// Fields that hold the prompt, or name one that the vendor keeps, in any of the formats: lower case, without `_`.
const PROMPT_FIELDS: [&str; 14] = [
    "messages",
    "system",
    "input",
    "instructions",
    "prompt",
    "promptvariables",
    "contents",
    "content",
    "requests",
    "systeminstruction",
    "cachedcontent",
    "previousresponseid",
    "conversation",
    "generatecontentrequest",
];

/// Whether a field is part of the prompt for any vendor: Google takes `systemInstruction` and `system_instruction`, and servers that
/// are written in Go take any case.
fn is_prompt(field: &str) -> bool {
    let plain: String = field
        .chars()
        .filter(|c| *c != '_')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    PROMPT_FIELDS.contains(&plain.as_str())
}

/// Characters of a field's name in a message.
const FIELD_CHARS: usize = 40;

/// Replaces control characters by spaces and cuts after so many characters.
fn tidy(text: &mut String, chars: usize) {
    if let Some((end, _)) = text.char_indices().nth(chars) {
        text.truncate(end);
    }
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, " ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(target: &str) -> Pick {
        Pick {
            target: target.into(),
            model: None,
            connect_ms: None,
            first_content_ms: None,
            between_frames_ms: None,
            whole_ms: None,
            hedge_after_ms: None,
            wait_ms: None,
            patch: None,
        }
    }

    fn rules() -> PolicyRules {
        PolicyRules {
            max_picks: 4,
            ..PolicyRules::default()
        }
    }

    fn route(picks: Vec<Pick>) -> Result<Decision, Nonsense> {
        judge(
            Decision {
                action: Action::Route(picks),
                reason: String::new(),
            },
            "p",
            &rules(),
        )
    }

    fn reject(status: u16, message: &str) -> Result<Decision, Nonsense> {
        let rejection = Rejection {
            status,
            message: message.into(),
            retry_after_ms: None,
        };
        judge(
            Decision {
                action: Action::Reject(rejection),
                reason: String::new(),
            },
            "p",
            &rules(),
        )
    }

    #[test]
    fn more_picks_than_allowed_are_nonsense() {
        assert!(route(vec![pick("a"); 4]).is_ok());
        assert_eq!(
            route(vec![pick("a"); 5]),
            Err(Nonsense::TooManyPicks { picks: 5, limit: 4 })
        );
    }

    #[test]
    fn a_model_must_be_a_name() {
        let asking = |model: &str| {
            route(vec![Pick {
                model: Some(model.into()),
                ..pick("a")
            }])
        };
        assert!(asking("org/model").is_ok());
        for model in ["", ".", "..", "x/../../admin", "a\nb"] {
            assert_eq!(asking(model), Err(Nonsense::Model { pick: 0 }), "{model:?}");
        }
    }

    #[test]
    fn a_rejection_must_be_an_error() {
        for status in [0, 200, 399, 600] {
            assert_eq!(reject(status, ""), Err(Nonsense::RejectionStatus(status)));
        }
        assert!(reject(400, "").is_ok() && reject(599, "").is_ok());
    }

    #[test]
    fn a_patch_must_be_an_object() {
        let patched = |patch: &str| {
            route(vec![
                pick("a"),
                Pick {
                    patch: Some(patch.into()),
                    ..pick("b")
                },
            ])
        };
        assert!(patched(r#"{"temperature": 0, "top_p": null}"#).is_ok());
        for patch in ["", "[]", "null", "{", "{} {}", "{\"a\":NaN}"] {
            assert_eq!(patched(patch), Err(Nonsense::Patch { pick: 1 }), "{patch}");
        }
        let nested = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(
            patched(&nested) == Err(Nonsense::Patch { pick: 1 }),
            "a patch may not be nested without end"
        );
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(PATCH_BYTES));
        assert!(matches!(
            patched(&long),
            Err(Nonsense::TooLong {
                what: "patch",
                pick: 1,
                ..
            })
        ));
    }

    #[test]
    fn a_patch_changes_the_prompt_by_grant_only() {
        let judged = |patch: &str, grants: &[Grant]| {
            let action = Action::Route(vec![Pick {
                patch: Some(patch.into()),
                ..pick("a")
            }]);
            let reason = String::new();
            let rules = PolicyRules {
                grants: grants.to_vec(),
                ..rules()
            };
            judge(Decision { action, reason }, "p", &rules)
        };
        for field in [
            "messages",
            "Messages",
            "contents",
            "input",
            "system",
            "systemInstruction",
            "system_instruction",
            "instructions",
            "prompt",
            "previous_response_id",
        ] {
            let patch = format!(r#"{{"temperature": 0, "{field}": null}}"#);
            let error = judged(&patch, &[Grant::Prompt]).unwrap_err().to_string();
            assert!(error.contains(&format!("sets `{field}`")), "{error}");
            assert!(error.contains("[\"patch-prompt\"] under [policy.p]"), "{error}");
            assert!(judged(&patch, &[Grant::PatchPrompt]).is_ok());
        }
        let deep = r#"{"metadata": {"messages": 1}, "max_tokens": 5, "input_format": 1}"#;
        assert!(judged(deep, &[]).is_ok(), "only the body's own fields are the prompt");
    }

    #[test]
    fn texts_are_made_presentable() {
        let decision = Decision {
            action: Action::Pass,
            reason: format!("a\r\nx-evil: 1{}", "é".repeat(300)),
        };
        let reason = judge(decision, "p", &rules()).unwrap().reason;
        assert!(reason.starts_with("a  x-evil: 1é"));
        assert_eq!(reason.chars().count(), REASON_CHARS);
        let Action::Reject(rejection) = reject(503, &"m".repeat(5000)).unwrap().action else {
            panic!()
        };
        assert_eq!(rejection.message.len(), MESSAGE_CHARS);
    }
}
