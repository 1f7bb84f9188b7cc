//! What is done about what cannot be carried from one format to another: the one table of it.
//!
//! Everything that a request may ask for and that some format cannot say is a [`Feature`]. Its row says what each format, as the
//! vendor's, makes of it. Encoders need not know: they write what their format can say and leave the rest out.

use std::borrow::Cow;

use super::Format;
use super::fit::Change;
use crate::conversation::{Block, Conversation, Effort, Output, Role, Source, Tool, ToolChoice};

/// What becomes of a feature in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is carried, or left out where that changes nothing but costs.
    Carried,
    /// It is carried approximately: this is how.
    Approximated(&'static str),
    /// It cannot be carried: this is why.
    Refused(&'static str),
}
use Fate::{Approximated, Carried, Refused};

/// What becomes of features that the table leaves to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lossy {
    /// As the table says.
    #[default]
    Table,
    /// What the table refuses is left out, with a warning.
    Allow,
    /// What the table approximates is refused.
    Refuse,
}

/// What a request asks for that not every format can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names of the rows below; each row says what it is by what it says of formats.
pub enum Feature {
    ImageByUrl,
    ImageType,
    Audio,
    DocumentByUrl,
    DocumentAsText,
    StoredFile,
    MediaInResult,
    FailedResult,
    SystemInBetween,
    Prefill,
    ForeignBlock,
    ForeignTool,
    NoToolCalls,
    AllowedTools,
    SequentialTools,
    Temperature,
    TopP,
    TopK,
    Stop,
    BlankStop,
    Candidates,
    Seed,
    Penalties,
    Logprobs,
    JsonObject,
    JsonSchema,
    StrictTools,
    Effort,
    EffortWithTools,
    EffortWithSampling,
    State,
    Other,
}

