//! What a model can do: how it thinks, and which parameters of sampling it takes. A request that asks for more is refused by its vendor, so
//! it asks for the nearest that there is, or for nothing.

use super::Change;
use crate::conversation::{Conversation, Effort};
use crate::wire::loss::Feature;

/// What a model can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// How it is told to think.
    pub thinking: Thinking,
    /// The efforts that it knows, from least to most; empty: as many as its API has. For a model that thinks by a budget only
    /// [`Effort::None`] matters: without it, the model cannot be told not to think.
    pub efforts: Vec<Effort>,
    /// Which parameters of sampling it takes.
    pub sampling: Sampling,
    /// Its vendor takes tools for it in chat completions; where not, responses are the API for it.
    pub tools_in_chat: bool,
}

/// How a model is told to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    /// It does not think, and refuses to be told how.
    Never,
    /// By a number of tokens.
    Budget,
    /// By an effort.
    Effort,
}

/// Which parameters of sampling a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// All that its API has.
    All,
    /// `temperature` or `top_p`, not both.
    One,
    /// None.
    Nothing,
}

impl Abilities {
    /// What is asked of a model that nobody knows: nothing that a model could refuse.
    pub const PLAIN: Self = Self {
        thinking: Thinking::Never,
        efforts: Vec::new(),
        sampling: Sampling::All,
        tools_in_chat: true,
    };
}

const NO_THINKING: &str = "the model cannot be told how hard to think; this was left out";
const ALWAYS_THINKS: &str = "the model cannot be told not to think; this was left out";
const NEAREST: &str = "the model does not know this effort; the nearest that it knows was taken";
const NO_SAMPLING: &str = "the model takes no sampling parameters; they were left out";
const ONE_OF_TWO: &str = "the model takes `temperature` or `top_p`, not both; `top_p` was left out";

/// The smallest thinking budget that Anthropic takes, and more than any other vendor's smallest.
const MIN_BUDGET: u64 = 1024;

/// Asks a model for what it can do.
pub(super) fn fit(conversation: &mut Conversation<'_>, abilities: &Abilities, changes: &mut Vec<Change>) {
    let mut note = |feature: Feature, how: &'static str| changes.push(Change { feature, how });
    if let Some(how) = think(conversation, abilities) {
        note(Feature::Effort, how);
    }
    match abilities.sampling {
        Sampling::All => {}
        Sampling::One => {
            if is_set(&conversation.temperature) && is_set(&conversation.top_p) {
                conversation.top_p = None;
                note(Feature::TopP, ONE_OF_TWO);
            }
        }
        Sampling::Nothing => {
            if let Some(feature) = sample_no_more(conversation) {
                note(feature, NO_SAMPLING);
            }
        }
    }
}

