//! Targets: where a request may go.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use http::Uri;

use super::document::Written;
use super::section::Section;
use super::spelling::excerpt;
use super::{RouteTimeouts, Secret, Sim, Timeouts, text};
use crate::catalog::{self, Entry, Prices};
use crate::concurrency::{self, Limit};
use crate::conversation::Effort;
use crate::model_name;
use crate::vendor::{VENDORS, Vendor};
use crate::wire::fit::{Abilities, Sampling, Thinking};

/// One `[[target]]`: a vendor, a model and a credential.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// What routes, policies, logs and metrics call it; unique.
    pub name: String,
    /// The vendor's row in [`crate::vendor`].
    pub vendor: &'static Vendor,
    /// The vendor's name for the model.
    pub model: String,
    /// Where the vendor is: scheme, host, port and the path before the format's own path. The path has no slash at the
    /// end, unless it is nothing but that slash.
    pub base_url: Uri,
    /// Its credentials, which take turns; none: requests carry none, or one of the cloud's own.
    pub api_keys: Vec<Secret>,
    /// Tokens of prompt and answer together, if known.
    pub context_window: Option<u32>,
    /// The cloud's region, for vendors whose address or signature has one.
    pub region: Option<String>,
    /// The cloud's project, for vendors whose address has one.
    pub project: Option<String>,
    /// The version in the paths of vendors that want one.
    pub api_version: Option<String>,
    /// It uses the credentials of the cloud that the gateway runs in, or those that are usual there.
    pub cloud_credentials: bool,
    /// How many requests it may have in progress, and in line; default: as many as come.
    pub concurrency: concurrency::Rules,
    /// Tokens of answer, if known.
    pub max_output: Option<u32>,
    /// What its model can do.
    pub abilities: Abilities,
    /// What its model costs, if known.
    pub prices: Option<Prices>,
    /// Facts for policies, such as `region`, in the order of the file.
    pub attributes: Vec<(String, String)>,
    /// Those of `[timeouts]`, shortened where this target says so.
    pub timeouts: Timeouts,
    /// How a simulated vendor behaves; `None` for real ones.
    pub sim: Option<Sim>,
}

impl Target {
    /// The most tokens of an answer, where the client names none and the vendor's format must.
    pub fn default_max_tokens(&self) -> u64 {
        const USUAL: u64 = 8192;
        self.max_output.map_or(USUAL, |most| USUAL.min(most.into()))
    }

    pub(super) fn read(mut section: Section<'_>, name: Option<Written<&str>>, ceiling: &Timeouts) -> Option<Arc<Self>> {
        let vendor = read_vendor(&mut section);
        let model = read_model(&mut section);
        let region = read_segment(&mut section, "region");
        let project = read_segment(&mut section, "project");
        let api_version = read_segment(&mut section, "api_version");
        let base_url = read_base_url(&mut section, vendor, region.as_deref(), project.as_deref());
        let api_keys = read_api_keys(&mut section, vendor);
        let cloud_credentials = read_cloud_credentials(&mut section, vendor, api_keys.is_empty());
        let concurrency = read_concurrency(section.section("concurrency"));
        let known = known(vendor, model.as_ref().map(|model| model.value), base_url.as_ref());
        let context_window = section.whole("context_window", TOKENS);
        let max_output = section.whole("max_output", TOKENS);
        let prices = read_prices(&mut section, known.map(|known| known.prices));
        let can = catalog::abilities(model.as_ref().map_or("", |model| model.value));
        let abilities = read_abilities(section.section("can"), can);
        let attributes = text::attributes(&mut section);
        let shortened = RouteTimeouts::read(section.section("timeouts"), ceiling);
        let sim = read_sim(&mut section, vendor);
        section.close();
        Some(Arc::new(Self {
            name: name?.value.to_owned(),
            vendor: vendor?,
            model: model?.value.to_owned(),
            base_url: base_url?,
            api_keys,
            cloud_credentials,
            concurrency,
            region,
            project,
            api_version,
            context_window: context_window.or(known.map(|known| known.context_window)),
            max_output: max_output.or(known.and_then(|known| known.max_output)),
            abilities,
            prices,
            attributes,
            timeouts: ceiling.shortened(&shortened),
            sim,
        }))
    }
}

/// Tokens that a window can have.
const TOKENS: RangeInclusive<u64> = 1..=1_000_000_000;

/// US dollars that a million tokens can cost.
const DOLLARS: RangeInclusive<f64> = 0.0..=1e6;

impl Target {
    /// What a model at this target can do: its own, or another where a policy asks for one.
    pub fn abilities_of(&self, model: &str) -> &Abilities {
        if model == self.model {
            &self.abilities
        } else {
            catalog::abilities(model)
        }
    }

    /// What another model of the same vendor costs, where a policy asks for one. `None`: not known.
    pub fn prices_of(&self, model: &str) -> Option<Prices> {
        if model == self.model {
            return self.prices;
        }
        known(Some(self.vendor), Some(model), Some(&self.base_url)).map(|known| known.prices)
    }
}