/// One row: a feature, its field in each format as the client's, and its fate in each as the vendor's, in the order of [`COLUMNS`].
struct Row {
    feature: Feature,
    fields: [&'static str; 5],
    fates: [Fate; 5],
}

/// The order of a row's columns.
const COLUMNS: [Format; 5] = [
    Format::OpenAiChat,
    Format::Responses,
    Format::Messages,
    Format::Gemini,
    Format::Converse,
];

const HOISTED: Fate = Approximated("instructions inside the conversation were moved to its beginning");
const NO_URLS: Fate = Refused("the vendor takes images and documents inline only, not by URL");
const NO_SAMPLING: Fate = Approximated("the vendor does not have this sampling parameter; it was left out");
const VENDORS_OWN: Fate = Refused("only the vendor whose API this is knows it");
const UNKNOWN: Fate = Approximated("the vendor has no such field; it was left out");
const ONE_ANSWER: Fate = Refused("the vendor gives one answer to a request");
const NO_LOGPROBS: Fate = Refused("the vendor gives no log probabilities in a form that can be translated");

#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { feature: Feature::ImageByUrl,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Carried, Carried, Carried, NO_URLS, NO_URLS] },
    Row { feature: Feature::ImageType,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Carried, Carried, Refused("images must be JPEG, PNG, GIF or WebP"), Carried, Refused("images must be JPEG, PNG, GIF or WebP")] },
    Row { feature: Feature::Audio,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Carried, Refused("the vendor takes no audio"), Refused("the vendor takes no audio"), Carried, Carried] },
    Row { feature: Feature::DocumentByUrl,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Refused("the vendor takes documents and audio inline only, not by URL"), Carried, Carried, NO_URLS, NO_URLS] },
    Row { feature: Feature::DocumentAsText,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Approximated("a text document became part of the message"), Approximated("a text document became part of the message"), Carried, Approximated("a text document became part of the message"), Carried] },
    Row { feature: Feature::StoredFile,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [VENDORS_OWN; 5] },
    Row { feature: Feature::MediaInResult,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Approximated("images of tool results follow in a message of the user"), Carried, Carried, Approximated("images of tool results follow in a message of the user"), Carried] },
    Row { feature: Feature::FailedResult,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Approximated("a failed tool result begins with `Error: `"), Approximated("a failed tool result begins with `Error: `"), Carried, Carried, Carried] },
    Row { feature: Feature::SystemInBetween,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Carried, Carried, HOISTED, HOISTED, HOISTED] },
    Row { feature: Feature::Prefill,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [Approximated("most models begin anew instead of continuing the last message"), Approximated("most models begin anew instead of continuing the last message"), Carried, Carried, Carried] },
    Row { feature: Feature::ForeignBlock,
        fields: ["messages", "input", "messages", "contents", "messages"],
        fates: [VENDORS_OWN; 5] },
    Row { feature: Feature::ForeignTool,
        fields: ["tools", "tools", "tools", "tools", "toolConfig.tools"],
        fates: [VENDORS_OWN; 5] },
    Row { feature: Feature::NoToolCalls,
        fields: ["tool_choice", "tool_choice", "tool_choice", "toolConfig.functionCallingConfig.mode", "toolConfig.toolChoice"],
        fates: [Carried, Carried, Carried, Carried, Approximated("the vendor cannot be told to call no tool; the tools were left out unless the conversation has calls")] },
    Row { feature: Feature::AllowedTools,
        fields: ["tool_choice", "tool_choice", "tool_choice", "toolConfig.functionCallingConfig.allowedFunctionNames", "toolConfig.toolChoice"],
        fates: [Carried, Carried, Approximated("tools that are not allowed were left out"), Carried, Approximated("tools that are not allowed were left out")] },
    Row { feature: Feature::SequentialTools,
        fields: ["parallel_tool_calls", "parallel_tool_calls", "tool_choice.disable_parallel_tool_use", "tools", "toolConfig"],
        fates: [Carried, Carried, Carried, Approximated("the vendor cannot be told to call one tool at a time"), Approximated("the vendor cannot be told to call one tool at a time")] },
    Row { feature: Feature::Temperature,
        fields: ["temperature", "temperature", "temperature", "generationConfig.temperature", "inferenceConfig.temperature"],
        fates: [Carried, Carried, Approximated("the vendor's highest temperature is 1"), Carried, Approximated("the vendor's highest temperature is 1")] },
    Row { feature: Feature::TopP,
        fields: ["top_p", "top_p", "top_p", "generationConfig.topP", "inferenceConfig.topP"],
        fates: [Carried, Carried, Carried, Carried, Carried] },
    Row { feature: Feature::TopK,
        fields: ["top_k", "top_k", "top_k", "generationConfig.topK", "additionalModelRequestFields.top_k"],
        fates: [NO_SAMPLING, NO_SAMPLING, Carried, Carried, NO_SAMPLING] },
    Row { feature: Feature::Stop,
        fields: ["stop", "stop", "stop_sequences", "generationConfig.stopSequences", "inferenceConfig.stopSequences"],
        fates: [Carried, Refused("the vendor's API has no stop texts"), Carried, Carried, Carried] },
    Row { feature: Feature::BlankStop,
        fields: ["stop", "stop", "stop_sequences", "generationConfig.stopSequences", "inferenceConfig.stopSequences"],
        fates: [Carried, Carried, Approximated("the vendor takes no stop texts of spaces and line breaks only; they were left out"), Carried, Carried] },
    Row { feature: Feature::Candidates,
        fields: ["n", "n", "n", "generationConfig.candidateCount", "n"],
        fates: [ONE_ANSWER; 5] },
    Row { feature: Feature::Seed,
        fields: ["seed", "seed", "seed", "generationConfig.seed", "seed"],
        fates: [Carried, NO_SAMPLING, NO_SAMPLING, Carried, NO_SAMPLING] },
    Row { feature: Feature::Penalties,
        fields: ["frequency_penalty or presence_penalty", "penalties", "penalties", "generationConfig.frequencyPenalty or presencePenalty", "penalties"],
        fates: [Carried, NO_SAMPLING, NO_SAMPLING, Carried, NO_SAMPLING] },
    Row { feature: Feature::Logprobs,
        fields: ["logprobs", "top_logprobs", "logprobs", "generationConfig.responseLogprobs", "logprobs"],
        fates: [NO_LOGPROBS; 5] },
    Row { feature: Feature::JsonObject,
        fields: ["response_format", "text.format", "output_config.format", "generationConfig.responseMimeType", "outputConfig.textFormat"],
        fates: [Carried, Carried, Approximated("the vendor has no free JSON mode; its model was told to answer with JSON"), Carried, Approximated("the vendor has no free JSON mode; its model was told to answer with JSON")] },
    Row { feature: Feature::JsonSchema,
        fields: ["response_format", "text.format", "output_config.format", "generationConfig.responseJsonSchema", "outputConfig.textFormat"],
        fates: [Carried; 5] },
    Row { feature: Feature::StrictTools,
        fields: ["tools", "tools", "tools", "tools", "toolConfig.tools"],
        fates: [Carried; 5] },
    Row { feature: Feature::Effort,
        fields: ["reasoning_effort", "reasoning.effort", "output_config.effort or thinking", "generationConfig.thinkingConfig", "outputConfig.effort"],
        fates: [Carried; 5] },
    Row { feature: Feature::EffortWithTools,
        fields: ["reasoning_effort", "reasoning.effort", "output_config.effort or thinking", "generationConfig.thinkingConfig", "outputConfig.effort"],
        fates: [Carried, Carried, Approximated("the vendor's models cannot think when they must call a tool, or in a turn that began without their own thoughts"), Carried, Carried] },
    Row { feature: Feature::EffortWithSampling,
        fields: ["temperature or top_p", "temperature or top_p", "temperature, top_p or top_k", "generationConfig", "inferenceConfig"],
        fates: [Carried, Carried, Approximated("the vendor's models take no sampling parameters while they think; they were left out"), Carried, Carried] },
    Row { feature: Feature::State,
        fields: [""; 5],
        fates: [VENDORS_OWN; 5] },
    Row { feature: Feature::Other,
        fields: [""; 5],
        fates: [UNKNOWN; 5] },
];

