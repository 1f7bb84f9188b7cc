//! What well-known models cost and hold, and what an answer cost. The facts are in `catalog.toml`; what a configuration says of a target
//! goes before them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::SystemTime;

use serde::Deserialize;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use crate::chat::Usage;
use crate::conversation::Effort;
use crate::wire::fit::{Abilities, Sampling, Thinking};

/// What is known of one model at one vendor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Tokens of prompt and answer together.
    pub context_window: u32,
    /// Tokens of answer, if known.
    pub max_output: Option<u32>,
    /// What it costs.
    pub prices: Prices,
}

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Of prompt.
    pub input: f64,
    /// Of prompt that the vendor's cache had. `None`: as any other.
    pub cached_input: Option<f64>,
    /// Of prompt that the vendor's cache took in. `None`: as any other.
    pub cache_write: Option<f64>,
    /// Of answer, reasoning included.
    pub output: f64,
    /// What long prompts cost. `None`: no more than short ones.
    pub long_prompt: Option<LongPrompt>,
}

/// From which size of a prompt on everything costs more, and how much more.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongPrompt {
    /// Tokens of a prompt that still costs what short ones do.
    pub above: u64,
    /// Times as much for input of every kind.
    pub input: f64,
    /// Times as much for output.
    pub output: f64,
}

/// What a model at a vendor costs and holds. `vendor` is the name of a row of [`crate::vendor`] or the host of an address;
/// `model` is the vendor's name for the model, with or without a date, a version or a geography. `None`: not known, which is
/// not the same as free.
pub fn lookup(vendor: &str, model: &str) -> Option<&'static Entry> {
    CATALOG.lookup(vendor, model)
}

/// What a model can do, whoever sells it: as the first row says whose names fit, so that the newest model of a family stands for those that
/// nobody knows yet. Where there is no such row, nothing is asked that a model could refuse.
pub fn abilities(model: &str) -> &'static Abilities {
    static PLAIN: Abilities = Abilities::PLAIN;
    let name = bare(model);
    let found = CATALOG
        .abilities
        .iter()
        .find(|(names, _)| names.iter().any(|pattern| fits(pattern, &name)));
    found.map_or(&PLAIN, |(_, abilities)| abilities)
}

/// A model's name without what its sellers put before it; dots and dashes are the same.
fn bare(model: &str) -> String {
    let name = lowercase(model).replace('.', "-");
    let mut name = name.rsplit('/').next().unwrap_or_default();
    for prefix in GEOGRAPHIES.iter().chain(&["global"]).chain(&MAKERS) {
        name = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('-'))
            .unwrap_or(name);
    }
    name.to_owned()
}

/// What stands before the names of models at Bedrock.
const MAKERS: [&str; 6] = ["anthropic", "openai", "meta", "deepseek", "qwen", "google"];

/// Whether a name is a pattern's; `*` at its end is any rest.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// The day on which the catalog's prices held, as YYYY-MM-DD.
pub fn as_of() -> &'static str {
    &CATALOG.as_of
}

/// So many days prices can be trusted to hold.
const FRESH_DAYS: i64 = 180;

/// What operators should know of the catalog's age on the day of `now`; `None` while it is fresh.
pub fn outdated(now: SystemTime) -> Option<String> {
    let as_of = Date::parse(as_of(), format_description!("[year]-[month]-[day]")).ok()?;
    let days = (OffsetDateTime::from(now).date() - as_of).whole_days();
    (days > FRESH_DAYS).then(|| {
        format!(
            "the built-in catalog of prices and context windows is of {as_of}, {days} days ago; upgrade the gateway, or state \
             what has changed in your [[target]] tables"
        )
    })
}

/// What an answer cost, in US dollars.
pub fn cost(prices: &Prices, usage: &Usage) -> f64 {
    // A vendor whose parts are more than its whole is believed about the whole.
    let cached = usage.cached_tokens.min(usage.input_tokens);
    let written = usage.cache_write_tokens.min(usage.input_tokens - cached);
    let rest = usage.input_tokens - cached - written;
    let priced = |tokens: u64, price: f64| tokens as f64 * price;
    let input = priced(rest, prices.input)
        + priced(cached, prices.cached_input())
        + priced(written, prices.cache_write.unwrap_or(prices.input));
    let output = priced(usage.output_tokens, prices.output);
    let (input_times, output_times) = prices.times(usage.input_tokens);
    (input * input_times + output * output_times) / 1e6
}

