//! The configurations in `examples/` are usable as printed.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::{Config, OnError};

/// The ready-made policies in `plugins/`.
const READY_MADE: [&str; 5] = ["plan-b", "cheapest", "fastest", "residency", "canary"];

/// An environment in which every key is set, each to something else.
fn env(name: &str) -> Option<String> {
    name.contains("KEY").then(|| format!("secret of {name}"))
}

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "toml"))
        .collect()
}

fn example(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    Config::load(&path, &env).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_example_loads_without_a_warning() {
    let examples = examples();
    assert!(examples.len() >= 4);
    for path in examples {
        let config = Config::load(&path, &env).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let used = config.routes.iter().flat_map(|route| &route.policies);
        for policy in used.chain(config.policy.keys()) {
            assert!(READY_MADE.contains(&policy.as_str()), "{policy} in {}", path.display());
        }
    }
}

#[test]
fn every_example_says_in_three_lines_when_to_take_it() {
    for path in examples() {
        let text = fs::read_to_string(&path).unwrap();
        let comments = text.lines().take_while(|line| line.starts_with("# ")).count();
        assert!(comments == 3 && text.starts_with("# Take this "), "{}", path.display());
    }
}

#[test]
fn the_targets_that_settings_name_exist() {
    for path in examples() {
        let config = Config::load(&path, &env).unwrap();
        for rules in config.policy.values() {
            let names = ["order", "primary", "target"]
                .iter()
                .filter_map(|setting| rules.settings.get(*setting));
            for name in names.flat_map(|names| names.split(',')) {
                assert!(
                    config.targets.iter().any(|target| target.name == name),
                    "{name} in {}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn a_whole_example() {
    let config = example("own-machines.toml");
    assert_eq!(
        config.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(),
        ["berlin", "austin"]
    );
    assert_eq!(
        config.keys[0].secret.as_ref().unwrap().reveal(),
        "secret of POINTSMAN_KEY_BERLIN"
    );
    assert_eq!(config.keys[0].attributes, [("region".to_owned(), "eu".to_owned())]);
    assert_eq!(config.rules("residency").settings["from"], "client.region");
    assert_eq!(config.rules("plan-b").settings["order"], "gpu-1,gpu-2,gpu-3,overflow");
    let route = config.route_for("any-model").unwrap();
    assert_eq!(
        (route.on_error, route.policies.len(), route.targets.len()),
        (OnError::Reject, 2, 4)
    );
    let (own, overflow) = (&route.targets[0], &route.targets[3]);
    assert_eq!(
        (own.vendor.name, own.base_url.to_string().as_str()),
        ("vllm", "http://10.0.0.11:8000/v1")
    );
    assert_eq!((own.api_keys.is_empty(), own.context_window), (true, Some(32_768)));
    assert_eq!(
        (overflow.base_url.host(), !overflow.api_keys.is_empty()),
        (Some("api.mistral.ai"), true)
    );
    assert_eq!(overflow.timeouts, config.timeouts);
}

/// What a key of a section is called in the message about one that is unknown.
fn known_keys(before: &str) -> Vec<String> {
    let errors = super::all_errors(&format!("{before}\nxyzzy = 1\n"));
    let known = errors.iter().find_map(|error| error.split_once("known keys are "));
    let (_, names) = known.unwrap_or_else(|| panic!("{errors:?}"));
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What a file says that has every setting is what holds without it, and it has every setting.
#[test]
fn every_setting_is_there_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/every-setting.toml");
    let text = fs::read_to_string(&path).unwrap();
    let written = Config::load(&path, &env).unwrap();
    let plain = "policy.plan-b.settings.primary = \"gpt\"\n[[target]]\nname = \"gpt\"\nvendor = \"openai\"\nmodel = \"gpt-5.4\"\n\
                 api_key = { env = \"OPENAI_API_KEY\" }\n[[target]]\nname = \"rehearsal\"\nvendor = \"sim\"\nmodel = \"any\"\n\
                 [[route]]\nmodel = \"smart\"\ntargets = [\"gpt\", \"rehearsal\"]\npolicies = [\"plan-b\"]\n";
    let folder = path.parent().unwrap();
    let plain = Config::parse(plain, &path, folder, &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        written,
        Config {
            file: written.file.clone(),
            ..plain
        }
    );

    for (section, before) in [
        ("[server]", "[server]"),
        ("[log]", "[log]"),
        ("# [trace]", "[trace]"),
        ("[timeouts]", "[timeouts]"),
        ("[attempts]", "[attempts]"),
        ("[breaker]", "[breaker]"),
        ("[policies]", "[policies]"),
        ("[policy.plan-b]", "[policy.plan-b]"),
        ("# [[key]]", "[[key]]\nname = \"n\""),
        ("[[target]]", "[[target]]\nname = \"n\""),
        ("[[route]]", "[[route]]\nmodel = \"n\""),
    ] {
        let start = text
            .find(&format!("\n{section}"))
            .unwrap_or_else(|| panic!("{section}"));
        let rest = &text[start + 1 + section.len()..];
        let part = &rest[..rest.find("\n\n[").or(rest.find("\n\n# [[")).unwrap_or(rest.len())];
        // Targets are there twice, and a policy's limits are those of all policies.
        let elsewhere = if section == "[policy.plan-b]" { &text } else { part };
        for key in known_keys(before) {
            let is_there =
                |text: &str| text.contains(&format!("\n{key} = ")) || text.contains(&format!("\n# {key} = "));
            let is_mentioned = text.contains(&format!("{key} = "));
            assert!(
                is_there(elsewhere) || is_mentioned && section == "[[target]]",
                "`{key}` of {section} is missing in {}",
                path.display()
            );
        }
    }
}