/// What the catalog knows of a model: at the vendor, or else at the host of an address.
fn known(vendor: Option<&Vendor>, model: Option<&str>, base_url: Option<&Uri>) -> Option<&'static Entry> {
    let (vendor, model) = (vendor?, model?);
    let host = || base_url.and_then(Uri::host);
    catalog::lookup(vendor.name, model).or_else(|| catalog::lookup(host()?, model))
}

/// What the user wrote of the model's abilities, each instead of the `known` one.
fn read_abilities(mut section: Section<'_>, known: &Abilities) -> Abilities {
    const EFFORTS: [(&str, Effort); 7] = [
        ("none", Effort::None),
        ("minimal", Effort::Minimal),
        ("low", Effort::Low),
        ("medium", Effort::Medium),
        ("high", Effort::High),
        ("xhigh", Effort::XHigh),
        ("max", Effort::Max),
    ];
    let thinking = [
        ("never", Thinking::Never),
        ("budget", Thinking::Budget),
        ("effort", Thinking::Effort),
    ];
    let sampling = [
        ("all", Sampling::All),
        ("one", Sampling::One),
        ("none", Sampling::Nothing),
    ];
    let mut efforts = section
        .choices("efforts", &EFFORTS)
        .unwrap_or_else(|| known.efforts.clone());
    efforts.sort_unstable();
    let abilities = Abilities {
        thinking: section.choice("thinking", &thinking).unwrap_or(known.thinking),
        efforts,
        sampling: section.choice("sampling", &sampling).unwrap_or(known.sampling),
        tools_in_chat: section.flag("tools_in_chat").unwrap_or(known.tools_in_chat),
    };
    section.close();
    abilities
}

/// The prices that the user wrote, each instead of the `known` one.
fn read_prices(section: &mut Section<'_>, known: Option<Prices>) -> Option<Prices> {
    let written = ["input_price", "cached_input_price", "cache_write_price", "output_price"]
        .map(|key| section.number(key, DOLLARS));
    let [input, cached_input, cache_write, output] = written;
    let is_own = written.iter().any(Option::is_some);
    let input = input.or(known.map(|known| known.input));
    let output = output.or(known.map(|known| known.output));
    if is_own && (input.is_none() || output.is_none()) {
        let found = format!("the prices in {} do not say what an answer costs", section.title());
        let instead = "write both input_price and output_price";
        section.document.suspicious(section.line, found, instead);
    }
    if cached_input > input && input.is_some() {
        let line = section.line_of("cached_input_price");
        section.wrong(
            line,
            "cached_input_price",
            "is more than input_price",
            "write at most that",
        );
    }
    Some(Prices {
        input: input?,
        cached_input: cached_input.or(known.and_then(|known| known.cached_input)),
        cache_write: cache_write.or(known.and_then(|known| known.cache_write)),
        output: output?,
        // Prices of one's own are for prompts of any length.
        long_prompt: known.and_then(|known| known.long_prompt).filter(|_| !is_own),
    })
}

/// Whether only this machine can be behind an address.
pub(super) fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn read_vendor(section: &mut Section<'_>) -> Option<&'static Vendor> {
    let written = section.required("vendor")?;
    let vendor = Vendor::named(written.value);
    if vendor.is_none() {
        let found = format!("unknown vendor `{}` in [[target]]", excerpt(written.value));
        let names: Vec<_> = VENDORS.iter().map(|vendor| vendor.name).collect();
        section
            .document
            .wrong(written.line, found, format!("write one of {}", names.join(", ")));
    }
    vendor
}

/// A word that becomes a part of an address.
/// The model stands in some vendors' paths, where it must stay in its place.
fn read_model<'a>(section: &mut Section<'a>) -> Option<Written<&'a str>> {
    let written = section.required("model")?;
    if model_name::is_usable(written.value) {
        return Some(written);
    }
    let found = format!("is \"{}\", which is no model's name", excerpt(written.value));
    section.wrong(
        written.line,
        "model",
        &found,
        "write the model's name as the vendor spells it",
    );
    None
}

fn read_segment(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let written = section.word(key)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if !written.value.chars().all(is_plain) {
        section.wrong(
            written.line,
            key,
            &format!("is \"{}\"", excerpt(written.value)),
            "write letters, digits, `-`, `.` and `_`",
        );
        return None;
    }
    Some(written.value.to_owned())
}