/// Top-level fields that are left out without a word: they change what a request costs or how it is accounted for, not its answer.
const WITHOUT_A_WORD: &[&str] = &[
    "cache_control",
    "client_metadata",
    "labels",
    "metadata",
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "requestMetadata",
    "safety_identifier",
    "stream_options",
    "user",
];

/// Top-level fields without which the answer would be to another question: state that the vendor keeps, or another kind of answer.
const STATE: &[&str] = &[
    "audio",
    "background",
    "cachedContent",
    "container",
    "conversation",
    "generationConfig.responseModalities",
    "guardrailConfig",
    "logit_bias",
    "mcp_servers",
    "prediction",
    "previous_response_id",
    "prompt",
    "promptVariables",
    "web_search_options",
];

/// Something that will not reach a vendor as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss<'a> {
    /// The field, in the client's format.
    pub field: Cow<'a, str>,
    /// What becomes of it, or why nothing does.
    pub why: &'static str,
    /// The request cannot be sent.
    pub refused: bool,
}

/// Fields of a client's own making that are told of; who sends more has been told enough.
const MAX_OTHERS: usize = 64;

/// What a conversation loses on its way from a client's format to a vendor's.
pub fn losses<'c>(conversation: &'c Conversation<'_>, client: Format, vendor: Format, lossy: Lossy) -> Vec<Loss<'c>> {
    let (Some(from), Some(to)) = (column(client), column(vendor)) else {
        return Vec::new();
    };
    let is_own = client == vendor;
    let mut losses: Vec<Loss<'c>> = Vec::new();
    let mut note = |field: Cow<'c, str>, fate: Fate| {
        let (why, refused) = match (fate, lossy) {
            (Carried, _) => return,
            (Approximated(why), Lossy::Refuse) => (why, true),
            (Approximated(why), _) | (Refused(why), Lossy::Allow) => (why, false),
            (Refused(why), _) => (why, true),
        };
        let loss = Loss { field, why, refused };
        if !losses.contains(&loss) {
            losses.push(loss);
        }
    };
    for feature in features(conversation, client) {
        let row = row(feature);
        // A format can say what its own clients say; only our own types cannot hold several answers.
        let is_held = !matches!(feature, Feature::Candidates | Feature::Logprobs);
        let fate = if is_own && is_held { Carried } else { row.fates[to] };
        note(Cow::Borrowed(row.fields[from]), fate);
    }
    for field in conversation.others.iter().take(MAX_OTHERS) {
        let name = &**field;
        if WITHOUT_A_WORD.contains(&name) {
            continue;
        }
        let feature = if STATE.contains(&name) {
            Feature::State
        } else {
            Feature::Other
        };
        note(Cow::Borrowed(name), row(feature).fates[to]);
    }
    losses
}

/// What a conversation loses by what the vendor itself takes of its format.
pub fn of_changes(changes: &[Change], client: Format, lossy: Lossy) -> Vec<Loss<'static>> {
    let Some(own) = column(client) else { return Vec::new() };
    let loss = |change: &Change| Loss {
        field: Cow::Borrowed(row(change.feature).fields[own]),
        why: change.how,
        refused: lossy == Lossy::Refuse,
    };
    changes.iter().map(loss).collect()
}