impl Prices {
    /// What cached input costs, which is never more than input that is not.
    fn cached_input(&self) -> f64 {
        self.cached_input.unwrap_or(self.input).min(self.input)
    }

    /// How many times as much input and output cost with a prompt of so many tokens.
    fn times(&self, prompt: u64) -> (f64, f64) {
        match self.long_prompt {
            Some(long) if prompt > long.above => (long.input, long.output),
            _ => (1.0, 1.0),
        }
    }

    /// So many times as much.
    fn scaled(&self, times: f64) -> Self {
        Self {
            input: self.input * times,
            cached_input: self.cached_input.map(|price| price * times),
            cache_write: self.cache_write.map(|price| price * times),
            output: self.output * times,
            long_prompt: self.long_prompt,
        }
    }
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let book = toml::from_str(include_str!("catalog.toml")).expect("a test has parsed the same text");
    Catalog::of(book)
});

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    as_of: String,
    family: Vec<Family>,
    ability: Vec<AbilityRow>,
}

/// What models of these names can do.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AbilityRow {
    models: Vec<String>,
    thinking: ThinkingWord,
    #[serde(default)]
    efforts: Vec<String>,
    #[serde(default)]
    sampling: SamplingWord,
    #[serde(default = "yes")]
    tools_in_chat: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ThinkingWord {
    Never,
    Budget,
    Effort,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum SamplingWord {
    #[default]
    All,
    One,
    None,
}

fn yes() -> bool {
    true
}

impl AbilityRow {
    fn abilities(&self) -> Abilities {
        Abilities {
            thinking: match self.thinking {
                ThinkingWord::Never => Thinking::Never,
                ThinkingWord::Budget => Thinking::Budget,
                ThinkingWord::Effort => Thinking::Effort,
            },
            efforts: self.efforts.iter().filter_map(|name| Effort::named(name)).collect(),
            sampling: match self.sampling {
                SamplingWord::All => Sampling::All,
                SamplingWord::One => Sampling::One,
                SamplingWord::None => Sampling::Nothing,
            },
            tools_in_chat: self.tools_in_chat,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    sold_by: Vec<String>,
    model: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    names: Vec<String>,
    context_window: u32,
    max_output: Option<u32>,
    input_price: f64,
    cached_input_price: Option<f64>,
    cache_write_price: Option<f64>,
    output_price: f64,
    long_prompt: Option<LongPrompt>,
    regional: Option<f64>,
}

/// The entries of each vendor or host, by name.
#[derive(Default)]
struct Catalog {
    as_of: String,
    /// Patterns of names, and what such models can do.
    abilities: Vec<(Vec<String>, Abilities)>,
    sellers: HashMap<String, HashMap<String, Listed>>,
}

/// One name of a model: what it is worldwide, and at an endpoint of a region or geography.
#[derive(Clone, Copy)]
struct Listed {
    global: Entry,
    regional: Entry,
}

/// What stands before a model's name where Bedrock spreads its requests over a geography.
const GEOGRAPHIES: [&str; 9] = ["us", "us-gov", "eu", "apac", "jp", "au", "ca", "in", "sa"];

impl Model {
    fn listed(&self) -> Listed {
        let global = Entry {
            context_window: self.context_window,
            max_output: self.max_output,
            prices: Prices {
                input: self.input_price,
                cached_input: self.cached_input_price,
                cache_write: self.cache_write_price,
                output: self.output_price,
                long_prompt: self.long_prompt,
            },
        };
        let prices = global.prices.scaled(self.regional.unwrap_or(1.0));
        Listed {
            global,
            regional: Entry { prices, ..global },
        }
    }
}

impl Catalog {
    fn of(book: Book) -> Self {
        let mut catalog = Self {
            as_of: book.as_of,
            abilities: book
                .ability
                .into_iter()
                .map(|row| (row.models.clone(), row.abilities()))
                .collect(),
            ..Self::default()
        };
        for family in book.family {
            for seller in family.sold_by {
                let names = catalog.sellers.entry(seller).or_default();
                for model in &family.model {
                    names.extend(model.names.iter().map(|name| (name.clone(), model.listed())));
                }
            }
        }
        catalog
    }

    fn lookup(&self, vendor: &str, model: &str) -> Option<&Entry> {
        let names = self.sellers.get(vendor)?;
        let model = lowercase(model);
        // A name may stand behind a path: `models/…`, `publishers/…/models/…`, the resource name of an inference profile.
        let last = model.rsplit_once('/').map(|(_, last)| last);
        [Some(&*model), last]
            .into_iter()
            .flatten()
            .find_map(|model| find_anywhere(names, model))
    }
}

fn lowercase(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// As it is written, or else without a geography.
fn find_anywhere<'a>(names: &'a HashMap<String, Listed>, model: &str) -> Option<&'a Entry> {
    if let Some(listed) = find(names, model) {
        return Some(&listed.regional);
    }
    let (geography, rest) = model.split_once('.')?;
    if geography == "global" {
        return find(names, rest).map(|listed| &listed.global);
    }
    let is_known = GEOGRAPHIES.contains(&geography);
    is_known
        .then(|| find(names, rest))
        .flatten()
        .map(|listed| &listed.regional)
}

/// The name itself, or else the longest one behind which there is nothing but a version.
fn find<'a>(names: &'a HashMap<String, Listed>, model: &str) -> Option<&'a Listed> {
    let cuts = model.rmatch_indices(['-', '@', ':']).map(|(at, _)| at);
    std::iter::once(model.len())
        .chain(cuts)
        .filter(|at| is_version(&model[*at..]))
        .find_map(|at| names.get(&model[..at]))
}