fn read_base_url(
    section: &mut Section<'_>,
    vendor: Option<&Vendor>,
    region: Option<&str>,
    project: Option<&str>,
) -> Option<Uri> {
    let written = section.word("base_url");
    let vendor = vendor?;
    let Some(written) = written else {
        if let Some(own) = vendor.address(region, project) {
            return own.parse().ok();
        }
        for (key, value) in [("region", region), ("project", project)] {
            let is_wanted = vendor.base_url.is_some_and(|url| url.contains(&format!("{{{key}}}")));
            if is_wanted && value.is_none() && !section.has("base_url") && !section.has(key) {
                section.missing(key, format!("write {key} = \"…\", as the vendor's console calls it"));
            }
        }
        if vendor.base_url.is_some() {
            return None;
        }
        if !section.has("base_url") {
            section.missing("base_url", format!("write base_url = \"{}\"", vendor.base_url_example));
        }
        return None;
    };
    if vendor.simulated {
        section.wrong(written.line, "base_url", "is not for simulated vendors", "leave it out");
    }
    // The address is not repeated in what follows: it may have a credential in it.
    let url = parse_base_url(written.value);
    if let Err(fault) = url {
        section.wrong(
            written.line,
            "base_url",
            fault,
            format!("write it like \"{}\"", vendor.base_url_example),
        );
    }
    let url = url.ok()?;
    let is_bare = url.scheme_str() == Some("http") && !is_loopback(url.host().unwrap_or_default());
    if is_bare && section.has("api_key") {
        let found = "the api_key of [[target]] goes over the network unencrypted";
        section
            .document
            .suspicious(written.line, found, "write https:// if the vendor speaks it");
    }
    Some(url)
}

/// A whole address, or what is wrong with it.
pub(super) fn parse_base_url(text: &str) -> Result<Uri, &'static str> {
    let url: Uri = text.trim_end_matches('/').parse().map_err(|_| "is not an address")?;
    match url.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return Err("is an address of neither http nor https"),
        None => return Err("is not a whole address"),
    }
    if url
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err("has a credential in it");
    }
    if text.contains(['?', '#']) {
        return Err("has more than a path behind the host");
    }
    Ok(url)
}

/// `credentials = "cloud"`, which goes without saying where a vendor's cloud is what usually says who pays.
fn read_cloud_credentials(section: &mut Section<'_>, vendor: Option<&Vendor>, has_no_key: bool) -> bool {
    let wanted = section.choice("credentials", &[("key", false), ("cloud", true)]);
    let Some(vendor) = vendor else { return false };
    if wanted == Some(true) && vendor.has_cloud_credentials().is_none() {
        let line = section.line_of("credentials");
        section.wrong(
            line,
            "credentials",
            "is \"cloud\", and the vendor is none",
            "leave it out and write api_key",
        );
    }
    wanted.unwrap_or(has_no_key && vendor.has_cloud_credentials() == Some(true))
}

fn read_concurrency(mut section: Section<'_>) -> concurrency::Rules {
    const MOST: u64 = 1_000_000;
    let fixed: Option<u32> = section.whole("limit", 1..=MOST);
    let adaptive = section.flag("adaptive").unwrap_or_default();
    let least = section.whole("least", 1..=MOST);
    let default = concurrency::Rules::default();
    let queue = section.whole("queue", 0..=MOST).unwrap_or(default.queue);
    let patience = section.millis("queue_ms", 0..=3_600_000).unwrap_or(default.patience);
    section.close();
    let limit = match (fixed, adaptive) {
        (most, true) => Limit::Adaptive {
            least: least.unwrap_or(1),
            most: most.unwrap_or(MOST as u32),
        },
        (Some(limit), false) => Limit::Fixed(limit),
        (None, false) => Limit::Unlimited,
    };
    concurrency::Rules { limit, queue, patience }
}

/// `api_key`, or several in `api_keys`.
fn read_api_keys(section: &mut Section<'_>, vendor: Option<&Vendor>) -> Vec<Secret> {
    let single = read_api_key(section, vendor);
    let several = Secret::read_list(section, "api_keys");
    if section.has("api_key") && section.has("api_keys") {
        let line = section.line_of("api_keys");
        section.wrong(
            line,
            "api_keys",
            "stands beside `api_key`",
            "write all keys in `api_keys`",
        );
    }
    single.into_iter().chain(several).collect()
}

fn read_api_key(section: &mut Section<'_>, vendor: Option<&Vendor>) -> Option<Secret> {
    let api_key = Secret::read(section, "api_key");
    let vendor = vendor?;
    if section.has("api_key") {
        if vendor.simulated {
            section.wrong(
                section.line_of("api_key"),
                "api_key",
                "is not for simulated vendors",
                "leave it out",
            );
        }
    } else if let Some(variable) = vendor.key_variable {
        // Whoever stands in for the vendor at an address of its own may need no key; at the vendor's everybody does.
        let is_of_cloud = section.has("credentials");
        let is_own_address = vendor.base_url.is_none() || !section.has("base_url");
        if is_own_address && !section.has("api_keys") && !is_of_cloud {
            section.missing("api_key", format!("write api_key = {{ env = \"{variable}\" }}"));
        }
    }
    api_key
}

fn read_sim(section: &mut Section<'_>, vendor: Option<&Vendor>) -> Option<Sim> {
    let sim = Sim::read(section.section("sim"));
    let is_simulated = vendor?.simulated;
    if !is_simulated && section.has("sim") {
        section.wrong(
            section.line_of("sim"),
            "sim",
            "is for simulated vendors only",
            "leave it out or write vendor = \"sim\"",
        );
    }
    is_simulated.then_some(sim)
}