/// What of an answer is lost when it is written anew in its own format: our types hold one answer, without log probabilities.
pub fn of_answer<'c>(conversation: &Conversation<'_>, format: Format, lossy: Lossy) -> Vec<Loss<'c>> {
    let Some(own) = column(format) else { return Vec::new() };
    let asked = [
        (
            conversation.candidates.is_some_and(|wanted| wanted > 1),
            Feature::Candidates,
            ONE_ANSWER,
        ),
        (conversation.logprobs, Feature::Logprobs, NO_LOGPROBS),
    ];
    let lost = asked.into_iter().filter(|(is_asked, ..)| *is_asked);
    lost.filter_map(|(_, feature, fate)| match fate {
        Refused(why) => Some(Loss {
            field: Cow::Borrowed(row(feature).fields[own]),
            why,
            refused: lossy != Lossy::Allow,
        }),
        Carried | Approximated(_) => None,
    })
    .collect()
}

fn column(format: Format) -> Option<usize> {
    COLUMNS.iter().position(|column| *column == format)
}

fn row(feature: Feature) -> &'static Row {
    TABLE
        .iter()
        .find(|row| row.feature == feature)
        .expect("every feature has a row; a test says so")
}

/// Image types that every vendor takes.
const COMMON_IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// The features that a conversation of a client's format uses.
fn features(conversation: &Conversation<'_>, client: Format) -> Vec<Feature> {
    let mut found = Vec::new();
    for block in &conversation.system {
        features_of(block, &mut found);
    }
    for (at, turn) in conversation.turns.iter().enumerate() {
        if turn.role == Role::System && at > 0 {
            found.push(Feature::SystemInBetween);
        }
        turn.blocks.iter().for_each(|block| features_of(block, &mut found));
    }
    let prefilled = |turn: &crate::conversation::Turn<'_>| {
        turn.role == Role::Assistant && matches!(turn.blocks.last(), Some(Block::Text(_)))
    };
    let thinks = conversation.effort.is_some_and(|effort| effort != Effort::None);
    let cannot_think = super::messages::cannot_think(conversation, client);
    let asked = [
        (conversation.turns.last().is_some_and(prefilled), Feature::Prefill),
        (
            conversation
                .tools
                .iter()
                .any(|tool| matches!(tool, Tool::Opaque { .. })),
            Feature::ForeignTool,
        ),
        (
            conversation.tool_choice == Some(ToolChoice::None) && !conversation.tools.is_empty(),
            Feature::NoToolCalls,
        ),
        (
            matches!(conversation.tool_choice, Some(ToolChoice::Allowed { .. })),
            Feature::AllowedTools,
        ),
        (
            conversation.parallel_tools == Some(false) && !conversation.tools.is_empty(),
            Feature::SequentialTools,
        ),
        (
            conversation
                .temperature
                .as_ref()
                .and_then(|it| it.as_f64())
                .is_some_and(|it| it > 1.0),
            Feature::Temperature,
        ),
        (conversation.top_p.is_some(), Feature::TopP),
        (conversation.top_k.is_some(), Feature::TopK),
        (!conversation.stop.is_empty(), Feature::Stop),
        (
            conversation.stop.iter().any(|text| text.trim().is_empty()),
            Feature::BlankStop,
        ),
        (
            conversation.candidates.is_some_and(|wanted| wanted > 1),
            Feature::Candidates,
        ),
        (conversation.seed.is_some(), Feature::Seed),
        (
            is_set(&conversation.presence_penalty) || is_set(&conversation.frequency_penalty),
            Feature::Penalties,
        ),
        (conversation.logprobs, Feature::Logprobs),
        (matches!(conversation.output, Output::Json), Feature::JsonObject),
        (
            matches!(conversation.output, Output::Schema { .. }),
            Feature::JsonSchema,
        ),
        (thinks, Feature::Effort),
        (thinks && cannot_think, Feature::EffortWithTools),
        (
            thinks && !cannot_think && samples(conversation),
            Feature::EffortWithSampling,
        ),
    ];
    found.extend(
        asked
            .into_iter()
            .filter(|(is_used, _)| *is_used)
            .map(|(_, feature)| feature),
    );
    found
}

/// Whether a sampling parameter says something: 1 and, of `top_p`, a little less are as good as none.
fn samples(conversation: &Conversation<'_>) -> bool {
    let number = |number: &Option<serde_json::Number>| number.as_ref().and_then(|number| number.as_f64());
    number(&conversation.temperature).is_some_and(|temperature| temperature != 1.0)
        || number(&conversation.top_p).is_some_and(|top_p| top_p < 0.95)
        || conversation.top_k.is_some()
}

/// A penalty of zero is none.
fn is_set(penalty: &Option<serde_json::Number>) -> bool {
    penalty.as_ref().is_some_and(|penalty| penalty.as_f64() != Some(0.0))
}