/// Whether what stands behind a model's name says no more than which version of it: `-2024-08-06`, `@20250929`,
/// `-20250929-v1:0`, `-001`, `-preview-05-20`, `-latest`. One digit or two make another model: `claude-opus-4-5` is no version
/// of `claude-opus-4`.
fn is_version(text: &str) -> bool {
    let mut rest = text;
    let mut begun = false;
    while let Some(separator) = rest.chars().next() {
        let word_at = separator.len_utf8();
        let end = rest[word_at..]
            .find(['-', '@', ':'])
            .map_or(rest.len(), |at| word_at + at);
        let word = &rest[word_at..end];
        if !is_version_word(separator, word, begun) {
            return false;
        }
        begun = true;
        rest = &rest[end..];
    }
    true
}

fn is_version_word(separator: char, word: &str, begun: bool) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match separator {
        '@' => is_number(word) || ["default", "latest"].contains(&word),
        ':' => is_number(word),
        '-' if is_number(word) => begun || word.len() >= 3,
        '-' => ["preview", "latest"].contains(&word) || word.strip_prefix('v').is_some_and(is_number),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_catalog_is_outdated_after_half_a_year() {
        let as_of = Date::parse(as_of(), format_description!("[year]-[month]-[day]")).unwrap();
        let after = |days| SystemTime::from(as_of.midnight().assume_utc() + time::Duration::days(days));
        for days in [-1, 0, 180] {
            assert_eq!(outdated(after(days)), None, "{days}");
        }
        let warning = outdated(after(181)).unwrap();
        assert!(
            warning.contains(super::as_of()) && warning.contains("181 days"),
            "{warning}"
        );
    }

    fn book() -> Book {
        toml::from_str(include_str!("catalog.toml")).unwrap_or_else(|error| panic!("{error}"))
    }

    fn input_price(vendor: &str, model: &str) -> Option<f64> {
        lookup(vendor, model).map(|entry| entry.prices.input)
    }

    #[test]
    fn the_file_says_when_it_was_read() {
        let as_of = as_of();
        let numbers: Vec<u32> = as_of.split('-').map(|part| part.parse().unwrap()).collect();
        let [year, month, day] = numbers[..] else {
            panic!("{as_of}")
        };
        assert!(
            year >= 2026 && (1..=12).contains(&month) && (1..=31).contains(&day),
            "{as_of}"
        );
    }

    #[test]
    fn every_ability_is_of_a_name_and_known_efforts() {
        for row in book().ability {
            assert!(
                row.models
                    .iter()
                    .all(|name| !name.contains(['.', '/']) && !name.contains(char::is_uppercase)),
                "{:?}",
                row.models
            );
            assert!(
                row.efforts.iter().all(|effort| Effort::named(effort).is_some()),
                "{:?}",
                row.efforts
            );
            assert!(row.abilities().efforts.is_sorted(), "{:?}", row.models);
        }
    }

    #[test]
    fn models_can_do_what_their_vendors_say() {
        let cases = [
            ("gpt-4o-2024-08-06", Thinking::Never, Sampling::All, true),
            ("gpt-5", Thinking::Effort, Sampling::Nothing, true),
            ("gpt-5-chat", Thinking::Never, Sampling::All, true),
            ("gpt-5.4-mini", Thinking::Effort, Sampling::Nothing, false),
            ("openai/gpt-5.6", Thinking::Effort, Sampling::Nothing, false),
            ("gpt-7-unheard-of", Thinking::Effort, Sampling::Nothing, false),
            ("o3-mini", Thinking::Effort, Sampling::Nothing, true),
            ("claude-3-5-sonnet-20241022", Thinking::Never, Sampling::All, true),
            ("claude-sonnet-4-20250514", Thinking::Budget, Sampling::All, true),
            (
                "us.anthropic.claude-haiku-4-5-20251001-v1:0",
                Thinking::Budget,
                Sampling::One,
                true,
            ),
            ("anthropic/claude-opus-4.8", Thinking::Effort, Sampling::Nothing, true),
            ("claude-next-9", Thinking::Effort, Sampling::Nothing, true),
            ("gemini-2.0-flash", Thinking::Never, Sampling::All, true),
            (
                "publishers/google/models/gemini-2.5-pro",
                Thinking::Budget,
                Sampling::All,
                true,
            ),
            ("gemini-3-pro", Thinking::Effort, Sampling::All, true),
            ("llama-3.1-8b-instant", Thinking::Never, Sampling::All, true),
            ("my-deployment", Thinking::Never, Sampling::All, true),
        ];
        for (model, thinking, sampling, tools_in_chat) in cases {
            let can = abilities(model);
            assert_eq!(
                (can.thinking, can.sampling, can.tools_in_chat),
                (thinking, sampling, tools_in_chat),
                "{model}"
            );
        }
        assert!(!abilities("gemini-2.5-pro").efforts.contains(&Effort::None));
        assert!(
            abilities("gpt-5.1").efforts.contains(&Effort::None) && !abilities("gpt-5").efforts.contains(&Effort::None)
        );
    }

    #[test]
    fn no_vendor_sells_a_name_twice() {
        let mut seen = HashSet::new();
        for family in book().family {
            for seller in &family.sold_by {
                for name in family.model.iter().flat_map(|model| &model.names) {
                    assert!(!name.contains(char::is_uppercase), "{name} is never found");
                    assert!(
                        seen.insert((seller.clone(), name.clone())),
                        "{seller} sells {name} twice"
                    );
                }
            }
        }
    }

    #[test]
    fn every_number_makes_sense() {
        for model in book().family.iter().flat_map(|family| &family.model) {
            let (name, prices) = (&model.names[0], model.listed().global.prices);
            let is_embedding = name.contains("embed");
            assert!(model.context_window >= 1024, "{name}");
            assert!(
                model
                    .max_output
                    .is_none_or(|most| (1..=model.context_window).contains(&most)),
                "{name}"
            );
            assert!(prices.input > 0.0 && prices.input <= 1000.0, "{name}");
            assert!(prices.output <= 1000.0, "{name}");
            assert!(
                if is_embedding {
                    prices.output == 0.0
                } else {
                    prices.output >= prices.input
                },
                "{name}"
            );
            assert!(
                prices
                    .cached_input
                    .is_none_or(|price| price > 0.0 && price <= prices.input),
                "{name}"
            );
            assert!(prices.cache_write.is_none_or(|price| price >= prices.input), "{name}");
            assert!(model.regional.is_none_or(|times| (1.0..2.0).contains(&times)), "{name}");
            let long = prices.long_prompt;
            assert!(
                long.is_none_or(|long| long.above > 0 && long.input >= 1.0 && long.output >= 1.0),
                "{name}"
            );
        }
    }

    #[test]
    fn the_same_model_costs_the_same_on_bedrock() {
        for (vendor, maker) in [("anthropic", "anthropic"), ("openai", "openai")] {
            for (name, listed) in &CATALOG.sellers[vendor] {
                if let Some(bedrock) = lookup("bedrock", &format!("global.{maker}.{name}")) {
                    assert_eq!(bedrock, &listed.global, "{name}");
                }
            }
        }
    }

    #[test]
    fn dates_and_versions_are_not_part_of_a_name() {
        for (vendor, model, price) in [
            ("openai", "gpt-4o", 2.5),
            ("openai", "gpt-4o-2024-08-06", 2.5),
            ("openai", "gpt-4o-2024-05-13", 5.0),
            ("openai", "gpt-4o-mini-2024-07-18", 0.15),
            ("openai", "GPT-5-2025-08-07", 1.25),
            ("openai", "gpt-5.4-mini", 0.75),
            ("openai", "gpt-5-chat-latest", 1.25),
            ("openai", "gpt-4-1106-preview", 10.0),
            ("openai", "gpt-4-0613", 30.0),
            ("openai", "text-embedding-3-small", 0.02),
            ("anthropic", "claude-sonnet-4-5-20250929", 3.0),
            ("anthropic", "claude-opus-4-20250514", 15.0),
            ("anthropic", "claude-opus-4-5", 5.0),
            ("anthropic", "claude-3-5-haiku-latest", 0.8),
            ("vertex", "claude-sonnet-4-5@20250929", 3.0),
            ("vertex", "claude-opus-4-6@default", 5.0),
            ("vertex", "publishers/google/models/gemini-2.5-pro", 1.25),
            ("gemini", "models/gemini-2.0-flash-001", 0.1),
            ("gemini", "gemini-2.5-flash-lite-preview-09-2025", 0.1),
            ("gemini", "gemini-3-flash-preview", 0.5),
            ("mistral", "mistral-small-latest", 0.15),
            ("groq", "openai/gpt-oss-20b", 0.075),
            ("api.deepseek.com", "deepseek-v4-pro", 1.32),
        ] {
            assert_eq!(input_price(vendor, model), Some(price), "{model}");
        }
    }

    #[test]
    fn bedrock_names_begin_with_a_geography() {
        for (model, price) in [
            ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 3.0),
            ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 3.3),
            ("anthropic.claude-sonnet-4-5-20250929-v1:0", 3.3),
            ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", 3.0),
            ("anthropic.claude-opus-4-6-v1", 5.5),
            ("amazon.nova-pro-v1:0", 0.8),
            ("us.amazon.nova-pro-v1:0", 0.8),
            ("eu.amazon.nova-pro-v1:0", 1.05),
            ("us.meta.llama3-3-70b-instruct-v1:0", 0.72),
            ("openai.gpt-oss-120b-1:0", 0.15),
            (
                "arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-lite-v1:0",
                0.06,
            ),
        ] {
            let found = input_price("bedrock", model).unwrap_or_else(|| panic!("{model}"));
            assert!((found - price).abs() < 1e-9, "{model}: {found}");
        }
    }

    #[test]
    fn what_is_not_known_has_no_price() {
        for (vendor, model) in [
            ("openai", ""),
            ("openai", "gpt-9"),
            ("openai", "gpt-5.9"),
            ("openai", "gpt-4o-audio-preview"),
            ("openai", "gpt-4o-"),
            ("openai", "gpt-4oo"),
            ("openai", "claude-opus-4-5"),
            ("anthropic", "claude-opus-4-9"),
            ("anthropic", "claude-opus-4-9-20270101"),
            ("gemini", "gemini-2.5-flash-preview-tts"),
            ("mistral", "mistral-large-2402"),
            ("bedrock", "xx.amazon.nova-pro-v1:0"),
            ("azure", "gpt-4o"),
            ("sim", "gpt-4o"),
            ("nobody", "gpt-4o"),
        ] {
            assert_eq!(lookup(vendor, model), None, "{vendor} {model}");
        }
    }

    const PRICES: Prices = Prices {
        input: 4.0,
        cached_input: Some(1.0),
        cache_write: Some(5.0),
        output: 20.0,
        long_prompt: Some(LongPrompt {
            above: 1_000_000,
            input: 2.0,
            output: 1.5,
        }),
    };

    fn usage(input: u64, cached: u64, written: u64, output: u64) -> Usage {
        Usage {
            input_tokens: input,
            cached_tokens: cached,
            cache_write_tokens: written,
            output_tokens: output,
            reasoning_tokens: output / 2,
        }
    }

    #[test]
    fn every_kind_of_token_has_its_price() {
        let parts = usage(1_000_000, 500_000, 100_000, 10_000);
        // 0.4 million at 4, half a million at 1, 0.1 million at 5, 0.01 million at 20.
        assert!((cost(&PRICES, &parts) - (1.6 + 0.5 + 0.5 + 0.2)).abs() < 1e-12);
        let plain = Prices {
            cached_input: None,
            cache_write: None,
            ..PRICES
        };
        assert!((cost(&plain, &parts) - 4.2).abs() < 1e-12);
        assert_eq!(cost(&PRICES, &Usage::default()), 0.0);
    }

    #[test]
    fn long_prompts_cost_more() {
        let long = usage(1_000_001, 0, 0, 1_000_000);
        assert!((cost(&PRICES, &long) - (8.000_008 + 30.0)).abs() < 1e-9);
    }

    #[test]
    fn parts_that_are_more_than_the_whole_cost_no_more() {
        assert_eq!(
            cost(&PRICES, &usage(100, 200, 300, 0)),
            cost(&PRICES, &usage(100, 100, 0, 0))
        );
        assert_eq!(
            cost(&PRICES, &usage(100, 40, u64::MAX, 0)),
            cost(&PRICES, &usage(100, 40, 60, 0))
        );
    }

    prop_compose! {
        fn prices()(
            input in 0.0..100.0,
            cached_input in proptest::option::of(0.0..200.0),
            times_written in proptest::option::of(1.0..3.0),
            output in 0.0..500.0,
            long_prompt in proptest::option::of((0..1_000_000u64, 1.0..5.0, 1.0..5.0)),
        ) -> Prices {
            let long = |(above, input, output)| LongPrompt { above, input, output };
            let cache_write = times_written.map(|times| input * times);
            Prices { input, cached_input, cache_write, output, long_prompt: long_prompt.map(long) }
        }
    }

    const TOKENS: std::ops::Range<u64> = 0..2_000_000;

    proptest! {
        #[test]
        fn any_cost_is_a_number_that_is_not_negative(
            prices in prices(),
            counted in any::<[u64; 4]>(),
        ) {
            let cost = cost(&prices, &usage(counted[0], counted[1], counted[2], counted[3]));
            prop_assert!(cost.is_finite() && cost >= 0.0);
        }

        #[test]
        fn more_tokens_never_cost_less(
            prices in prices(),
            (input, cached, written, output) in (TOKENS, TOKENS, TOKENS, TOKENS),
            (more_input, more_output) in (TOKENS, TOKENS),
        ) {
            let before = cost(&prices, &usage(input, cached, written, output));
            let after = cost(&prices, &usage(input + more_input, cached, written, output + more_output));
            prop_assert!(after >= before - 1e-9, "{before} {after}");
        }

        #[test]
        fn the_cache_never_makes_it_dearer(
            prices in prices(),
            (plain, cached, written, output) in (TOKENS, TOKENS, TOKENS, TOKENS),
        ) {
            let input = plain + cached + written;
            let without = cost(&prices, &usage(input, 0, written, output));
            let with = cost(&prices, &usage(input, cached, written, output));
            prop_assert!(with <= without + 1e-9, "{without} {with}");
        }

        #[test]
        fn any_name_is_looked_up(model in "\\PC{0,40}|gpt-4o[-@:.a-z0-9é]{0,12}") {
            for vendor in CATALOG.sellers.keys() {
                let _ = lookup(vendor, &model);
            }
        }
    }
}
