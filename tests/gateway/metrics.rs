//! `/metrics`: types, names, labels and units, and that the reference says all of it.

use std::collections::{BTreeMap, BTreeSet};

use super::running::{ASK, ASK_STREAM, Gateway};
use super::script::{Script, error_body};
use super::setup::Setup;
use super::vendor::Vendor;

const REFERENCE: &str = include_str!("../../examples/metrics.md");

/// A metric: its type, labels and help.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

/// The rows of the reference by the names that it gives.
fn reference() -> BTreeMap<String, Row> {
    let rows = REFERENCE.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else {
            panic!("four cells: {line}")
        };
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let row = Row {
            kind: kind.to_owned(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
            help: help.to_owned(),
        };
        (name.trim_matches('`').to_owned(), row)
    };
    rows.map(row).collect()
}

/// What a scrape says of the metrics, by the names that samples have.
fn scraped(text: &str) -> BTreeMap<String, Row> {
    let mut all = BTreeMap::new();
    let mut help = String::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().1.trim_end_matches('.').to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let total = if kind == "counter" { "_total" } else { "" };
            current = format!("{name}{total}");
            let row = Row {
                kind: kind.to_owned(),
                labels: BTreeSet::new(),
                help: help.clone(),
            };
            assert_eq!(all.insert(current.clone(), row), None, "{name} is there twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&current), "{line} is no sample of {current}");
            let Some((_, rest)) = line.split_once('{') else {
                continue;
            };
            let labels = rest.rsplit_once('}').unwrap().0.split("\",");
            let names = labels.map(|label| label.split('=').next().unwrap().to_owned());
            let row: &mut Row = all.get_mut(&current).unwrap();
            row.labels.extend(names.filter(|name| name != "le"));
        }
    }
    all
}

/// A gateway that has counted something of everything that a vendor can do.
fn busy_gateway<'a>(first: &'a Vendor, second: &'a Vendor) -> Gateway {
    let prices = "input_price = 1\noutput_price = 10";
    let setup = Setup::new([first, second]).policy("plan-b").target("second", prices);
    let gateway = setup.start();
    let id = gateway.chat(ASK).header("x-request-id").to_owned();
    // A request is counted before it is logged.
    gateway.request_line(&id);
    let mut stream = gateway.stream(ASK_STREAM);
    stream.rest();
    gateway.request_line(stream.header("x-request-id"));
    gateway
}

fn vendors() -> (Vendor, Vendor) {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    (first, Vendor::well("second"))
}

#[test]
fn the_reference_is_what_a_scrape_shows() {
    let (first, second) = vendors();
    let gateway = busy_gateway(&first, &second);
    let answer = gateway.admin("GET /metrics");
    let (reference, scraped) = (reference(), scraped(answer.text()));
    let names = |rows: &BTreeMap<String, Row>| rows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&reference), names(&scraped));
    for (name, row) in &scraped {
        let expected = &reference[name];
        assert_eq!((&row.kind, &row.help), (&expected.kind, &expected.help), "{name}");
        // A metric that nothing was counted in has no samples, and so no labels.
        let has_samples = !row.labels.is_empty();
        assert!(
            !has_samples || row.labels == expected.labels,
            "{name}: {row:?} {expected:?}"
        );
    }
    let labelled = scraped.values().filter(|row| !row.labels.is_empty()).count();
    assert!(labelled >= 13, "only {labelled} metrics have samples with labels");
}

#[test]
fn what_only_grows_is_a_counter_and_time_is_a_histogram_in_seconds() {
    let (first, second) = vendors();
    let gateway = busy_gateway(&first, &second);
    let asked = gateway.policy("plan-b")["decisions"].as_f64().unwrap();
    assert!(asked >= 4.0, "{asked}: two requests, each with a fallback");
    let of = |name: &str, labels: &str| gateway.metric(name, labels);
    assert_eq!(of("pointsman_policy_decisions_total", "outcome=\"ok\""), asked);
    assert_eq!(of("pointsman_policy_decisions_total", "outcome=\"trap\""), 0.0);
    let seconds = "pointsman_policy_decision_duration_seconds";
    assert_eq!(of(&format!("{seconds}_count"), "plan-b"), asked);
    assert_eq!(of(&format!("{seconds}_bucket"), "le=\"+Inf\""), asked);
    let sum = of(&format!("{seconds}_sum"), "plan-b");
    assert!(sum > 0.0 && sum < 60.0, "{sum} seconds");
    let text = gateway.admin("GET /metrics");
    for old in ["microseconds", "_p50", "_p99", "policy_traps", "token_usage_total"] {
        assert!(!text.text().contains(old), "{old}");
    }
}

#[test]
fn attempts_are_measured_as_the_conventions_want() {
    let (first, second) = vendors();
    let gateway = busy_gateway(&first, &second);
    let duration = "gen_ai_client_operation_duration_seconds_count";
    assert_eq!(gateway.metric(duration, "error_type=\"server-error\""), 2.0);
    assert_eq!(
        gateway.metric(duration, "gen_ai_request_model=\"second-model\",error_type=\"\""),
        2.0
    );
    assert_eq!(
        gateway.metric("gen_ai_client_operation_time_to_first_chunk_seconds_count", "second"),
        1.0
    );
    let tokens = "gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai-compatible\",\
                  gen_ai_request_model=\"second-model\",gen_ai_token_type=\"input\"";
    assert!(gateway.metric("gen_ai_client_token_usage_count", tokens) >= 1.0);
    assert!(gateway.metric("gen_ai_client_token_usage_sum", tokens) >= 3.0);
}

#[test]
fn targets_and_the_configuration_have_gauges() {
    let (first, second) = vendors();
    let mut gateway = busy_gateway(&first, &second);
    gateway.admin_with("PUT /api/switches/first", "off");
    assert_eq!(gateway.metric("pointsman_target_switched_off", "first"), 1.0);
    assert_eq!(gateway.metric("pointsman_target_switched_off", "second"), 0.0);
    assert_eq!(gateway.metric("pointsman_target_cooldown_seconds", "second"), 0.0);
    assert_eq!(gateway.metric("pointsman_config_refused", ""), 0.0);
    gateway.configure(Setup::new([&second]).toml("lisen = 1"));
    let refused = |value: f64| {
        super::running::eventually("the gauge", || {
            (gateway.metric("pointsman_config_refused", "") == value).then_some(())
        });
    };
    refused(1.0);
}