fn features_of(block: &Block<'_>, found: &mut Vec<Feature>) {
    match block {
        Block::Text(_) | Block::Reasoning { .. } | Block::Redacted(_) | Block::ToolCall(_) => {}
        Block::Image(Source::Inline { media_type, .. }) if !COMMON_IMAGES.contains(&&**media_type) => {
            found.push(Feature::ImageType);
        }
        Block::Image(Source::Url(_)) => found.push(Feature::ImageByUrl),
        Block::Document {
            source: Source::Url(_), ..
        } => found.push(Feature::DocumentByUrl),
        Block::Document {
            source: Source::Text(_),
            ..
        } => found.push(Feature::DocumentAsText),
        Block::Image(Source::Stored(_))
        | Block::Audio(Source::Stored(_))
        | Block::Document {
            source: Source::Stored(_),
            ..
        } => {
            found.push(Feature::StoredFile);
        }
        Block::Image(_) | Block::Document { .. } => {}
        Block::Audio(Source::Url(_)) => found.extend([Feature::Audio, Feature::DocumentByUrl]),
        Block::Audio(_) => found.push(Feature::Audio),
        Block::ToolResult { content, is_error, .. } => {
            if *is_error {
                found.push(Feature::FailedResult);
            }
            if content
                .iter()
                .any(|block| matches!(block, Block::Image(_) | Block::Audio(_) | Block::Document { .. }))
            {
                found.push(Feature::MediaInResult);
            }
            content.iter().for_each(|block| features_of(block, found));
        }
        Block::Opaque { .. } => found.push(Feature::ForeignBlock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Turn;

    #[test]
    fn every_feature_has_one_row() {
        // The last variant of the enumeration: as many rows as there are features.
        assert_eq!(TABLE.len(), Feature::Other as usize + 1);
        for (place, row) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..place].iter().all(|other| other.feature != row.feature),
                "{:?}",
                row.feature
            );
        }
    }

    #[test]
    fn says_what_is_lost_and_where() {
        let picture = Block::Image(Source::Url("https://example.com/a.png".into()));
        let conversation = Conversation {
            turns: vec![Turn {
                role: Role::User,
                blocks: vec![picture.clone(), picture],
            }],
            seed: Some(7.into()),
            others: vec!["previous_response_id".into(), "user".into(), "verbosity".into()],
            ..Conversation::default()
        };
        let told = |vendor, lossy| -> Vec<(String, bool)> {
            let losses = losses(&conversation, Format::OpenAiChat, vendor, lossy);
            losses
                .into_iter()
                .map(|loss| (loss.field.into_owned(), loss.refused))
                .collect()
        };
        let lost = |messages, seed, state, other| {
            let all = [
                ("messages", messages),
                ("seed", seed),
                ("previous_response_id", state),
                ("verbosity", other),
            ];
            all.map(|(field, refused)| (field.to_owned(), refused)).to_vec()
        };
        assert_eq!(told(Format::Converse, Lossy::Table), lost(true, false, true, false));
        assert_eq!(told(Format::Converse, Lossy::Allow), lost(false, false, false, false));
        assert_eq!(told(Format::Converse, Lossy::Refuse), lost(true, true, true, true));
        assert_eq!(
            told(Format::Messages, Lossy::Table),
            lost(true, false, true, false)[1..].to_vec()
        );
    }

    #[test]
    fn a_model_of_anthropics_thinks_on_conditions() {
        let told = |conversation: &Conversation<'_>, vendor| -> Vec<String> {
            let losses = losses(conversation, Format::OpenAiChat, vendor, Lossy::Table);
            losses.into_iter().map(|loss| loss.field.into_owned()).collect()
        };
        let thinking = Conversation {
            effort: Some(Effort::High),
            temperature: serde_json::Number::from_f64(0.5),
            stop: vec![" ".into()],
            ..Conversation::default()
        };
        assert_eq!(told(&thinking, Format::Messages), ["stop", "temperature or top_p"]);
        assert!(told(&thinking, Format::Gemini).is_empty());
        let function = crate::conversation::Function {
            name: "f".into(),
            description: None,
            parameters: None,
            strict: None,
        };
        let must_call = Conversation {
            tools: vec![Tool::Function(function)],
            tool_choice: Some(ToolChoice::Required),
            stop: Vec::new(),
            ..thinking
        };
        assert_eq!(told(&must_call, Format::Messages), ["reasoning_effort"]);
    }
}