/// Returns what is lost.
fn think(conversation: &mut Conversation<'_>, abilities: &Abilities) -> Option<&'static str> {
    let budget = conversation.thinking_budget;
    let wanted = conversation.effort.or_else(|| budget.map(Effort::of_budget))?;
    let can_stop = abilities.efforts.is_empty() || abilities.efforts.contains(&Effort::None);
    match abilities.thinking {
        Thinking::Never => {
            forget(conversation);
            (wanted != Effort::None).then_some(NO_THINKING)
        }
        _ if wanted == Effort::None && !can_stop => {
            forget(conversation);
            Some(ALWAYS_THINKS)
        }
        Thinking::Budget => {
            conversation.effort = Some(wanted);
            conversation.thinking_budget = (wanted != Effort::None).then(|| {
                let budget = budget.unwrap_or(wanted.budget());
                // A quarter of the answer is left for what is said.
                let most = conversation.max_tokens.map_or(u64::MAX, |most| most - most / 4);
                budget.min(most).max(MIN_BUDGET)
            });
            if let (Some(budget), Some(most)) = (conversation.thinking_budget, conversation.max_tokens) {
                conversation.max_tokens = Some(if budget < most {
                    most
                } else {
                    most.saturating_add(budget)
                });
            }
            None
        }
        Thinking::Effort => {
            conversation.thinking_budget = None;
            let nearest = nearest(wanted, &abilities.efforts);
            conversation.effort = Some(nearest);
            (nearest != wanted).then_some(NEAREST)
        }
    }
}

fn forget(conversation: &mut Conversation<'_>) {
    conversation.effort = None;
    conversation.thinking_budget = None;
    conversation.show_reasoning = None;
}

/// The most that is no more than what is wanted, or else the least that there is, not counting "not at all".
fn nearest(wanted: Effort, known: &[Effort]) -> Effort {
    if known.is_empty() || known.contains(&wanted) {
        return wanted;
    }
    let thinking = || known.iter().copied().filter(|effort| *effort != Effort::None);
    let below = thinking().filter(|effort| *effort <= wanted).max();
    below.or_else(|| thinking().min()).unwrap_or(wanted)
}

/// Leaves all parameters of sampling out, and returns the first that said something.
fn sample_no_more(conversation: &mut Conversation<'_>) -> Option<Feature> {
    let said = [
        (is_set(&conversation.temperature), Feature::Temperature),
        (is_set(&conversation.top_p), Feature::TopP),
        (conversation.top_k.is_some(), Feature::TopK),
    ];
    conversation.temperature = None;
    conversation.top_p = None;
    conversation.top_k = None;
    said.into_iter()
        .find_map(|(is_said, feature)| is_said.then_some(feature))
}

/// 1 is what a model does anyway.
fn is_set(number: &Option<serde_json::Number>) -> bool {
    number.as_ref().is_some_and(|number| number.as_f64() != Some(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(effort: Option<Effort>, budget: Option<u64>) -> Conversation<'static> {
        Conversation {
            effort,
            thinking_budget: budget,
            max_tokens: Some(20_000),
            ..Conversation::default()
        }
    }

    fn model(thinking: Thinking, efforts: &[Effort]) -> Abilities {
        Abilities {
            thinking,
            efforts: efforts.to_vec(),
            ..Abilities::PLAIN
        }
    }

    #[test]
    fn a_model_is_asked_to_think_as_it_can() {
        use Effort::{High, Low, Medium, Minimal, None as Not, XHigh};
        let cases = [
            (
                model(Thinking::Never, &[]),
                (Some(High), None),
                (None, None),
                Some(NO_THINKING),
            ),
            (model(Thinking::Never, &[]), (Some(Not), None), (None, None), None),
            (
                model(Thinking::Budget, &[]),
                (Some(High), None),
                (Some(High), Some(15_000)),
                None,
            ),
            (
                model(Thinking::Budget, &[]),
                (Some(Low), Some(2000)),
                (Some(Low), Some(2000)),
                None,
            ),
            (model(Thinking::Budget, &[]), (Some(Not), None), (Some(Not), None), None),
            (
                model(Thinking::Budget, &[Low, High]),
                (Some(Not), None),
                (None, None),
                Some(ALWAYS_THINKS),
            ),
            (
                model(Thinking::Effort, &[Low, High]),
                (Some(Medium), Some(8000)),
                (Some(Low), None),
                Some(NEAREST),
            ),
            (
                model(Thinking::Effort, &[Low, High]),
                (Some(Minimal), None),
                (Some(Low), None),
                Some(NEAREST),
            ),
            (
                model(Thinking::Effort, &[Not, Low]),
                (Some(Not), None),
                (Some(Not), None),
                None,
            ),
            (
                model(Thinking::Effort, &[Low]),
                (Some(Not), None),
                (None, None),
                Some(ALWAYS_THINKS),
            ),
            (
                model(Thinking::Effort, &[]),
                (Some(XHigh), None),
                (Some(XHigh), None),
                None,
            ),
            (model(Thinking::Effort, &[Low]), (None, None), (None, None), None),
        ];
        for (abilities, (effort, budget), expected, how) in cases {
            let mut conversation = asked(effort, budget);
            let lost = think(&mut conversation, &abilities);
            assert_eq!(
                (conversation.effort, conversation.thinking_budget),
                expected,
                "{abilities:?}"
            );
            assert_eq!(lost, how, "{abilities:?} {effort:?}");
        }
    }

    #[test]
    fn a_budget_has_room_in_the_answer() {
        let abilities = model(Thinking::Budget, &[]);
        for most in [1, 1000, 1024, 2000, 100_000] {
            let mut conversation = Conversation {
                max_tokens: Some(most),
                ..asked(Some(Effort::High), None)
            };
            assert_eq!(think(&mut conversation, &abilities), None);
            let (budget, max_tokens) = (conversation.thinking_budget.unwrap(), conversation.max_tokens.unwrap());
            assert!(
                budget >= MIN_BUDGET && budget < max_tokens && max_tokens >= most,
                "{most}: {budget} of {max_tokens}"
            );
        }
    }

    #[test]
    fn sampling_is_left_out_where_the_model_takes_none() {
        let number = |number: f64| serde_json::Number::from_f64(number);
        let sampled = |temperature, top_p| Conversation {
            temperature,
            top_p,
            ..Conversation::default()
        };
        let cases = [
            (Sampling::All, (number(0.5), number(0.5)), (true, true), None),
            (
                Sampling::One,
                (number(0.5), number(0.5)),
                (true, false),
                Some(Feature::TopP),
            ),
            (Sampling::One, (None, number(0.5)), (false, true), None),
            (
                Sampling::Nothing,
                (number(0.0), None),
                (false, false),
                Some(Feature::Temperature),
            ),
            (Sampling::Nothing, (number(1.0), None), (false, false), None),
        ];
        for (sampling, (temperature, top_p), left, feature) in cases {
            let mut conversation = sampled(temperature, top_p);
            let mut changes = Vec::new();
            let abilities = Abilities {
                sampling,
                ..Abilities::PLAIN
            };
            fit(&mut conversation, &abilities, &mut changes);
            assert_eq!(
                (conversation.temperature.is_some(), conversation.top_p.is_some()),
                left,
                "{sampling:?}"
            );
            assert_eq!(changes.first().map(|change| change.feature), feature, "{sampling:?}");
        }
    }
}
